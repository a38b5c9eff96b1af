"""A dense layer that runs at the rate of the machine."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Linear):
    """``nn.Linear``, computed by oneDNN where that is possible: in float32 on a CPU.

    It is the same function, the sums in another order. PyTorch leaves matrix products on a CPU to MKL, which takes half
    of the vector width of a processor that is not Intel's; oneDNN, which computes the convolutions, takes all of it. It
    has first derivatives in reverse mode alone; for others compute in float64, or under ``torch.func``.

    Shapes:
        Input (N, in_features), output (N, out_features).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not _onednn_can(x, self.weight):
            return super().forward(x)
        return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


def _onednn_can(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(x) is Tensor
        and x.dim() == 2
        and x.shape[0] > 0
        and x.shape[1] == weight.shape[1]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None  # vmap and the like have no rule for its layout.
    )

"""Batch normalisation that only subtracts the mean."""

import torch
import torch.distributed
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError


class MeanOnlyBatchNorm(nn.Module):
    r"""Mean-only batch normalisation (Salimans & Kingma, NIPS 2016):

    .. math:: y = \gamma \, (x - \mu) + \beta

    with μ the mean per channel over batch and positions, in evaluation the running mean. As in the authors' code, it
    has the scale γ and goes without weight normalisation, with which that paper combines it. Inputs and outputs have
    the shape (N, C) or (N, C, H, W). ``momentum`` is the share of the newest batch in the running mean. With
    ``synchronised``, μ is taken over the batches of all processes of ``torch.distributed``, which have one size.
    """

    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.synchronised = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.numel()
        if x.dim() not in (2, 4) or x.shape[1] != channels:
            raise InvalidValueError(f"expected shape (N, {channels}) or (N, {channels}, H, W), got {tuple(x.shape)}")
        mean = self.running_mean
        if self.training:
            mean = x.mean(dim=[0, *range(2, x.dim())], dtype=self.weight.dtype)
            if self.synchronised:
                mean = _MeanOverProcesses.apply(mean)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.num_batches_tracked.add_(1)
        # One pass over x: γ x + (β - γ μ).
        per_channel = (1, channels, *(1,) * (x.dim() - 2))
        shift = (self.bias - self.weight * mean).to(x.dtype).view(per_channel)
        return torch.addcmul(shift, self.weight.to(x.dtype).view(per_channel), x)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, momentum={self.momentum}"


class _MeanOverProcesses(torch.autograd.Function):
    """Mean of a tensor over all processes. The loss whose gradient is taken is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, mean: Tensor) -> Tensor:
        total = mean.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _MeanOverProcesses.forward(ctx, gradient)

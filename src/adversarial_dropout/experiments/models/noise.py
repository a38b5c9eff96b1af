"""Noise that a network adds to its input and its activations in training."""

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError


class GaussianNoise(nn.Module):
    """Add noise from N(0, σ²) in training, with ``in_evaluation`` also in evaluation, as the authors' code does."""

    def __init__(self, sigma: float, *, in_evaluation: bool = False) -> None:
        super().__init__()
        if not 0 <= sigma < float("inf"):
            raise InvalidValueError(f"expected sigma to be finite, 0 or more, got {sigma}")
        self.sigma = sigma
        self.in_evaluation = in_evaluation

    def forward(self, x: Tensor) -> Tensor:
        if self.sigma == 0 or not (self.training or self.in_evaluation):
            return x
        return x + self.sigma * torch.randn_like(x)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}" + (", in_evaluation=True" if self.in_evaluation else "")


class Dropout(nn.Dropout):
    """``nn.Dropout`` with other bits, drawn in a quarter of the time on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return x
        if self.p == 1:
            return x * 0
        drawn = torch.rand_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        kept = drawn.add_(1 - self.p).floor_()  # 1 where drawn ≥ p. (A comparison has no rule for vmap.)
        return x * kept.div_(1 - self.p).to(x.dtype)

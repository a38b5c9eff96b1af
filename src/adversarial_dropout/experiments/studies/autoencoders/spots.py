"""The spot around the strongest weight of a filter: its share of the filter, and its neighbourhood."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError

REACH = 2
"""Pixels from the strongest weight to the edge of its spot: the spot has 5 × 5 pixels."""
RING = 5
"""The same for its neighbourhood: 11 × 11 pixels without the spot."""
LOCALISED = 0.25
"""Share of the squared weight in the spot that makes a filter localised; noise has 0.03 on 28 × 28 pixels."""


@dataclass(frozen=True, eq=False)
class Spots:
    """The spot of each of H filters: the 5 × 5 pixels around its strongest weight, of whatever sign."""

    share: Tensor  # Share of the filter's squared weight in the spot, shape (H,).
    rest: Tensor  # Root mean square of the weights outside the spot, shape (H,).
    neighbourhood: Tensor  # Mean size of the weights in the ring around it, over that of all outside it, shape (H,).

    @property
    def localised(self) -> Tensor:
        """Which filters are localised, bool, shape (H,)."""
        return self.share >= LOCALISED


def spots(filters: Tensor, lit: Tensor) -> Spots:
    """Find the spots of filters of shape (H, C, height, width).

    Only the ``lit`` pixels count, bool, shape (height, width): the others keep their initial weights. The size of a
    pixel's weight is the root of its sum of squares over the channels.
    """
    if filters.dim() != 4 or lit.shape != filters.shape[2:] or not lit.any():
        raise InvalidValueError(
            f"expected filters of shape (H, C, height, width) and the pixels that count, one or more, of shape "
            f"(height, width), got {tuple(filters.shape)} and {int(lit.sum())} of {tuple(lit.shape)}"
        )
    height, width = lit.shape
    sizes = filters.double().square().sum(dim=1).sqrt() * lit
    peak = sizes.flatten(1).argmax(dim=1)
    rows = (torch.arange(height) - (peak // width)[:, None]).abs()
    columns = (torch.arange(width) - (peak % width)[:, None]).abs()
    distance = torch.maximum(rows[:, :, None], columns[:, None, :])
    inside, outside = lit & (distance <= REACH), lit & (distance > REACH)
    ring = outside & (distance <= RING)
    squares = sizes.square()
    whole = squares.sum(dim=(1, 2))
    return Spots(
        share=_over((squares * inside).sum(dim=(1, 2)), whole),
        rest=_mean(squares, outside).sqrt(),
        neighbourhood=_over(_mean(sizes, ring), _mean(sizes, outside)),
    )


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp(min=1)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, 0 where ``whole`` is 0."""
    return part / whole.where(whole > 0, torch.ones_like(whole))

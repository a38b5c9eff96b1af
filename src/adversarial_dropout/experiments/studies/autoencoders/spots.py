"""Where a filter has its strongest weight, how much of the filter lies there, and what is around."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError

REACH = 2
"""A spot reaches so many pixels from the strongest weight, up, down and to the sides: 5 × 5 pixels."""
RING = 5
"""Its neighbourhood reaches so far: 11 × 11 pixels without the spot."""
LOCALISED = 0.25
"""Share of the squared weight from which a spot makes a filter localised; noise has 0.03 there on 28 × 28 pixels."""


@dataclass(frozen=True, eq=False)
class Spots:
    """The spot of each filter: the 5 × 5 pixels around its strongest weight, of whatever sign.

    Attributes:
        share: Of the filter's squared weight, how much lies in the spot, in [0, 1], shape (H,).
        rest: Root mean square of the weights outside the spot, shape (H,).
        neighbourhood: Mean size of the weights in the ring around the spot over that of all weights outside the spot,
            shape (H,); 1: the neighbourhood is as the rest, 0: it is not used.
    """

    share: Tensor
    rest: Tensor
    neighbourhood: Tensor

    @property
    def localised(self) -> Tensor:
        """Which filters are localised, bool, shape (H,)."""
        return self.share >= LOCALISED


def spots(filters: Tensor, lit: Tensor) -> Spots:
    """Find the spot of each filter.

    Args:
        filters: Shape (H, C, height, width), floating; the size of a pixel's weight is the root of its sum of squares
            over the channels.
        lit: Which pixels count, bool, shape (height, width): the weights of a pixel that is 0 on every image are those
            of the initialisation.

    Raises:
        InvalidValueError: the shapes do not fit, or no pixel counts.
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
    """Their quotient, 0 where the whole is 0."""
    return part / whole.where(whole > 0, torch.ones_like(whole))

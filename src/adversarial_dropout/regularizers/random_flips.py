"""Random flips in the place of the searched ones: what a search is compared with."""

import math

import torch
from torch import Tensor

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.regularizers.model_io import Inputs
from adversarial_dropout.regularizers.search import Search


def random_flips(flips: Tensor, units: int, generator: torch.Generator | None = None) -> Tensor:
    """For each example that number of units, drawn at random without replacement.

    Args:
        flips: Number of flips of each example, shape (N,), 0 to ``units``.
        units: Units of an example.
        generator: Random number generator on the device of ``flips``; the default one if ``None``.

    Returns:
        Bool tensor of shape (N, units), ``True`` = flipped.
    """
    drawn = torch.rand(len(flips), units, device=flips.device, generator=generator)
    return drawn.argsort(dim=1).argsort(dim=1) < flips.unsqueeze(1)


class RandomFlips(Search):
    """A search whose masks have random flips: for each example and layer, as many as the search would make.

    The search itself runs too, so a step costs as much as one with the masks found. The flips are drawn from generators
    that come from the same seed as those of the base masks, so the other random numbers of a step are unchanged.
    """

    streams = 2

    def find(self, h: Inputs, target: Tensor, divergence: Divergence) -> None:
        super().find(h, target, divergence)
        for index, masks in enumerate(self.masks):
            if masks.found is None or masks.base is None:
                continue
            batch_dim = masks.layer.batch_dim
            base, found = (mask.movedim(batch_dim, 0) for mask in (masks.base, masks.found))
            units = math.prod(base.shape[1:])
            flips = (base ^ found).reshape(len(base), units).sum(dim=1)
            generator = self._generator(len(self.masks) + index, base.device)
            flipped = random_flips(flips, units, generator).view(base.shape)
            masks.found = (base ^ flipped).movedim(0, batch_dim)

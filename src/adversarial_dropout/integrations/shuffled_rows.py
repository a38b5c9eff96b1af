"""Rows of a data set in an endless shuffled order."""

from functools import lru_cache
from typing import Any

import torch

from adversarial_dropout.errors import InvalidValueError


class ShuffledRows:
    """The rows of a data set in one random order after the other, without end.

    A row depends on the seed and its place alone, so a training that is resumed goes on where it was.

    Args:
        dataset: Has ``len`` and ``dataset[index]``.
        seed: Round r is shuffled with ``seed + r``.

    Raises:
        InvalidValueError: the data set has no length, or no row.

    Example:
        >>> ShuffledRows(range(3), seed=0)[5:8]  # the last row of round 1, two of round 2
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if not hasattr(dataset, "__len__") or not len(dataset):
            raise InvalidValueError(
                f"expected unlabelled rows with a length above 0, got {type(dataset).__name__}; use a data set with "
                f"__len__ and __getitem__"
            )
        self.dataset = dataset
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._order_of_round)

    def __getitem__(self, places: slice) -> list[Any]:
        length = len(self.dataset)
        return [self.dataset[self._order(p // length)[p % length]] for p in range(places.start, places.stop)]

    def _order_of_round(self, number: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + number)
        order: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return order

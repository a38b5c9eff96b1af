"""Generators of base masks that outlive a step, for steps that are recorded once and then replayed."""

import contextlib
from collections.abc import Iterator

import torch

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.regularizers.search import draw_seed, generators_of_a_search


class CaptureError(AdversarialDropoutError, RuntimeError):
    """A step cannot be recorded as a CUDA graph."""


class MaskStreams:
    """Generators for the base masks of a step that is recorded once and then replayed.

    A search draws a seed and creates a generator from it, which a recording would freeze. Under :meth:`serving`, the
    first search of a step takes the first generators of this object, and so on. They can be registered with a CUDA
    graph, and :meth:`reseed` draws for them what the searches would have drawn.

    Args:
        device: Device of the masks.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._searches: list[list[torch.Generator]] = []
        self._next = 0
        self._recorded = False

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators of all searches."""
        return [generator for search in self._searches for generator in search]

    @contextlib.contextmanager
    def serving(self, *, recorded: bool = False) -> Iterator[None]:
        """Run one step whose searches take their generators from this object.

        Args:
            recorded: Whether the step is a recording: :meth:`reseed` seeds its generators, and searches draw nothing.
                Otherwise each search draws its seed, as it does without streams.
        """
        self._next, self._recorded = 0, recorded
        token = generators_of_a_search.set(self._take)
        try:
            yield
        finally:
            generators_of_a_search.reset(token)

    def reseed(self) -> None:
        """Seed the generators for the next replay, by one draw for each search."""
        for search in self._searches:
            _seed(search)

    def _take(self, layers: int) -> list[torch.Generator]:
        """The generators of the search that begins, one for each layer."""
        if self._next == len(self._searches) and not self._recorded:
            self._searches.append([torch.Generator(self._device) for _ in range(layers)])
        if self._next == len(self._searches) or len(self._searches[self._next]) != layers:
            raise CaptureError(
                "expected each step to make the same searches, got one that the steps before the recording did not "
                "have; run the step without a recording"
            )
        taken = self._searches[self._next]
        self._next += 1
        if not self._recorded:
            _seed(taken)
        return taken


def _seed(generators: list[torch.Generator]) -> None:
    seed = draw_seed()
    for index, generator in enumerate(generators):
        generator.manual_seed(seed + index)

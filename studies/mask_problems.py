"""Judge searches for the worst mask on small layers, where the worst mask can be found by trying all of them.

Part of search_quality.py; not a script.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, check_choice, check_positive
from adversarial_dropout.masks import adversarial_mask

MOST_MASKS = 2**18
RANDOM_MASKS = 20
EXACT = 1 - 1e-9
"""The worst mask counts as found from this share on."""
_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class MaskProblem:
    r"""The inner problem of eqs. 4 and 5 (Park et al., AAAI 2018) for N examples with H units each:

    .. math:: \max_{\|\varepsilon - \varepsilon^s\| \le k} D[t,\; f(s \cdot h \odot \varepsilon)]

    Attributes:
        upper: f, from masked activations (M, H) to outputs (M, ...), row by row.
        h: Activations, floating, shape (N, H).
        base: Base masks εˢ, bool, shape (N, H).
        target: t, what the divergence compares with: logits (N, C), or labels (N,).
        divergence: D, one value per row.
        max_flips: k, counted in flips.
        scale: s, what follows the mask: 1 / (1 - p) for ``rescale="inverted"``.

    Raises:
        InvalidValueError, InvalidTypeError: a shape, dtype or number that differs from the above.
    """

    upper: Callable[[Tensor], Tensor]
    h: Tensor
    base: Tensor
    target: Tensor
    divergence: Divergence
    max_flips: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.h.dim() != 2 or not len(self.h):
            raise InvalidValueError(
                f"expected h to have shape (N, H) with N > 0, got {tuple(self.h.shape)}; use h.flatten(1)"
            )
        if not self.h.is_floating_point() or self.base.dtype != torch.bool:
            raise InvalidTypeError(
                f"expected floating h and a bool base, got {self.h.dtype} and {self.base.dtype}; use base.bool()"
            )
        if self.base.shape != self.h.shape or self.target.shape[:1] != self.h.shape[:1]:
            raise InvalidValueError(
                f"expected base of shape {tuple(self.h.shape)} and a target with {len(self.h)} rows, as h has, got "
                f"{tuple(self.base.shape)} and {tuple(self.target.shape)}; give one mask and one target per example"
            )
        if not 0 <= self.max_flips <= self.h.shape[1]:
            raise InvalidValueError(
                f"expected max_flips from 0 to {self.h.shape[1]}, the number of units, got {self.max_flips}; "
                f"flip_budget(delta, units) gives one"
            )
        check_positive("scale", self.scale)

    def values(self, masks: Tensor) -> Tensor:
        """D under ``masks`` (N, H), shape (N,)."""
        with torch.no_grad():
            return self.divergence(self.target, self.upper(self.scale * self.h * masks))

    def values_of(self, example: int, masks: Tensor) -> Tensor:
        """D of one example under each of ``masks`` (M, H), shape (M,)."""
        with torch.no_grad():
            target = self.target[example].expand(len(masks), *self.target.shape[1:])
            return self.divergence(target, self.upper(self.scale * self.h[example] * masks))

    def jacobian(self, at: Tensor, *, rescaled: bool = True) -> Tensor:
        """∂D/∂ε at the masks ``at``, with or without the factor s, shape (N, H)."""
        with torch.enable_grad():
            mask = at.to(self.h.dtype, copy=True).requires_grad_()
            values = self.divergence(self.target, self.upper((self.scale if rescaled else 1.0) * self.h * mask))
            return torch.autograd.grad(values.sum(), mask)[0]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The masks that a search found, and what the search cost.

    Attributes:
        masks: Bool, shape (N, H).
        gradients: Forward-backward passes of the upper part.
        forwards: Other forward passes, without the adversarial pass that follows every search.
    """

    masks: Tensor
    gradients: int = 0
    forwards: int = 0


SearchFunction = Callable[[MaskProblem], SearchResult]


def worst_masks(problem: MaskProblem) -> Tensor:
    """The true maximum, by trying every mask within k flips of εˢ. Of equal masks, the one with the fewest flips wins.

    Returns:
        Masks, bool, shape (N, H).

    Raises:
        InvalidValueError: more than ``MOST_MASKS`` masks are within k flips.
    """
    units, k = problem.h.shape[1], problem.max_flips
    count = sum(math.comb(units, flips) for flips in range(k + 1))
    if count > MOST_MASKS:
        raise InvalidValueError(
            f"expected at most {MOST_MASKS:,} masks to try, got {count:,} within {k} flips of {units} units; take a "
            f"smaller layer or fewer flips"
        )
    flips = _flips_within(units, k).to(problem.h.device)
    worst = []
    for example, base in enumerate(problem.base):
        values = torch.cat([problem.values_of(example, base ^ some) for some in torch.split(flips, _AT_ONCE)])
        worst.append(base ^ flips[int(values.argmax())])
    return torch.stack(worst)


def _flips_within(units: int, most: int) -> Tensor:
    """All sets of at most ``most`` units, the smallest first; bool, one row per set."""
    blocks = [torch.zeros(1, units, dtype=torch.bool)]
    for size in range(1, most + 1):
        chosen = torch.tensor(list(itertools.combinations(range(units), size)))
        blocks.append(torch.zeros(len(chosen), units, dtype=torch.bool).scatter_(1, chosen, True))
    return torch.cat(blocks)


@dataclass(frozen=True)
class Point:
    """Where D is linearised: at a mask, with or without the factor s.

    Attributes:
        mask: ``"ones"``, ``"base"``, or ``"found"``, the mask that the previous step found.
        rescaled: Whether J has the factor s, as the true gradient has.
    """

    mask: Literal["ones", "base", "found"]
    rescaled: bool

    def __post_init__(self) -> None:
        check_choice("mask", self.mask, ("ones", "base", "found"))


ALGORITHM_1 = Point("ones", rescaled=False)
AT_FOUND = Point("found", rescaled=True)


def linearised(
    problem: MaskProblem, *, points: Sequence[Point] = (ALGORITHM_1,), keep: Literal["last", "best"] = "last"
) -> SearchResult:
    r"""Linearise D at a point, flip the k units of εˢ that gain most, and repeat at the next point.

    With a single point, ε⁰ = 1 without rescaling, this is Algorithm 1. A step at the mask found is a step of the
    conditional gradient method: :math:`\varepsilon_{t+1} = \arg\max_\varepsilon J(\varepsilon_t) \cdot \varepsilon`
    within k flips of εˢ. With rescaling it never lowers a D that is convex in the mask: ``cross_entropy`` and
    ``kl_divergence`` behind one linear layer.

    Args:
        problem: What is maximised.
        points: Where D is linearised, one gradient each.
        keep: Which of the masks to return: the last, or for each example the one with the largest D.

    Raises:
        InvalidValueError: no points, ``"found"`` as the first of them, or another ``keep``.
    """
    check_choice("keep", keep, ("last", "best"))
    if not points or points[0].mask == "found":
        raise InvalidValueError(f'expected points that begin at "ones" or "base", got {list(points)}')
    found = [problem.base]
    for point in points:
        at = {"ones": torch.ones_like(problem.base), "base": problem.base, "found": found[-1]}[point.mask]
        jacobian = problem.jacobian(at, rescaled=point.rescaled)
        found.append(adversarial_mask(problem.base, jacobian, max_flips=problem.max_flips))
    if keep == "last":
        return SearchResult(found[-1], gradients=len(points))
    # D at a mask found comes with the true gradient there.
    known = sum(point == AT_FOUND for point in points)
    return SearchResult(_best(problem, found[1:]), gradients=len(points), forwards=len(points) - known)


def greedy(problem: MaskProblem) -> SearchResult:
    """One flip at a time with k gradients: first at ε⁰ = 1, then at the current mask. No unit is flipped twice."""
    mask = problem.base
    for step in range(problem.max_flips):
        at = mask if step else torch.ones_like(mask)
        jacobian = problem.jacobian(at, rescaled=step > 0)
        mask = adversarial_mask(mask, jacobian * (mask == problem.base), max_flips=1)
    return SearchResult(mask, gradients=problem.max_flips)


def random_flips(problem: MaskProblem, *, masks: int = RANDOM_MASKS, seed: int = 0) -> SearchResult:
    """The best of ``masks`` masks with k random flips each."""
    generator = torch.Generator(problem.h.device).manual_seed(seed)
    drawn = []
    for _ in range(masks):
        gain = 1 - torch.rand(problem.h.shape, generator=generator, device=problem.h.device)  # In (0, 1].
        drawn.append(adversarial_mask(problem.base, gain.where(~problem.base, -gain), max_flips=problem.max_flips))
    return SearchResult(_best(problem, drawn), forwards=masks)


def no_flip(problem: MaskProblem) -> SearchResult:
    """The base masks themselves."""
    return SearchResult(problem.base)


def _best(problem: MaskProblem, masks: list[Tensor]) -> Tensor:
    """For each example the first mask with the largest D."""
    values = torch.stack([problem.values(mask) for mask in masks])
    rows = torch.arange(values.shape[1], device=values.device)
    return torch.stack(masks)[values.argmax(dim=0), rows]


_BASE = Point("base", rescaled=False)
SEARCHES: Mapping[str, SearchFunction] = {
    "no flip": no_flip,
    f"best of {RANDOM_MASKS} random": random_flips,
    "Algorithm 1": linearised,
    "at 1, rescaled": partial(linearised, points=(Point("ones", rescaled=True),)),
    "at εˢ, rescaled": partial(linearised, points=(Point("base", rescaled=True),)),
    "at εˢ": partial(linearised, points=(_BASE,)),
    "Algorithm 1, once more": partial(linearised, points=(ALGORITHM_1, AT_FOUND)),
    "Algorithm 1, twice more": partial(linearised, points=(ALGORITHM_1, AT_FOUND, AT_FOUND)),
    "Algorithm 1, 3 times more": partial(linearised, points=(ALGORITHM_1, AT_FOUND, AT_FOUND, AT_FOUND)),
    "Algorithm 1, once more, best": partial(linearised, points=(ALGORITHM_1, AT_FOUND), keep="best"),
    "Algorithm 1, twice more, best": partial(linearised, points=(ALGORITHM_1, AT_FOUND, AT_FOUND), keep="best"),
    "Algorithm 1, 3 times more, best": partial(
        linearised, points=(ALGORITHM_1, AT_FOUND, AT_FOUND, AT_FOUND), keep="best"
    ),
    "Algorithm 1, once more, not rescaled": partial(linearised, points=(ALGORITHM_1, Point("found", rescaled=False))),
    "at εˢ, once more": partial(linearised, points=(_BASE, AT_FOUND)),
    "at εˢ, twice more": partial(linearised, points=(_BASE, AT_FOUND, AT_FOUND)),
    "at εˢ, once more, best": partial(linearised, points=(_BASE, AT_FOUND), keep="best"),
    "greedy": greedy,
}
"""Algorithm 1, baselines and other searches. Unless the name says otherwise, J is taken without the factor s at ε⁰ = 1
and at εˢ, and with it at a mask found."""


def compare(
    problem: MaskProblem, searches: Mapping[str, SearchFunction] = SEARCHES, *, exhaustive: bool = True
) -> dict[str, Tensor]:
    """The share of the maximum that each search reaches, D(found) / D(worst).

    Args:
        problem: What is maximised.
        searches: By name.
        exhaustive: Whether to compute the maximum with :func:`worst_masks`. Otherwise the largest D that any of the
            searches finds replaces it, and shares may be too large.

    Returns:
        For each search one value per example, shape (N,); 1 where D is 0 under every mask.

    Raises:
        InvalidValueError: too many masks to try.
    """
    reached = {name: problem.values(search(problem).masks) for name, search in searches.items()}
    most = problem.values(worst_masks(problem)) if exhaustive else torch.stack(list(reached.values())).amax(dim=0)
    return {name: torch.where(most > 0, value / most, 1.0) for name, value in reached.items()}

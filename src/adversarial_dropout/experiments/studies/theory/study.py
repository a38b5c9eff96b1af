"""All that the page on the theory shows, computed: equations, penalties, coefficient paths, distances of masks."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from adversarial_dropout.errors import check_positive
from adversarial_dropout.experiments.studies.theory.distances import Proportion, proportions
from adversarial_dropout.experiments.studies.theory.equations import Deviation, equations, overshoot, random_problems
from adversarial_dropout.experiments.studies.theory.paths import (
    Method,
    Path,
    coefficient_path,
    fit,
    least_delta_of_zero,
)
from adversarial_dropout.experiments.studies.theory.penalties import (
    Activity,
    Dropped,
    Rescaling,
    activity,
    dropped,
    rescalings,
)

# One layer for eqs. 17 to 21: 64 masks of 6 units.
_LAYER = {"units": 6, "below": 3, "above": 2}
_FEW, _MANY = 1, 5
_RANDOM = (1000, 10)
_SPARSE = 0.0125
"""A δ at which adversarial training makes some of the coefficients 0."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything the page shows.

    Attributes:
        seed: Seed of the random problems.
        problems: Number of random problems.
        factor: What a feature is multiplied by.
        deviations: One per equation and condition.
        rescalings: What scaling does to the penalties, on the diabetes data at the coefficients of least squares.
        activities: Share of the pairs of example and feature with a penalty; one per data and coefficients.
        dropped: How often the printed eq. 14 drops more than k; one per data, coefficients and k.
        proportions: Quotients of the distances of two masks.
        overshoot: Share of the random examples where the linearised mask is not the worst one.
        features: Names of the D features of the diabetes data.
        paths: One per method.
    """

    seed: int
    problems: int
    factor: float
    deviations: tuple[Deviation, ...]
    rescalings: tuple[Rescaling, ...]
    activities: tuple[Activity, ...]
    dropped: tuple[Dropped, ...]
    proportions: tuple[Proportion, ...]
    overshoot: float
    features: tuple[str, ...]
    paths: tuple[Path, ...]


def study(
    *,
    problems: int = 200,
    seed: int = 0,
    levels: int = 25,
    factor: float = 10.0,
    deltas: Sequence[float] = (),
    flips: Sequence[int] = (),
) -> Study:
    """Compute everything the page shows; the same settings give the same numbers on the same machine.

    Data: scikit-learn's diabetes data, 442 examples, 10 features, centred and scaled there to unit norm; the target is
    centred here.

    Args:
        problems: Number of random problems for the equations, 1 or more.
        seed: Seed of the random problems.
        levels: Number of δ above 0, 2 or more; k takes all its values.
        factor: What a feature is multiplied by, above 0.
        deltas: Settings of adversarial training, δ ≥ 0; none: from 0 to where all coefficients are 0.
        flips: Settings of adversarial dropout, k in [0, 10]; none: all of them.

    Raises:
        InvalidTypeError, InvalidValueError: A setting is not a number in its range.
    """
    for name, value in (("problems", problems), ("levels - 1", levels - 1), ("factor", factor)):
        check_positive(name, value)
    data = load_diabetes()
    x, y = torch.from_numpy(data.data), torch.from_numpy(data.target - data.target.mean())
    fractions = torch.logspace(-2, 0, levels, dtype=torch.float64)
    grids: dict[Method, Sequence[float]] = {
        "adversarial training": deltas or [0.0, *(fractions * least_delta_of_zero(x, y)).tolist()],
        "adversarial dropout": flips or range(x.shape[1] + 1),
    }
    paths = tuple(coefficient_path(method, x, y, sorted(set(grid))) for method, grid in grids.items())
    diabetes = {
        "least squares": fit("adversarial training", x, y, 0.0),
        f"adversarial training, δ = {_SPARSE:g}": fit("adversarial training", x, y, _SPARSE),
        f"adversarial dropout, k = {_FEW}": fit("adversarial dropout", x, y, _FEW),
    }
    least_squares = diabetes["least squares"]
    return Study(
        seed=seed,
        problems=problems,
        factor=factor,
        deviations=equations(problems=problems, seed=seed),
        rescalings=rescalings(least_squares, x, y, delta=_SPARSE, k=_FEW, factor=factor),
        activities=_activities(diabetes, x, y, seed),
        dropped=_dropped(diabetes, x, y, problems, seed),
        proportions=proportions(**_LAYER),
        overshoot=overshoot(problems=problems, seed=seed),
        features=tuple(data.feature_names),
        paths=paths,
    )


def from_dict(plain: dict[str, Any]) -> Study:
    """The study that ``dataclasses.asdict`` has made plain, and JSON has kept; what else is there is left out."""
    kinds = {
        "deviations": Deviation,
        "rescalings": Rescaling,
        "activities": Activity,
        "dropped": Dropped,
        "proportions": Proportion,
        "paths": Path,
    }
    values = {field.name: plain[field.name] for field in dataclasses.fields(Study)}
    return Study(**values | {name: tuple(kind(**one) for one in plain[name]) for name, kind in kinds.items()})


def _activities(diabetes: dict[str, Tensor], x: Tensor, y: Tensor, seed: int) -> tuple[Activity, ...]:
    """Random data with random coefficients, and the diabetes data with those given."""
    generator = torch.Generator().manual_seed(seed)
    n, d = _RANDOM
    shapes = ((d,), (n, d), (n,))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    flips = (1, 2, _MANY, d)
    return (
        activity(drawn[0], drawn[1], drawn[2], flips=flips, data="random", coefficients="random"),
        *(activity(w, x, y, flips=flips, data="diabetes", coefficients=name) for name, w in diabetes.items()),
    )


def _dropped(diabetes: dict[str, Tensor], x: Tensor, y: Tensor, problems: int, seed: int) -> tuple[Dropped, ...]:
    """Random problems of both kinds, and the diabetes data with the coefficients given."""
    kinds = {"random, normal numbers": False, "random, whole numbers from −2 to 2": True}
    drawn = {
        data: [(w, x, y, k) for w, x, y, _, k in random_problems(problems, seed, whole=whole)]
        for data, whole in kinds.items()
    }
    return (
        *(dropped(given, data=data) for data, given in drawn.items()),
        *(
            dropped([(w, x, y, k)], data=f"diabetes, {name}", flips=k)
            for name, w in diabetes.items()
            for k in (_FEW, _MANY)
        ),
    )

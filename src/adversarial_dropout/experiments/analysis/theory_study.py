"""All that the page on the theory shows, computed: equations on random problems, paths and the scale of a feature."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from adversarial_dropout.errors import check_positive
from adversarial_dropout.experiments.analysis.equations import Deviation, equations, overshoot
from adversarial_dropout.experiments.analysis.paths import (
    SETTINGS,
    Method,
    Path,
    coefficient_path,
    fit,
    least_delta_of_zero,
)


@dataclass(frozen=True, kw_only=True)
class ScaleChange:
    """What multiplying one feature by a factor does to a method's predictions.

    Attributes:
        method: One of :data:`~adversarial_dropout.experiments.analysis.paths.METHODS`.
        setting: δ, k or the penalty.
        r_squared: On the training data, before.
        change: Largest change of a prediction over all examples and all choices of the feature, in standard deviations
            of the target.
        feature: The feature with that change.
    """

    method: Method
    setting: float
    r_squared: float
    change: float
    feature: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything the page shows.

    Attributes:
        seed: Seed of the random problems.
        problems: Number of random problems.
        factor: What a feature is multiplied by.
        deviations: One per equation and condition.
        overshoot: Share of the random examples where the linearised mask is not the worst one.
        features: Names of the D features of the diabetes data.
        paths: One per method.
        scale: One per method.
    """

    seed: int
    problems: int
    factor: float
    deviations: tuple[Deviation, ...]
    overshoot: float
    features: tuple[str, ...]
    paths: tuple[Path, ...]
    scale: tuple[ScaleChange, ...]


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
        levels: Settings of each continuous method, 2 or more; k takes all its values.
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
    features = tuple(data.feature_names)
    grids = _grids(x, y, levels)
    given: dict[Method, Sequence[float]] = {"adversarial training": deltas, "adversarial dropout": flips}
    paths = tuple(
        coefficient_path(method, x, y, sorted(set(given.get(method) or grid))) for method, grid in grids.items()
    )
    return Study(
        seed=seed,
        problems=problems,
        factor=factor,
        deviations=equations(problems=problems, seed=seed),
        overshoot=overshoot(problems=problems, seed=seed),
        features=features,
        paths=paths,
        scale=tuple(_rescaled(path, x, y, features, factor) for path in _alike(paths)),
    )


def from_dict(plain: dict[str, Any]) -> Study:
    """The study that ``dataclasses.asdict`` has made plain, and JSON has kept; what else is there is left out."""
    kinds = {"deviations": Deviation, "paths": Path, "scale": ScaleChange}
    values = {field.name: plain[field.name] for field in dataclasses.fields(Study)}
    return Study(**values | {name: tuple(kind(**one) for one in plain[name]) for name, kind in kinds.items()})


Titled = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""A table as text: title, header, lines."""


def tables(found: Study) -> list[Titled]:
    """What was found, as text: the equations, the paths, the scale of a feature."""
    return [
        (
            f"both sides of each equation on {found.problems} random problems: largest relative deviation",
            ("eq.", "what is compared", "equal", "values", "gradients"),
            [
                (
                    one.equation,
                    one.claim,
                    _verdict(one),
                    f"{one.value:.1e}",
                    "" if one.gradient is None else f"{one.gradient:.1e}",
                )
                for one in found.deviations
            ],
        ),
        (
            "linear regression on the diabetes data: R² in training, coefficients that are 0, largest coefficient",
            ("method", "setting", "R²", "zeros", "largest"),
            [_path_line(path, level) for path in found.paths for level in _shown(path)],
        ),
        (
            f"largest change of a prediction when one feature is multiplied by {found.factor:g}, in std of y",
            ("method", "setting", "R²", "change", "feature"),
            [
                (
                    one.method,
                    f"{SETTINGS[one.method]} = {one.setting:.3g}",
                    f"{one.r_squared:.3f}",
                    f"{one.change:.1e}",
                    one.feature,
                )
                for one in found.scale
            ],
        ),
    ]


_SHOWN_LEVELS = 6
_EQUAL = 1e-10


def _verdict(one: Deviation) -> str:
    """Whether the sides were equal, and whether they should have been."""
    equal = max(one.value, one.gradient or 0.0) < _EQUAL
    expected = ", need not be" if equal and not one.holds else "" if equal == one.holds else ": UNEXPECTED"
    return f"{'yes' if equal else 'no'}{expected}"


def _shown(path: Path) -> list[int]:
    """All levels of k, and some of the others."""
    last = len(path.grid) - 1
    if SETTINGS[path.method] == "k" or last < _SHOWN_LEVELS:
        return list(range(last + 1))
    return [round(last * step / (_SHOWN_LEVELS - 1)) for step in range(_SHOWN_LEVELS)]


def _path_line(path: Path, level: int) -> tuple[str, ...]:
    w = path.coefficients[level]
    return (
        path.method,
        f"{SETTINGS[path.method]} = {path.grid[level]:.3g}",
        f"{path.r_squared[level]:.3f}",
        f"{sum(value == 0 for value in w)} of {len(w)}",
        f"{max(map(abs, w)):.0f}",
    )


def _grids(x: Tensor, y: Tensor, levels: int) -> dict[Method, list[float]]:
    """δ and lasso's penalty up to where all coefficients are 0, k from 0 to D, ridge's over five decades."""
    fractions = torch.logspace(-2, 0, levels, dtype=torch.float64)
    return {
        "adversarial training": [0.0, *(fractions * least_delta_of_zero(x, y)).tolist()],
        "adversarial dropout": list(range(x.shape[1] + 1)),
        "ridge": torch.logspace(-3, 2, levels, dtype=torch.float64).tolist(),
        "lasso": (fractions * (x.T @ y).abs().max() / len(y)).tolist(),
    }


def _alike(paths: tuple[Path, ...]) -> Iterator[tuple[Method, float, float]]:
    """A setting of each method that explains about as much as adversarial dropout does with its second k, mostly 1."""
    aim = next(path.r_squared[:2][-1] for path in paths if SETTINGS[path.method] == "k")
    for path in paths:
        chosen = min(range(len(path.grid)), key=lambda level: abs(path.r_squared[level] - aim))
        yield path.method, path.grid[chosen], path.r_squared[chosen]


def _rescaled(
    chosen: tuple[Method, float, float], x: Tensor, y: Tensor, features: tuple[str, ...], factor: float
) -> ScaleChange:
    method, setting, r_squared = chosen
    before = x @ fit(method, x, y, setting)
    changes = []
    for feature in range(x.shape[1]):
        scaled = x.clone()
        scaled[:, feature] *= factor
        changes.append(float((scaled @ fit(method, scaled, y, setting) - before).abs().max() / y.std()))
    change = max(changes)
    return ScaleChange(
        method=method, setting=setting, r_squared=r_squared, change=change, feature=features[changes.index(change)]
    )

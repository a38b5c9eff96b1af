"""Coefficient paths of linear regression: how adversarial training, adversarial dropout, ridge and lasso shrink.

No intercept: centre x and y first, and standardise x where a method depends on its scale. Source of the objectives:
eqs. 12 to 16 of Park et al., AAAI 2018, each with its exact worst case, which is convex; the linearised eq. 15 is not
even continuous where a residual crosses 0, so it need not have a minimum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from sklearn.linear_model import Lasso, Ridge
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, check_choice, check_positive
from adversarial_dropout.experiments.analysis.theory import squared_error, worst_masks, worst_perturbation

Method = Literal["adversarial training", "adversarial dropout", "ridge", "lasso"]
METHODS: tuple[Method, ...] = get_args(Method)
SETTINGS: dict[Method, str] = {
    "adversarial training": "δ",
    "adversarial dropout": "k",
    "ridge": "penalty",
    "lasso": "penalty",
}
"""What the grid of each method is over."""

_TOLERANCE = 1e-10
_ROUNDING = 1e-15
_STEPS = 100


@dataclass(frozen=True, eq=False, kw_only=True)
class Minimum:
    """A minimum of a worst-case objective, with a proof of how near it is.

    Attributes:
        coefficients: w, shape (D,); exactly 0 where 0 is no worse.
        objective: The objective at w.
        gap: No w has an objective lower than ``objective`` − ``gap``.
    """

    coefficients: Tensor
    objective: float
    gap: float


@dataclass(frozen=True, kw_only=True)
class Path:
    """The coefficients of one method over its setting.

    Attributes:
        method: One of :data:`METHODS`.
        grid: Values of its setting (:data:`SETTINGS`).
        coefficients: w at each, len(grid) tuples of D numbers.
        r_squared: Share of Σ y² that the model explains on its training data, at each.
    """

    method: Method
    grid: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    r_squared: tuple[float, ...]


def least_delta_of_zero(x: Tensor, y: Tensor) -> float:
    """The least δ from which adversarial training gives w = 0: ‖xᵀy‖_∞ / ‖y‖₁.

    Going from w = 0 in direction d changes Σ_i (abs(r_i) + δ‖w‖₁)² at the rate 2 (δ ‖y‖₁ ‖d‖₁ − yᵀx d), which is ≥ 0
    for every d from this δ on.

    Args and Raises: as :func:`fit`.
    """
    _check_data(x, y)
    return float((x.T @ y).abs().max() / y.abs().sum())


def fit_adversarial_training(x: Tensor, y: Tensor, *, delta: float) -> Minimum:
    """Minimise Σ_i (abs(y_i − x_i·w) + δ‖w‖₁)² over w: eq. 12 with its worst perturbation.

    Args:
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.
        delta: Size δ ≥ 0 of the perturbation, in the unit of the features.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`fit`.
    """
    return _minimise(lambda w: x + worst_perturbation(w, x, y, delta=delta), x, y)


def fit_adversarial_dropout(x: Tensor, y: Tensor, *, k: int) -> Minimum:
    """Minimise Σ_i max over ε_i of (y_i − (ε_i ⊙ x_i)·w)² over w, where ε_i drops at most k features (eqs. 14, 15).

    w and x occur as x_ij w_j alone, so the scale of a feature does not matter: the predictions are the same. At k = D
    all features can be dropped, which makes w = 0 a minimum.

    Args:
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.
        k: Largest number of features that the adversary drops of an example, between 0 and D.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`fit`.
    """
    return _minimise(lambda w: worst_masks(w, x, y, k=k) * x, x, y)


def fit(method: Method, x: Tensor, y: Tensor, setting: float) -> Tensor:
    """Coefficients of one method, shape (D,).

    Args:
        method: One of :data:`METHODS`. Ridge and lasso are scikit-learn's, without intercept.
        x: Features, shape (N, D), float64, with linearly independent columns.
        y: Targets, shape (N,), float64, not constant.
        setting: δ, k, or scikit-learn's ``alpha`` > 0.

    Raises:
        InvalidTypeError: A dtype other than those above; k is not a whole number.
        InvalidValueError: An unknown method, shapes that do not fit, NaN, a feature that is always 0, columns that
            depend on each other, a constant target, or a setting out of its range.
    """
    check_choice("method", method, METHODS)
    if method == "adversarial training":
        return fit_adversarial_training(x, y, delta=setting).coefficients
    if method == "adversarial dropout":
        return fit_adversarial_dropout(x, y, k=setting).coefficients  # type: ignore[arg-type]  # checked there
    _check_data(x, y)
    check_positive("the penalty", setting)
    model = (
        Ridge(setting, fit_intercept=False)
        if method == "ridge"
        else Lasso(setting, fit_intercept=False, tol=1e-8, max_iter=100_000)
    )
    return torch.from_numpy(model.fit(x.detach().numpy(), y.detach().numpy()).coef_)


def coefficient_path(method: Method, x: Tensor, y: Tensor, grid: Sequence[float]) -> Path:
    """Fit one method at each value of its setting.

    Args and Raises: as :func:`fit`; ``grid`` holds values of ``setting``.
    """
    fitted = [fit(method, x, y, setting) for setting in grid]
    return Path(
        method=method,
        grid=tuple(grid),
        coefficients=tuple(tuple(w.tolist()) for w in fitted),
        r_squared=tuple(1 - float(squared_error(w, x, y) / y.square().sum()) for w in fitted),
    )


def cut_ellipsoid(centre: Tensor, shape: Tensor, direction: Tensor, *, depth: float) -> tuple[Tensor, Tensor]:
    """The smallest ellipsoid around a part of one (Bland, Goldfarb, Todd 1981, deep cuts).

    Args:
        centre: c, shape (D,).
        shape: B, shape (D, D), of the ellipsoid {c + B u : ‖u‖ ≤ 1}.
        direction: a, shape (D,), of length 1. The part with a·u ≤ −depth is kept.
        depth: Where it is cut, from 0 (through the centre) to 1 (where nothing is left).

    Returns:
        Centre and shape of the new ellipsoid.
    """
    d = len(centre)
    step = shape @ direction
    along, sideways = d * (1 - depth) / (d + 1), d * ((1 - depth**2) / max(d * d - 1, 1)) ** 0.5
    return (
        centre - (1 + d * depth) / (d + 1) * step,
        sideways * shape + (along - sideways) * torch.outer(step, direction),
    )


def _minimise(perturbed: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Minimum:
    """Minimise f(w) = l at the worst inputs for w, by the ellipsoid method with deep cuts.

    f is convex with kinks, and −2 x̃ᵀ(y − x̃ w) at its worst inputs x̃ is a subgradient g (Danskin). So what is better
    than w lies where g·(w' − w) ≤ 0: an ellipsoid {w + B u : ‖u‖ ≤ 1} that holds the minimum is cut, and the smallest
    one around the rest is taken. No w' in it has f(w') < f(w) − ‖Bᵀg‖, which is the proof of the gap. The first one
    holds the minimum because f ≥ l.
    """
    _check_data(x, y)
    x, y = x.detach(), y.detach()

    def value_and_slope(w: Tensor) -> tuple[float, Tensor]:
        worst = perturbed(w)
        error = y - worst @ w
        return float(error @ error), -2 * (error @ worst)

    d = x.shape[1]
    q, r = torch.linalg.qr(x)
    centre = torch.linalg.solve_triangular(r, (y @ q).unsqueeze(1), upper=True).squeeze(1)
    zero = torch.zeros_like(centre)
    best, objective = min(((w, value_and_slope(w)[0]) for w in (centre, zero)), key=lambda pair: pair[1])
    lower = float(squared_error(centre, x, y))
    radius = (1 + _TOLERANCE) * max(objective - lower, 0) ** 0.5
    shape = radius * torch.linalg.solve_triangular(r, torch.eye(d).to(x), upper=True)
    enough = _ROUNDING * float(y @ y)
    for _ in range(_STEPS * d * d):
        value, slope = value_and_slope(centre)
        if value < objective:
            best, objective = centre, value
        across = slope @ shape
        width = float(across.norm())
        lower = max(lower, value - width)
        if objective - lower <= _TOLERANCE * objective + enough:
            break
        centre, shape = cut_ellipsoid(centre, shape, across / width, depth=(value - objective) / width)
    for j in best.abs().argsort().tolist():
        sparser = best.clone()
        sparser[j] = 0
        value, _ = value_and_slope(sparser)
        if value <= objective:
            best, objective = sparser, value
    return Minimum(coefficients=best, objective=objective, gap=max(objective - lower, 0.0))


def _check_data(x: Tensor, y: Tensor) -> None:
    squared_error(torch.zeros(x.shape[-1], dtype=torch.float64), x, y)
    zero = (x == 0).all(dim=0).nonzero().flatten().tolist()
    if zero:
        raise InvalidValueError(f"expected each feature to vary, got 0 alone in columns {zero}; take them out")
    rank = int(torch.linalg.matrix_rank(x / x.abs().amax(dim=0)))
    if rank < x.shape[1]:
        raise InvalidValueError(
            f"expected linearly independent columns, got x of shape {tuple(x.shape)} and rank "
            f"{rank}; take out features that follow from others, or add examples"
        )
    if (y == y[0]).all():
        raise InvalidValueError(f"expected targets that vary, got {y[0].item()} alone; there is nothing to explain")

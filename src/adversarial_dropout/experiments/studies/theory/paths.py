"""Coefficient paths of linear regression under adversarial training and adversarial dropout, as convex programs.

No intercept: centre x and y first. Source of the objectives: eqs. 12 to 16 of Park et al., AAAI 2018, each with its
exact worst case, which is convex; the linearised eq. 15 is not even continuous where a residual crosses 0, so it need
not have a minimum. The solver is Clarabel, an interior-point method, through cvxpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cvxpy as cp
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.studies.theory.theory import check_delta, check_k, squared_error

Method = Literal["adversarial training", "adversarial dropout"]
METHODS: tuple[Method, ...] = get_args(Method)
SETTINGS: dict[Method, str] = {"adversarial training": "δ", "adversarial dropout": "k"}
"""What the grid of each method is over."""

_GAP = 1e-10
_SLACK = 10 * _GAP


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


def fit(method: Method, x: Tensor, y: Tensor, setting: float) -> Tensor:
    """Coefficients w that minimise the sum of the squared worst residuals, shape (D,); r_i = y_i − x_i·w.

    - Adversarial training: abs(r_i) + δ‖w‖₁ (eq. 12 with its worst perturbation).
    - Adversarial dropout: max over ε_i of abs(y_i − (ε_i ⊙ x_i)·w), where ε_i drops at most k features (eqs. 14, 15).
      That is max(r_i + Σ top-k of max(a_i, 0), −r_i + Σ top-k of max(−a_i, 0)) with a_ij = x_ij w_j. w and x occur in
      these products alone, so the scale of a feature does not matter: the predictions are the same.

    The solver stops at a gap of 1e-10 Σ y², near a coefficient of 0 and not at it. So coefficients are set to 0, the
    smallest first, where the objective stays within 1e-9 Σ y² of the least. Where several w are best, it is one.

    Args:
        method: One of :data:`METHODS`.
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64, not all 0.
        setting: δ ≥ 0, in the unit of the features, or k, a whole number between 0 and D.

    Raises:
        InvalidTypeError: A dtype other than those above, or a setting of another type.
        InvalidValueError: An unknown method, shapes that do not fit, NaN, targets of 0 alone, or a setting out of its
            range.
    """
    check_choice("method", method, METHODS)
    _check_data(x, y)
    x, y = x.detach(), y.detach()
    w = cp.Variable(x.shape[1])
    size = float(y.norm())
    r = (y / size).numpy() - x.numpy() @ w
    if method == "adversarial training":
        check_delta(setting)
        if setting >= least_delta_of_zero(x, y):
            return torch.zeros_like(x[0])
        worst = cp.abs(r) + setting * cp.norm1(w)
    else:
        check_k(setting, x.shape[1])
        added = x.numpy() @ cp.diag(w)
        up, down = (cp.sum_largest(cp.pos(side), setting, axis=1) if setting else 0 for side in (added, -added))
        worst = cp.maximum(r + up, down - r, 0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(worst)))
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=_GAP, tol_gap_rel=_GAP, tol_feas=_GAP)
    best, enough = w.value, problem.value + _SLACK
    for j in abs(best).argsort():
        w.value = best.copy()
        w.value[j] = 0
        if problem.objective.value <= enough:
            best = w.value
    return torch.from_numpy(best * size)


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


def _check_data(x: Tensor, y: Tensor) -> None:
    if not squared_error(torch.zeros(x.shape[-1], dtype=torch.float64), x, y):
        raise InvalidValueError("expected targets that vary, got 0 alone; there is nothing to explain")

"""Coefficient paths of linear regression under adversarial training and adversarial dropout, as convex programs.

There is no intercept: centre x and y first. The objectives are those of eqs. 12 to 16 of Park et al., AAAI 2018, each
with its exact worst case, which is convex. The linearised eq. 15 is not even continuous where a residual crosses 0, so
it need not have a minimum. The solver is Clarabel, an interior-point method, called through cvxpy.
"""

from collections.abc import Iterable
from typing import Any

import cvxpy as cp
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.studies.theory.theory import check_delta, check_k, squared_error

TRAINING, DROPOUT = "adversarial training", "adversarial dropout"
SETTINGS = {TRAINING: "δ", DROPOUT: "k"}
"""The setting of each method."""

_GAP = 1e-10
_SLACK = 10 * _GAP


def least_delta_of_zero(x: Tensor, y: Tensor) -> float:
    """The least δ from which adversarial training gives w = 0: ‖xᵀy‖_∞ / ‖y‖₁.

    From w = 0 in direction d, Σ_i (abs(r_i) + δ‖w‖₁)² changes at the rate 2 (δ ‖y‖₁ ‖d‖₁ − yᵀx d). From this δ on, the
    rate is ≥ 0 for every d.
    """
    _check_data(x, y)
    return float((x.T @ y).abs().max() / y.abs().sum())


def fit(method: str, x: Tensor, y: Tensor, setting: float) -> Tensor:
    """Coefficients w, shape (D,), that minimise the sum of the squared worst residuals.

    x is of shape (N, D), y of shape (N,), both float64. The worst residuals are

    - Adversarial training with δ: abs(r_i) + δ‖w‖₁ (eq. 12 with its worst perturbation).
    - Adversarial dropout with k: max over ε_i of abs(y_i − (ε_i ⊙ x_i)·w), where ε_i drops at most k features (eqs. 14
      and 15). That is max(r_i + Σ top-k of max(a_i, 0), −r_i + Σ top-k of max(−a_i, 0)) with a_ij = x_ij w_j. x and w
      occur only in these products, so the scale of a feature does not change the predictions.

    The solver stops at a gap of 1e-10 Σ y², where coefficients are near 0, but not 0. So coefficients are set to 0, the
    smallest first, as long as the objective stays within 1e-9 Σ y² of the least. Where several w are best, it is one of
    them.
    """
    check_choice("method", method, tuple(SETTINGS))
    _check_data(x, y)
    x, y = x.detach(), y.detach()
    w = cp.Variable(x.shape[1])
    size = float(y.norm())
    r = (y / size).numpy() - x.numpy() @ w
    if method == TRAINING:
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


def coefficient_path(method: str, x: Tensor, y: Tensor, settings: Iterable[float]) -> dict[str, Any]:
    """Fit a method at each setting.

    Returns the ``method``, its settings (``grid``), and at each of them w (``coefficients``) and the share of Σ y² that
    the model explains on its training data (``r_squared``).
    """
    grid = sorted(set(settings))
    fitted = [fit(method, x, y, setting) for setting in grid]
    return {
        "method": method,
        "grid": grid,
        "coefficients": [w.tolist() for w in fitted],
        "r_squared": [1 - float(squared_error(w, x, y) / y.square().sum()) for w in fitted],
    }


def _check_data(x: Tensor, y: Tensor) -> None:
    if not squared_error(torch.zeros(x.shape[-1], dtype=torch.float64), x, y):
        raise InvalidValueError("expected targets that vary, got 0 alone; there is nothing to explain")

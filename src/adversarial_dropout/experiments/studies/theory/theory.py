"""Linear regression under adversarial training and under adversarial dropout, as in the paper.

Source: Park, Park, Shin, Moon, "Adversarial Dropout for Supervised and Semi-supervised Learning", AAAI 2018, eqs. 12
to 16 and 22 to 31.

The functions take coefficients w of shape (D,), features x of shape (N, D) and targets y of shape (N,), all float64.
They raise InvalidTypeError for other dtypes, and InvalidValueError for shapes that do not fit and for entries that are
NaN or infinite. The residuals are r_i = y_i − x_i·w, the plain loss is l(w) = Σ_i r_i². Objectives are differentiable
in w; signs and masks are constants.

Γ is a (D, D) matrix, a sum of outer products. The paper prints its terms as sign(∇)ᵀ sign(∇) and dᵀd, which are numbers
if x_i is a column, as in x_iᵀw; eqs. 13 and 16 do not hold for those.
"""

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, NonFiniteError, check_at_least
from adversarial_dropout.masks import adversarial_mask


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """An adversarial objective as the plain loss and what the adversary adds (eqs. 13 and 16).

    Attributes:
        loss: l(w).
        first_order: The term linear in the perturbation.
        quadratic: wᵀ Γ w, for adversarial training times δ².
        gamma: Γ, shape (D, D), symmetric, positive semidefinite; constant in w.
    """

    loss: Tensor
    first_order: Tensor
    quadratic: Tensor
    gamma: Tensor

    @property
    def total(self) -> Tensor:
        """The objective: the sum of the three terms."""
        return self.loss + self.first_order + self.quadratic


def residuals(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """r_i = y_i − x_i·w, shape (N,)."""
    for name, tensor, dimensions in (("w", w, 1), ("x", x, 2), ("y", y, 1)):
        check_tensor(name, tensor, dimensions)
    if x.shape != (len(y), len(w)):
        raise InvalidValueError(
            f"expected x of shape (N, D) = {(len(y), len(w))}, to fit y and w, got {tuple(x.shape)}"
        )
    return y - x @ w


def squared_error(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """l(w) = Σ_i r_i², a sum, not a mean."""
    return residuals(w, x, y).square().sum()


def input_gradients(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """∂l/∂x_ij = −2 r_i w_j, shape (N, D)."""
    return -2 * torch.outer(residuals(w, x, y), w)


def sign_perturbation(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """Adversarial training's perturbation δ·sign(∇_{x_i} l), shape (N, D), for δ ≥ 0 (eqs. 12 and 22).

    The sign of 0 is 0: there is no perturbation where r_i = 0 or w_j = 0.
    """
    check_delta(delta)
    return delta * input_gradients(w.detach(), x, y).sign()


def adversarial_training(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """Objective of adversarial training, computed directly: l at x_i + δ·sign(∇_{x_i} l) (eqs. 12 and 22).

    Where no residual is 0, it equals Σ_i (abs(r_i) + δ‖w‖₁)².
    """
    return squared_error(w, x + sign_perturbation(w, x, y, delta=delta), y)


def decompose_training(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Decomposition:
    """The same objective as l(w) + Σ_ij abs(δ ∂l/∂x_ij) + δ² wᵀ Γ w (eqs. 13, 23 and 24).

    Γ = Σ_i sign(∇_{x_i} l) sign(∇_{x_i} l)ᵀ. The value and the gradient equal those of :func:`adversarial_training` for
    every w. Γ does not depend on the features: with n nonzero residuals it is n sign(w) sign(w)ᵀ, so wᵀ Γ w = n ‖w‖₁².
    """
    check_delta(delta)
    gradients = input_gradients(w, x, y)
    signs = gradients.detach().sign()
    gamma = signs.T @ signs
    return Decomposition(
        loss=squared_error(w, x, y),
        first_order=(delta * gradients).abs().sum(),
        quadratic=delta**2 * (w @ gamma @ w),
        gamma=gamma,
    )


def dropout_masks(w: Tensor, x: Tensor, y: Tensor, *, k: int, printed: bool = False) -> Tensor:
    """Adversarial dropout's masks of the features, shape (N, D), float64, 1 = kept (eqs. 14 and 25).

    The library's rule is Algorithm 1, by :func:`~adversarial_dropout.masks.adversarial_mask`: it drops the features
    with the lowest J_ij = x_ij ∂l/∂x_ij, at most k and only those with J_ij < 0. Ties go to the lower index.

    The printed rule drops all features with J_ij ≤ min{s_ik, 0}, where s_ik is the k-th lowest J_ij. Because of its "≤"
    it also drops features with J_ij = 0 where fewer than k are negative, and all that tie with s_ik. So it can drop
    more than k, against the constraint that the paper prints after it. For k = 0 nothing is dropped, as the paper says.
    """
    jacobian = x * input_gradients(w.detach(), x, y)
    check_k(k, x.shape[1])
    if printed and k:
        lowest = jacobian.kthvalue(k, dim=1, keepdim=True).values
        return (jacobian > lowest.clamp(max=0)).to(x)
    return adversarial_mask(torch.ones_like(x), jacobian, max_flips=k)


def worst_masks(w: Tensor, x: Tensor, y: Tensor, *, k: int) -> Tensor:
    """The masks, shape (N, D), that raise each squared residual the most, of all that drop at most k features.

    Dropping feature j adds a_j = x_ij w_j to the residual. So the worst mask drops either the k largest positive a_j or
    the k lowest negative ones: abs(residual) = max(r + Σ top-k of max(a, 0), −r + Σ top-k of max(−a, 0)). If both are
    equal, it drops the positive ones. :func:`dropout_masks` only looks in the direction of r, and misses the worst mask
    where the other direction overshoots 0 and ends farther away.
    """
    r = residuals(w.detach(), x, y)
    check_k(k, x.shape[1])
    added = x * w.detach()
    up, down = (side.clamp(min=0).topk(k, dim=1) for side in (added, -added))
    rises = (r + up.values.sum(dim=1) >= -r + down.values.sum(dim=1)).unsqueeze(1)
    values, units = torch.where(rises, up.values, down.values), torch.where(rises, up.indices, down.indices)
    return torch.ones_like(x).scatter(1, units, (values == 0).to(x))


def adversarial_dropout(w: Tensor, x: Tensor, y: Tensor, *, k: int, printed: bool = False) -> Tensor:
    """Objective of adversarial dropout, computed directly: l at ε_i ⊙ x_i (eqs. 15 and 26).

    With the library's rule, where no residual is 0, it equals Σ_i (abs(r_i) + Σ top-k of max(sign(r_i) x_ij w_j, 0))².
    """
    return squared_error(w, dropout_masks(w, x, y, k=k, printed=printed) * x, y)


def decompose_dropout(w: Tensor, x: Tensor, y: Tensor, *, k: int, printed: bool = False) -> Decomposition:
    """The same objective as l(w) + Σ_i Σ_{j ∈ S_i} abs(x_ij ∂l/∂x_ij) + wᵀ Γ w (eqs. 16 and 27 to 31).

    S_i are the dropped features, Γ = Σ_i d_i d_iᵀ with d_i = (1 − ε_i) ⊙ x_i. The value equals that of
    :func:`adversarial_dropout` for both rules, because both only drop features with x_ij ∂l/∂x_ij ≤ 0. (The paper says
    "always negative"; 0 does no harm.) So does the gradient, unless the printed rule drops a feature with
    x_ij ∂l/∂x_ij = 0 ≠ x_ij: there the absolute value has a kink, and eq. 15 under the same mask has none.

    The first two terms are eq. 9 for this loss. The third is all that the linearisation leaves out.
    """
    dropped = (1 - dropout_masks(w, x, y, k=k, printed=printed)) * x
    gamma = dropped.T @ dropped
    return Decomposition(
        loss=squared_error(w, x, y),
        first_order=(dropped * input_gradients(w, x, y)).abs().sum(),
        quadratic=w @ gamma @ w,
        gamma=gamma,
    )


def check_tensor(name: str, tensor: Tensor, dimensions: int) -> None:
    """Raise unless ``tensor`` is a finite float64 tensor with this number of dimensions."""
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InvalidTypeError(f"expected {name} to be a float64 tensor, got {got}; use torch.as_tensor(...).double()")
    if tensor.dim() != dimensions:
        raise InvalidValueError(
            f"expected {name} to have {dimensions} dimension{'s' * (dimensions > 1)}, got shape {tuple(tensor.shape)}"
        )
    if not tensor.isfinite().all():
        raise NonFiniteError(f"expected {name} to be finite, got NaN or infinite entries; remove these examples")


def check_delta(delta: float) -> None:
    """Raise unless δ is a finite number, 0 or more."""
    if isinstance(delta, bool) or not isinstance(delta, float | numbers.Real):
        raise InvalidTypeError(f"expected delta to be a number, got {delta!r} ({type(delta).__name__})")
    if not 0 <= delta < math.inf:
        raise InvalidValueError(f"expected delta to be finite and 0 or more, got {delta}")


def check_k(k: float, features: int) -> None:
    """Raise unless k is a whole number between 0 and the number of features."""
    check_at_least("k, a number of features,", k, 0)
    if k > features:
        raise InvalidValueError(f"expected k, a number of features, between 0 and D = {features}, got {k}")

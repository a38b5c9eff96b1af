"""The paper's theory as functions: linear regression under adversarial training and dropout, and eq. 11.

Source: Park, Park, Shin, Moon, "Adversarial Dropout for Supervised and Semi-supervised Learning", AAAI 2018, eqs. 11
to 16 and 22 to 31. Notation: x of shape (N, D), y (N,), w (D,), residuals r_i = y_i − x_i·w, l(w) = Σ_i r_i².
Everything is float64 and differentiable in w; signs and masks are constants.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, NonFiniteError
from adversarial_dropout.masks import adversarial_mask


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """An adversarial objective as the plain loss and what the adversary adds (eqs. 13 and 16).

    Attributes:
        loss: l(w).
        first_order: The term linear in the perturbation.
        quadratic: wᵀ Γ w, for adversarial training with the factor δ².
        gamma: Γ, shape (D, D); constant in w.
    """

    loss: Tensor
    first_order: Tensor
    quadratic: Tensor
    gamma: Tensor

    @property
    def total(self) -> Tensor:
        """The objective: the sum of the three terms."""
        return self.loss + self.first_order + self.quadratic


def squared_error(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """l(w) = Σ_i (y_i − x_i·w)², a sum, not a mean.

    Args:
        w: Coefficients, shape (D,), float64.
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.

    Raises:
        InvalidTypeError: An argument is not a float64 tensor.
        InvalidValueError: Shapes do not fit, or an entry is NaN or infinite.
    """
    return _residuals(w, x, y).square().sum()


def input_gradients(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """∂l/∂x_ij = −2 r_i w_j, shape (N, D).

    Args and Raises: as :func:`squared_error`.
    """
    return -2 * torch.outer(_residuals(w, x, y), w)


def sign_perturbation(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """Adversarial training's perturbation δ·sign(∇_{x_i} l), shape (N, D) (eqs. 12 and 22).

    The sign of 0 is 0: no perturbation where r_i = 0 or w_j = 0.

    Args:
        w: Coefficients, shape (D,), float64.
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.
        delta: Size δ ≥ 0 of each entry, in the unit of the features.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`squared_error`, or δ is not a finite number ≥ 0.
    """
    _check_delta(delta)
    return delta * input_gradients(w.detach(), x, y).sign()


def worst_perturbation(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """The perturbation with entries in [−δ, δ] that raises each squared residual the most, shape (N, D).

    That of eq. 22, but with a sign also where r_i = 0: there eq. 22 does nothing, although any direction does harm.
    The worst objective is Σ_i (abs(r_i) + δ‖w‖₁)², convex in w.

    Args and Raises: as :func:`sign_perturbation`.
    """
    _check_delta(delta)
    r = _residuals(w.detach(), x, y)
    return -delta * torch.outer(torch.where(r >= 0, 1.0, -1.0).to(r), w.detach().sign())


def adversarial_training(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """Objective of adversarial training, computed directly: l at x_i + δ·sign(∇_{x_i} l) (eqs. 12 and 22).

    Where no residual is 0 it equals Σ_i (abs(r_i) + δ‖w‖₁)².

    Args and Raises: as :func:`sign_perturbation`.
    """
    return squared_error(w, x + sign_perturbation(w, x, y, delta=delta), y)


def decompose_training(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Decomposition:
    """The same objective as l(w) + Σ_ij abs(δ ∂l/∂x_ij) + δ² wᵀ Γ w (eqs. 13, 23 and 24).

    Γ = Σ_i sign(∇_{x_i} l) sign(∇_{x_i} l)ᵀ. Equal to :func:`adversarial_training` for every w, also in its gradient.

    Args and Raises: as :func:`sign_perturbation`.
    """
    _check_delta(delta)
    gradients = input_gradients(w, x, y)
    signs = gradients.detach().sign()
    gamma = signs.T @ signs
    return Decomposition(
        loss=squared_error(w, x, y),
        first_order=(delta * gradients).abs().sum(),
        quadratic=delta**2 * (w @ gamma @ w),
        gamma=gamma,
    )


def dropout_masks(w: Tensor, x: Tensor, y: Tensor, *, k: int, exactly: bool = False) -> Tensor:
    """Adversarial dropout's masks of the features, linearised in the mask (eqs. 14, 25 and 26).

    The features with the lowest J_ij = x_ij ∂l/∂x_ij are dropped. By default only those with J_ij < 0, the ones whose
    loss raises l: at most k, found by the library's :func:`~adversarial_dropout.masks.adversarial_mask`. Ties go to
    the lower index.

    Args:
        w: Coefficients, shape (D,), float64.
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.
        k: Largest number of features to drop, between 0 and D.
        exactly: Drop k features whatever their sign, as eq. 14 is printed.

    Returns:
        Masks ε, shape (N, D), float64, 1 = kept.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`squared_error`, or k is not a whole number in [0, D].
    """
    jacobian = x * input_gradients(w.detach(), x, y)
    _check_k(k, x.shape[1])
    if exactly:
        return torch.ones_like(x).scatter(1, jacobian.argsort(dim=1, stable=True)[:, :k], 0.0)
    return adversarial_mask(torch.ones_like(x), jacobian, max_flips=k)


def worst_masks(w: Tensor, x: Tensor, y: Tensor, *, k: int) -> Tensor:
    """The masks that raise each squared residual the most, of all that drop at most k features.

    Dropping feature j adds a_j = x_ij w_j to the residual. So the worst mask drops either the k largest positive a_j
    or the k lowest negative ones: abs(residual) = max(r + Σ top-k of max(a, 0), −r + Σ top-k of max(−a, 0)). Equal
    ones go to the positive side. :func:`dropout_masks` looks in the direction of r only and misses the other one where
    it overshoots 0 and ends farther away. The worst objective is a maximum of convex functions: convex in w.

    Args, Returns and Raises: as :func:`dropout_masks`.
    """
    r = _residuals(w.detach(), x, y)
    _check_k(k, x.shape[1])
    added = x * w.detach()
    up, down = (side.clamp(min=0).topk(k, dim=1) for side in (added, -added))
    rises = (r + up.values.sum(dim=1) >= -r + down.values.sum(dim=1)).unsqueeze(1)
    values, units = torch.where(rises, up.values, down.values), torch.where(rises, up.indices, down.indices)
    return torch.ones_like(x).scatter(1, units, (values == 0).to(x))


def adversarial_dropout(w: Tensor, x: Tensor, y: Tensor, *, k: int, exactly: bool = False) -> Tensor:
    """Objective of adversarial dropout, computed directly: l at ε_i ⊙ x_i (eq. 15).

    By default, where no residual is 0, it equals Σ_i (abs(r_i) + Σ top-k of max(sign(r_i) x_ij w_j, 0))².

    Args and Raises: as :func:`dropout_masks`.
    """
    return squared_error(w, dropout_masks(w, x, y, k=k, exactly=exactly) * x, y)


def decompose_dropout(
    w: Tensor, x: Tensor, y: Tensor, *, k: int, exactly: bool = False, signed: bool = False
) -> Decomposition:
    """The same objective as l(w) + Σ_i Σ_{j dropped} abs(x_ij ∂l/∂x_ij) + wᵀ Γ w (eqs. 16 and 27 to 31).

    Γ = Σ_i d_i d_iᵀ with d_i = (1 − ε_i) ⊙ x_i. Equal to :func:`adversarial_dropout`, also in its gradient, if only
    features with x_ij ∂l/∂x_ij < 0 are dropped, the default. With ``exactly`` the absolute value is wrong wherever a
    dropped feature has a positive one; with −x_ij ∂l/∂x_ij in its place (``signed``) the equation holds for all masks.

    Args and Raises: as :func:`dropout_masks`; ``signed`` takes −x_ij ∂l/∂x_ij for its absolute value.
    """
    dropped = (1 - dropout_masks(w, x, y, k=k, exactly=exactly)) * x
    terms = -dropped * input_gradients(w, x, y)
    gamma = dropped.T @ dropped
    return Decomposition(
        loss=squared_error(w, x, y),
        first_order=(terms if signed else terms.abs()).sum(),
        quadratic=w @ gamma @ w,
        gamma=gamma,
    )


def jacobian_at(
    mask: Tensor, h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence
) -> Tensor:
    """J = ∂D(target, upper(h ⊙ ε)) / ∂ε at ε = ``mask``, shape (N, H) (the left side of eq. 11).

    Rows of a batch must not see each other in ``upper``. At εˢ with target = upper(h ⊙ εˢ), no labels and no other
    noise, D is at its minimum 0 and J is 0 up to rounding: a search from there would flip nothing. So the library and
    the authors' code take ε = 1.

    Args:
        mask: ε, shape (N, H), float64.
        h: Activations that enter the dropout layer, shape (N, H), float64.
        upper: The network above the layer, (N, H) to logits (N, C); deterministic.
        target: Logits (N, C) or labels (N,), a constant.
        divergence: D, one value per example.

    Raises:
        InvalidTypeError: ``mask`` or ``h`` is not a float64 tensor.
        InvalidValueError: They are not of one shape (N, H), or an entry is NaN or infinite.
    """
    _check_tensor("h", h, 2)
    _check_tensor("mask", mask, 2)
    if mask.shape != h.shape:
        raise InvalidValueError(f"expected mask to have the shape of h {tuple(h.shape)}, got {tuple(mask.shape)}")
    epsilon = mask.detach().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(divergence(target.detach(), upper(h.detach() * epsilon)).sum(), epsilon)
    return jacobian


def sides_of_equation_11(
    h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """Both sides of eq. 11, each of shape (N, H): J at ε = 1, and h ⊙ ∂D/∂h. The chain rule makes them equal.

    Args and Raises: as :func:`jacobian_at`.
    """
    left = jacobian_at(torch.ones_like(h), h, upper=upper, target=target, divergence=divergence)
    inputs = h.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(target.detach(), upper(inputs)).sum(), inputs)
    return left, h.detach() * gradient


def _residuals(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    for name, tensor, dimensions in (("w", w, 1), ("x", x, 2), ("y", y, 1)):
        _check_tensor(name, tensor, dimensions)
    if x.shape != (len(y), len(w)):
        raise InvalidValueError(
            f"expected x of shape (N, D) = {(len(y), len(w))}, to fit y and w, got {tuple(x.shape)}"
        )
    return y - x @ w


def _check_tensor(name: str, tensor: Tensor, dimensions: int) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InvalidTypeError(f"expected {name} to be a float64 tensor, got {got}; use torch.as_tensor(...).double()")
    if tensor.dim() != dimensions:
        raise InvalidValueError(
            f"expected {name} to have {dimensions} dimension{'s' * (dimensions > 1)}, got shape {tuple(tensor.shape)}"
        )
    if not tensor.isfinite().all():
        raise NonFiniteError(f"expected {name} to be finite, got NaN or infinite entries; take these examples out")


def _check_delta(delta: float) -> None:
    if isinstance(delta, bool) or not isinstance(delta, float | numbers.Real):
        raise InvalidTypeError(f"expected delta to be a number, got {delta!r} ({type(delta).__name__})")
    if not 0 <= delta < math.inf:
        raise InvalidValueError(f"expected delta to be finite and 0 or more, got {delta}")


def _check_k(k: int, features: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | numbers.Integral):
        raise InvalidTypeError(f"expected k, a count of features, to be a whole number, got {k!r}")
    if not 0 <= k <= features:
        raise InvalidValueError(f"expected k, a count of features, between 0 and D = {features}, got {k}")

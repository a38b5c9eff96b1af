"""The divergence linearised in the mask (eqs. 8 to 11 of Park et al., AAAI 2018), in float64, for one layer.

D(ε) = D(target, upper(h ⊙ ε)), one value per example (eq. 8). h are the activations that enter the dropout layer, shape
(N, H); ε is a mask of the same shape, with any values in [0, 1], as the paper relaxes them. J is ∂D/∂ε at ε⁰ = 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.studies.theory.theory import check_tensor


def jacobian_at(
    mask: Tensor, h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence
) -> Tensor:
    """∂D(target, upper(h ⊙ ε)) / ∂ε at ε = ``mask``, shape (N, H): the left side of eq. 11.

    At εˢ with target = upper(h ⊙ εˢ), no labels and no other noise, D is at its minimum 0 and the result is 0 up to
    rounding: a search from there would flip nothing. So the paper and this library take ε⁰ = 1.

    Args:
        mask: ε, shape (N, H), float64.
        h: Activations that enter the dropout layer, shape (N, H), float64.
        upper: The network above the layer, (N, H) to logits (N, C); deterministic, and no example depends on another.
        target: Logits (N, C) or labels (N,), a constant.
        divergence: D, one value per example.
    """
    check_tensor("h", h, 2)
    check_tensor("mask", mask, 2)
    if mask.shape != h.shape:
        raise InvalidValueError(f"expected mask to have the shape of h {tuple(h.shape)}, got {tuple(mask.shape)}")
    epsilon = mask.detach().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(divergence(target.detach(), upper(h.detach() * epsilon)).sum(), epsilon)
    return jacobian


def equation_9(mask: Tensor, *, at_one: Tensor, jacobian: Tensor) -> Tensor:
    """D(1) + (ε − 1)ᵀ J, shape (N,), from D(1) and J: what eq. 9 takes for D(ε)."""
    return at_one + ((mask - 1) * jacobian).sum(dim=1)


def equation_10(mask: Tensor, *, jacobian: Tensor) -> Tensor:
    """Σ_i ε_i J_i, shape (N,).

    The paper calls it proportional to eq. 9. It is not: the two differ by D(1) − Σ_i J_i, which is the same for all
    masks. So both have the same best mask.
    """
    return (mask * jacobian).sum(dim=1)


def equation_11(h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence) -> Tensor:
    """The right side of eq. 11: h ⊙ ∂D/∂h, shape (N, H).

    The paper writes J ≈ h ⊙ ∂D/∂h. The chain rule makes the two equal, because h ⊙ ε⁰ is h.
    """
    inputs = h.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(target.detach(), upper(inputs)).sum(), inputs)
    return h.detach() * gradient

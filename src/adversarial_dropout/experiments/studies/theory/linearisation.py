"""The divergence linearised in the mask (eqs. 8 to 11 of Park et al., AAAI 2018), in float64, one layer at a time.

Notation: h, the activations that enter the dropout layer, of shape (N, H); ε a mask of that shape; D(ε) =
D(target, upper(h ⊙ ε)), one value per example (eq. 8). Masks may hold any values in [0, 1], as the paper relaxes them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.studies.theory.theory import check_tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Linearised:
    """D around ε⁰ = 1.

    Attributes:
        at_one: D(1), shape (N,).
        jacobian: J = ∂D/∂ε at ε⁰ = 1, shape (N, H).
    """

    at_one: Tensor
    jacobian: Tensor

    def expansion(self, mask: Tensor) -> Tensor:
        """D(1) + (ε − 1)ᵀJ, shape (N,): what eq. 9 puts in the place of D(ε)."""
        return self.at_one + ((mask - 1) * self.jacobian).sum(dim=1)

    def objective(self, mask: Tensor) -> Tensor:
        """Σ_i ε_i J_i, shape (N,) (eq. 10).

        The paper writes ∝. It is not proportional to eq. 9: they differ by :attr:`constant`, the same for all masks.
        So both have the same best mask.
        """
        return (mask * self.jacobian).sum(dim=1)

    @property
    def constant(self) -> Tensor:
        """D(1) − Σ_i J_i, shape (N,): what eq. 10 leaves out of eq. 9."""
        return self.at_one - self.jacobian.sum(dim=1)


def linearise(h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence) -> Linearised:
    """Linearise D at ε⁰ = 1, where nothing is dropped (eq. 9).

    Args and Raises: as :func:`jacobian_at`.
    """
    ones = torch.ones_like(h)
    jacobian = jacobian_at(ones, h, upper=upper, target=target, divergence=divergence)
    at_one = divergence_at(ones, h, upper=upper, target=target, divergence=divergence)
    return Linearised(at_one=at_one, jacobian=jacobian)


def divergence_at(
    mask: Tensor, h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence
) -> Tensor:
    """D(target, upper(h ⊙ ε)) at ε = ``mask``, shape (N,), a constant (eq. 8).

    Args and Raises: as :func:`jacobian_at`.
    """
    _check(mask, h)
    with torch.no_grad():
        return divergence(target, upper(h * mask))


def jacobian_at(
    mask: Tensor, h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence
) -> Tensor:
    """J = ∂D(target, upper(h ⊙ ε)) / ∂ε at ε = ``mask``, shape (N, H) (the left side of eq. 11).

    Rows of a batch must not see each other in ``upper``. At εˢ with target = upper(h ⊙ εˢ), no labels and no other
    noise, D is at its minimum 0 and J is 0 up to rounding: a search from there would flip nothing. So the paper, and
    this library with it, takes ε⁰ = 1.

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
    _check(mask, h)
    epsilon = mask.detach().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(divergence(target.detach(), upper(h.detach() * epsilon)).sum(), epsilon)
    return jacobian


def sides_of_equation_11(
    h: Tensor, *, upper: Callable[[Tensor], Tensor], target: Tensor, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """Both sides of eq. 11, each of shape (N, H): J at ε⁰ = 1, and h ⊙ ∂D/∂h.

    The paper writes ≈. The chain rule makes them equal, because h ⊙ ε⁰ is h.

    Args and Raises: as :func:`jacobian_at`.
    """
    left = jacobian_at(torch.ones_like(h), h, upper=upper, target=target, divergence=divergence)
    inputs = h.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(target.detach(), upper(inputs)).sum(), inputs)
    return left, h.detach() * gradient


def _check(mask: Tensor, h: Tensor) -> None:
    check_tensor("h", h, 2)
    check_tensor("mask", mask, 2)
    if mask.shape != h.shape:
        raise InvalidValueError(f"expected mask to have the shape of h {tuple(h.shape)}, got {tuple(mask.shape)}")

"""The paper's equations on random problems: how far apart their two sides are.

Eqs. 8 to 11 linearise the divergence in the mask of one layer: D(ε) = D(target, upper(h ⊙ ε)), one value per example
(eq. 8). h are the activations that enter the dropout layer, shape (N, H), float64; ε is a mask of the same shape, with
any values in [0, 1], as the paper relaxes them. J is ∂D/∂ε at ε⁰ = 1.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, cross_entropy, kl_divergence, quadratic_error
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.studies.theory import theory

Problem = tuple[Tensor, Tensor, Tensor, float, int]
"""w, x, y, δ and k."""

_DELTAS = (0.01, 0.1, 1.0, 10.0)
_LARGEST_SIZE = 8
_ROUNDING = 1e-12
_OTHER_NOISE = 0.1

_TRAINING, _PRINTED, _LIBRARY = "adversarial training", "printed rule", "the library's rule"
_REGRESSION = (
    # Equation, claim, adversary, whether the numbers are whole, whether Γ is the inner product of columns.
    ("13", "adversarial training", _TRAINING, False, False),
    ("13", "the same, Γ_AT with the inner product of columns", _TRAINING, False, True),
    ("16", "adversarial dropout, dropped as printed in eq. 14", _PRINTED, False, False),
    ("16", "adversarial dropout, dropped by the library", _LIBRARY, False, False),
    ("16", "dropped as printed, zeros and ties (whole numbers)", _PRINTED, True, False),
    ("16", "dropped by the library, zeros and ties (whole numbers)", _LIBRARY, True, False),
    ("16", "adversarial dropout, Γ_AdD with the inner product of columns", _LIBRARY, False, True),
)


def equations(*, problems: int, seed: int) -> list[dict[str, Any]]:
    """Compare the sides of eqs. 9 to 11, 13 and 16 on random problems, with readings that do not hold.

    Returns, for each comparison: the number of its ``equation``, the ``claim``, whether it ``holds``, and the largest
    relative deviation of the ``value`` and of the ``gradient`` by w (None where there is none). Deviations are relative
    to the larger side, or to l(w) if that is larger.
    """
    return [*_networks(problems, seed), *_regression(problems, seed)]


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
    theory.check_tensor("h", h, 2)
    theory.check_tensor("mask", mask, 2)
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


def random_problems(problems: int, seed: int, *, whole: bool = False) -> Iterator[Problem]:
    """Random w, x, y, δ and k, with up to eight examples and features.

    With ``whole``, entries are whole numbers from −2 to 2, so that zeros and ties are frequent, instead of normal ones.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(problems):
        n, d = (torch.randint(_LARGEST_SIZE, (2,), generator=generator) + 1).tolist()
        shapes = ((d,), (n, d), (n,))
        if whole:
            w, x, y = (torch.randint(-2, 3, shape, generator=generator).double() for shape in shapes)
        else:
            w, x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        delta = _DELTAS[int(torch.randint(len(_DELTAS), (), generator=generator))]
        yield w, x, y, delta, int(torch.randint(d + 1, (), generator=generator))


def overshoot(*, problems: int, seed: int) -> float:
    """Share of the examples of random problems where the mask of eq. 14 is not the worst one."""
    missed = []
    for w, x, y, _, k in random_problems(problems, seed):
        linearised, worst = (
            theory.residuals(w, masks(w, x, y, k=k) * x, y).square()
            for masks in (theory.dropout_masks, theory.worst_masks)
        )
        missed.append(linearised < worst * (1 - _ROUNDING))
    return float(torch.cat(missed).double().mean())


def _regression(problems: int, seed: int) -> Iterator[dict[str, Any]]:
    """Eqs. 13 and 16: the objective computed directly against the sum of its terms."""
    for equation, claim, adversary, whole, columns in _REGRESSION:
        values, gradients = [], []
        for w, x, y, delta, k in random_problems(problems, seed, whole=whole):
            w.requires_grad_()
            if adversary == _TRAINING:
                direct = theory.adversarial_training(w, x, y, delta=delta)
                parts = theory.decompose_training(w, x, y, delta=delta)
            else:
                direct = theory.adversarial_dropout(w, x, y, k=k, printed=adversary == _PRINTED)
                parts = theory.decompose_dropout(w, x, y, k=k, printed=adversary == _PRINTED)
            total = parts.total
            if columns:
                factor = delta**2 if adversary == _TRAINING else 1.0
                total = parts.loss + parts.first_order + factor * (parts.gamma.trace() * (w @ w))
            terms = (direct, total, parts.loss)
            values.append(_relative(*terms))
            if not whole:  # The absolute value has a kink where a feature with x ∂l/∂x = 0 is dropped.
                gradients.append(_relative(*(torch.autograd.grad(t, w, retain_graph=True)[0] for t in terms)))
        yield {
            "equation": equation,
            "claim": claim,
            "holds": not columns,
            "value": max(values),
            "gradient": max(gradients, default=None),
        }


def _networks(problems: int, seed: int) -> Iterator[dict[str, Any]]:
    """Eqs. 9 to 11 and J at the base mask, for random networks with two nonlinear layers."""
    largest: dict[tuple[str, str, bool], float] = {}

    def add(equation: str, claim: str, holds: bool, value: float) -> None:
        comparison = equation, claim, holds
        largest[comparison] = max(value, largest.get(comparison, 0.0))

    generator = torch.Generator().manual_seed(seed)
    for _ in range(problems):
        n, units, classes = (torch.randint(_LARGEST_SIZE, (3,), generator=generator) + 2).tolist()
        upper = nn.Sequential(nn.Linear(units, 8), nn.Tanh(), nn.Linear(8, classes)).double()
        for parameter in upper.parameters():
            nn.init.normal_(parameter, generator=generator)
        h, noise = (torch.randn(n, units, generator=generator, dtype=torch.float64) for _ in range(2))
        labels = torch.randint(classes, (n,), generator=generator)
        logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
        base = (torch.rand(n, units, generator=generator) < 0.5).double()
        base[:, 0] = 0  # At least one unit is dropped, so εˢ is not 1.
        ones = torch.ones_like(base)
        with torch.no_grad():
            output, noisy_output = (upper(inputs * base) for inputs in (h, h + _OTHER_NOISE * noise))
            at_one, at_base = (kl_divergence(logits, upper(h * mask)) for mask in (ones, base))

        jacobian = jacobian_at(ones, h, upper=upper, target=logits, divergence=kl_divergence)
        expansion, objective = equation_9(base, at_one=at_one, jacobian=jacobian), equation_10(base, jacobian=jacobian)
        shifted = objective + (at_one - jacobian.sum(dim=1))
        crossed = objective * at_one, jacobian.sum(dim=1) * expansion
        add("9", "the expansion at ε⁰ = 1 against D, at a random mask: KL", False, _relative(expansion, at_base))
        add("10", "Σ ε_i J_i + D(ε⁰) − Σ J_i against eq. 9: KL", True, _relative(shifted, expansion))
        add("10", "Σ ε_i J_i proportional to eq. 9, at two masks: KL", False, _relative(*crossed))
        for name, divergence in (("KL", kl_divergence), ("QE", quadratic_error), ("CE", cross_entropy)):
            for kind, target in (("logits", logits), ("labels", labels)):
                left = jacobian_at(ones, h, upper=upper, target=target, divergence=divergence)
                right = equation_11(h, upper=upper, target=target, divergence=divergence)
                add("11", f"J at ε⁰ = 1 against h ⊙ ∂D/∂h: {name} with {kind}", True, _relative(left, right))
        for name, divergence in (("KL", kl_divergence), ("QE", quadratic_error)):
            for kind, target in (
                ("the output under εˢ", output),
                ("the output under εˢ and other noise", noisy_output),
                ("labels", labels),
            ):
                size_at_base, size_at_one = (
                    jacobian_at(mask, h, upper=upper, target=target, divergence=divergence).norm()
                    for mask in (base, ones)
                )
                claim = f"J at εˢ against 0, in units of J at 1: {name} with {kind} as target"
                add("J(εˢ)", claim, target is output, float(size_at_base / size_at_one))
    for (equation, claim, holds), value in largest.items():
        yield {"equation": equation, "claim": claim, "holds": holds, "value": value, "gradient": None}


def _relative(left: Tensor, right: Tensor, *terms: Tensor) -> float:
    """Distance of two values over the size of the larger, or of a larger term in them; 0 if all are 0."""
    size = max(float(value.detach().norm()) for value in (left, right, *terms))
    return float((left - right).detach().norm()) / size if size else 0.0

"""The paper's equations on random problems: how far apart their two sides are."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import cross_entropy, kl_divergence, quadratic_error
from adversarial_dropout.experiments.studies.theory import linearisation, theory

Problem = tuple[Tensor, Tensor, Tensor, float, int]
"""w, x, y, δ and k."""

_DELTAS = (0.01, 0.1, 1.0, 10.0)
_AT_MOST = 8
_WHOLE = 2
_ROUNDING = 1e-12
_OTHER_NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far apart the two sides of an equation were, at most, over random problems.

    Attributes:
        equation: Its number in the paper.
        claim: What is compared.
        holds: Whether the two sides should agree; ``False`` for readings that do not hold.
        value: Largest relative deviation of the values; relative to the larger side, or to l(w) if that is larger.
        gradient: The same of their gradients by w; ``None`` where there is none.
    """

    equation: str
    claim: str
    holds: bool
    value: float
    gradient: float | None


def equations(*, problems: int, seed: int) -> tuple[Deviation, ...]:
    """Eqs. 9 to 11, 13 and 16 on random problems, each with its conditions, and readings that do not hold.

    Args:
        problems: Number of random problems, 1 or more.
        seed: Their seed.
    """
    return (*_networks(problems, seed), *_regression(problems, seed))


def random_problems(problems: int, seed: int, *, whole: bool = False) -> Iterator[Problem]:
    """Random w, x, y, δ and k, with up to eight examples and features.

    Args:
        problems: Number of problems, 1 or more.
        seed: Their seed.
        whole: Take whole numbers from −2 to 2, so that zeros and ties are frequent, instead of normal ones.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(problems):
        n, d = (torch.randint(_AT_MOST, (2,), generator=generator) + 1).tolist()
        shapes = ((d,), (n, d), (n,))
        if whole:
            w, x, y = (torch.randint(-_WHOLE, _WHOLE + 1, shape, generator=generator).double() for shape in shapes)
        else:
            w, x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        delta = _DELTAS[int(torch.randint(len(_DELTAS), (), generator=generator))]
        yield w, x, y, delta, int(torch.randint(d + 1, (), generator=generator))


def _regression(problems: int, seed: int) -> Iterator[Deviation]:
    """Eqs. 13 and 16: the objective computed directly against the sum of its terms."""
    training, printed, ours = "training", "printed", "ours"
    zeros = "zeros and ties (whole numbers)"
    # Equation, claim, adversary, whether the numbers are whole, whether Γ is the inner product of columns.
    cases = (
        ("13", "adversarial training", training, False, False),
        ("13", "the same, Γ_AT with the inner product of columns", training, False, True),
        ("16", "adversarial dropout, dropped as printed in eq. 14", printed, False, False),
        ("16", "adversarial dropout, dropped by the library", ours, False, False),
        ("16", f"dropped as printed, {zeros}", printed, True, False),
        ("16", f"dropped by the library, {zeros}", ours, True, False),
        ("16", "adversarial dropout, Γ_AdD with the inner product of columns", ours, False, True),
    )
    for equation, claim, adversary, whole, columns in cases:
        values, gradients = [], []
        for w, x, y, delta, k in random_problems(problems, seed, whole=whole):
            w.requires_grad_()
            if adversary == training:
                direct = theory.adversarial_training(w, x, y, delta=delta)
                parts = theory.decompose_training(w, x, y, delta=delta)
                factor = delta**2
            else:
                direct = theory.adversarial_dropout(w, x, y, k=k, printed=adversary == printed)
                parts = theory.decompose_dropout(w, x, y, k=k, printed=adversary == printed)
                factor = 1.0
            number = parts.gamma.trace() * (w @ w)
            total = parts.loss + parts.first_order + factor * number if columns else parts.total
            terms = (direct, total, parts.loss)
            values.append(_relative(*terms))
            if not whole:  # The absolute value has a kink where a feature with x ∂l/∂x = 0 is dropped.
                gradients.append(_relative(*(torch.autograd.grad(t, w, retain_graph=True)[0] for t in terms)))
        yield Deviation(
            equation=equation,
            claim=claim,
            holds=not columns,
            value=max(values),
            gradient=max(gradients, default=None),
        )


def _networks(problems: int, seed: int) -> Iterator[Deviation]:
    """Eqs. 9 to 11 and what J is at the base mask, for random networks with two nonlinear layers."""
    deviations: dict[tuple[str, str, bool], list[float]] = {}

    def add(equation: str, claim: str, holds: bool, value: float) -> None:
        deviations.setdefault((equation, claim, holds), []).append(value)

    generator = torch.Generator().manual_seed(seed)
    for _ in range(problems):
        n, units, classes = (torch.randint(_AT_MOST, (3,), generator=generator) + 2).tolist()
        upper = nn.Sequential(nn.Linear(units, 8), nn.Tanh(), nn.Linear(8, classes)).double()
        for parameter in upper.parameters():
            nn.init.normal_(parameter, generator=generator)
        h, noise = (torch.randn(n, units, generator=generator, dtype=torch.float64) for _ in range(2))
        labels = torch.randint(classes, (n,), generator=generator)
        logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
        base = (torch.rand(n, units, generator=generator) < 0.5).double()
        base[:, 0] = 0  # At least one unit is dropped, so εˢ is not 1.
        own, noisy = (upper(inputs * base).detach() for inputs in (h, h + _OTHER_NOISE * noise))

        around = linearisation.linearise(h, upper=upper, target=logits, divergence=kl_divergence)
        real = linearisation.divergence_at(base, h, upper=upper, target=logits, divergence=kl_divergence)
        expansion, objective = around.expansion(base), around.objective(base)
        add("9", "the expansion at ε⁰ = 1 against D, at a random mask: KL", False, _relative(expansion, real))
        add(
            "10", "Σ ε_i J_i + D(ε⁰) − Σ J_i against eq. 9: KL", True, _relative(objective + around.constant, expansion)
        )
        crossed = (objective * around.at_one, around.jacobian.sum(dim=1) * expansion)
        add("10", "Σ ε_i J_i proportional to eq. 9, at two masks: KL", False, _relative(*crossed))
        for name, divergence in (("KL", kl_divergence), ("QE", quadratic_error), ("CE", cross_entropy)):
            for kind, target in (("logits", logits), ("labels", labels)):
                sides = linearisation.sides_of_equation_11(h, upper=upper, target=target, divergence=divergence)
                add("11", f"J at ε⁰ = 1 against h ⊙ ∂D/∂h: {name} with {kind}", True, _relative(*sides))
        for name, divergence in (("KL", kl_divergence), ("QE", quadratic_error)):
            for kind, target in (
                ("the output under εˢ", own),
                ("the output under εˢ and other noise", noisy),
                ("labels", labels),
            ):
                at_base, at_one = (
                    linearisation.jacobian_at(mask, h, upper=upper, target=target, divergence=divergence)
                    for mask in (base, torch.ones_like(base))
                )
                claim = f"J at εˢ against 0, in units of J at 1: {name} with {kind} as target"
                add("J(εˢ)", claim, target is own, float(at_base.norm() / at_one.norm()))
    for (equation, claim, holds), values in deviations.items():
        yield Deviation(equation=equation, claim=claim, holds=holds, value=max(values), gradient=None)


def overshoot(*, problems: int, seed: int) -> float:
    """Share of the examples of random problems where the mask of eq. 14 is not the worst one.

    Args: as :func:`equations`.
    """
    missed = []
    for w, x, y, _, k in random_problems(problems, seed):
        linearised, worst = (
            (y - (masks(w, x, y, k=k) * x) @ w).square() for masks in (theory.dropout_masks, theory.worst_masks)
        )
        missed.append(linearised < worst * (1 - _ROUNDING))
    return float(torch.cat(missed).double().mean())


def _relative(left: Tensor, right: Tensor, *terms: Tensor) -> float:
    """Distance of two values over the size of the larger, or of a larger term in them; 0 if all are 0."""
    size = max(float(value.detach().norm()) for value in (left, right, *terms))
    return float((left - right).detach().norm()) / size if size else 0.0

"""The paper's equations on random problems: how far apart their two sides are."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import cross_entropy, kl_divergence, quadratic_error
from adversarial_dropout.experiments.analysis import theory

_DELTAS = (0.01, 0.1, 1.0, 10.0)
_AT_MOST = 8
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far apart the two sides of an equation were, at most, over random problems.

    Attributes:
        equation: Its number in the paper.
        claim: What is compared.
        holds: Whether the two sides should agree; ``False`` for the counterexamples.
        value: Largest relative deviation of the values; relative to the larger side, or to l(w) if that is larger.
        gradient: The same of their gradients by w; ``None`` where there is none.
    """

    equation: str
    claim: str
    holds: bool
    value: float
    gradient: float | None


def equations(*, problems: int, seed: int) -> tuple[Deviation, ...]:
    """Eqs. 11, 13 and 16 on random problems, each with its conditions and its counterexamples.

    Args:
        problems: Number of random problems, 1 or more.
        seed: Their seed.
    """
    return (*_regression(problems, seed), *_networks(problems, seed))


def _problems(problems: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor, float, int]]:
    """Random w, x, y, δ and k, with up to eight examples and features."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(problems):
        n, d = (torch.randint(_AT_MOST, (2,), generator=generator) + 1).tolist()
        w, x, y = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((d,), (n, d), (n,)))
        delta = _DELTAS[int(torch.randint(len(_DELTAS), (), generator=generator))]
        yield w, x, y, delta, int(torch.randint(d + 1, (), generator=generator))


def _regression(problems: int, seed: int) -> Iterator[Deviation]:
    """Eqs. 13 and 16: direct against decomposed, under each rule for the dropped features."""
    exactly = "exactly k features dropped, as printed, whatever the sign of x ∂l/∂x"
    cases: tuple[tuple[str, str, bool, dict[str, bool] | None], ...] = (
        ("13", "adversarial training", True, None),
        ("16", "adversarial dropout: at most k features dropped, those with negative x ∂l/∂x", True, {}),
        ("16", f"adversarial dropout: {exactly}", False, {"exactly": True}),
        (
            "16",
            f"adversarial dropout: {exactly}; −x ∂l/∂x for its absolute value",
            True,
            {"exactly": True, "signed": True},
        ),
    )
    for equation, claim, holds, rule in cases:
        values, gradients = [], []
        for w, x, y, delta, k in _problems(problems, seed):
            w.requires_grad_()
            if rule is None:
                direct = theory.adversarial_training(w, x, y, delta=delta)
                parts = theory.decompose_training(w, x, y, delta=delta)
            else:
                direct = theory.adversarial_dropout(w, x, y, k=k, exactly=rule.get("exactly", False))
                parts = theory.decompose_dropout(w, x, y, k=k, **rule)
            terms = (direct, parts.total, parts.loss)
            values.append(_relative(*terms))
            gradients.append(_relative(*(torch.autograd.grad(t, w, retain_graph=True)[0] for t in terms)))
        yield Deviation(equation=equation, claim=claim, holds=holds, value=max(values), gradient=max(gradients))


def _networks(problems: int, seed: int) -> Iterator[Deviation]:
    """Eq. 11 and what J is at the base mask, for random networks with two nonlinear layers."""
    deviations: dict[tuple[str, str, bool], list[float]] = {}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(problems):
        n, units, classes = (torch.randint(_AT_MOST, (3,), generator=generator) + 2).tolist()
        upper = nn.Sequential(nn.Linear(units, 8), nn.Tanh(), nn.Linear(8, classes)).double()
        for parameter in upper.parameters():
            nn.init.normal_(parameter, generator=generator)
        h = torch.randn(n, units, generator=generator, dtype=torch.float64)
        labels = torch.randint(classes, (n,), generator=generator)
        logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
        base = (torch.rand(n, units, generator=generator) < 0.5).double()
        base[:, 0] = 0  # At least one unit is dropped, so εˢ is not 1.
        own = upper(h * base).detach()
        for name, divergence in (("KL", kl_divergence), ("QE", quadratic_error), ("CE", cross_entropy)):
            for kind, target in (("logits", logits), ("labels", labels)):
                sides = theory.sides_of_equation_11(h, upper=upper, target=target, divergence=divergence)
                key = ("11", f"J at ε = 1 against h ⊙ ∂D/∂h: {name} with {kind}", True)
                deviations.setdefault(key, []).append(_relative(*sides))
        for name, divergence in (("KL", kl_divergence), ("QE", quadratic_error)):
            for kind, target in (("the output under εˢ", own), ("labels", labels)):
                at_base, at_one = (
                    theory.jacobian_at(mask, h, upper=upper, target=target, divergence=divergence)
                    for mask in (base, torch.ones_like(base))
                )
                key = ("J(εˢ)", f"J at εˢ against 0, in units of J at 1: {name} with {kind} as target", target is own)
                deviations.setdefault(key, []).append(float(at_base.norm() / at_one.norm()))
    for (equation, claim, holds), values in deviations.items():
        yield Deviation(equation=equation, claim=claim, holds=holds, value=max(values), gradient=None)


def overshoot(*, problems: int, seed: int) -> float:
    """Share of the examples of random problems where the linearised mask is not the worst one.

    Args: as :func:`equations`.
    """
    missed = []
    for w, x, y, _, k in _problems(problems, seed):
        linearised, worst = (
            (y - (masks(w, x, y, k=k) * x) @ w).square() for masks in (theory.dropout_masks, theory.worst_masks)
        )
        missed.append(linearised < worst * (1 - _ROUNDING))
    return float(torch.cat(missed).double().mean())


def _relative(left: Tensor, right: Tensor, *terms: Tensor) -> float:
    """Distance of two values over the size of the larger, or of a larger term in them; 0 if all are 0."""
    size = max(float(value.detach().norm()) for value in (left, right, *terms))
    return float((left - right).detach().norm()) / size if size else 0.0

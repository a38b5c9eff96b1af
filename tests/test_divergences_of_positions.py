"""Divergences with positions, masks, −∞ logits, one logit and regression: plain floats and finite differences."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor

from adversarial_dropout import divergences
from adversarial_dropout.errors import AdversarialDropoutError

SOFTMAX: dict[str, Callable[..., Tensor]] = {
    "ce": divergences.cross_entropy,
    "kl": divergences.kl_divergence,
    "qe": divergences.quadratic_error,
}
BERNOULLI: dict[str, Callable[..., Tensor]] = {
    "bernoulli_ce": divergences.bernoulli_cross_entropy,
    "bernoulli_kl": divergences.bernoulli_kl_divergence,
    "bernoulli_qe": divergences.bernoulli_quadratic_error,
}
ALL = SOFTMAX | BERNOULLI | {"squared_error": divergences.squared_error}
EACH_SOFTMAX = pytest.mark.parametrize("name", SOFTMAX)
EACH_BERNOULLI = pytest.mark.parametrize("name", BERNOULLI)
EACH_OUTPUT = pytest.mark.parametrize("name", [*BERNOULLI, "squared_error"])
INF, NAN = math.inf, math.nan

Floats = list[Any]


def logits(*shape: int) -> Tensor:
    return (2 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def gradients(values: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Of a sum with weights, so that the examples cannot be mixed up."""
    weights = torch.arange(1, len(values) + 1, dtype=values.dtype)
    return list(torch.autograd.grad((weights * values).sum(), inputs))


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


# Positions


def softmax_by_hand(name: str, t: Any, q: Tensor) -> tuple[float, Sequence[float], Sequence[float]]:
    """Value and gradients at one position, in floats."""
    if isinstance(t, int):
        value = oracles.VALUES[name](oracles.one_hot(t, len(q)), q.tolist())
        return value, [], oracles.GRADIENTS[name]([1e4 * float(c == t) for c in range(len(q))], q.tolist())[1]
    value = oracles.VALUES[name](oracles.softmax(t.tolist()), q.tolist())
    return value, *oracles.GRADIENTS[name](t.tolist(), q.tolist())


@EACH_SOFTMAX
@pytest.mark.parametrize(
    ("shape", "class_dim"), [((3, 4, 5), -1), ((3, 5, 4), 1), ((3, 5, 2, 4), 1), ((3, 2, 5, 2), -2)]
)
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("masked", ["no", "positions", "first dimension"])
def test_positions(name: str, shape: tuple[int, ...], class_dim: int, labels: bool, masked: str) -> None:
    prediction = logits(*shape)
    positions = [size for i, size in enumerate(shape) if i != class_dim % len(shape)]
    target = torch.randint(5, positions) if labels else logits(*shape)
    mask = {
        "no": None,
        "positions": torch.rand(positions) > 0.4,
        "first dimension": torch.tensor([True, False, True]),
    }[masked]
    if masked == "positions" and mask is not None:
        mask[1] = False
    values = SOFTMAX[name](target, prediction, class_dim=class_dim, mask=mask)

    q, t = (z if z.dim() < len(shape) else z.detach().movedim(class_dim, -1) for z in (prediction, target))
    expected = torch.zeros(3, dtype=torch.float64)
    by_target, by_prediction = torch.zeros(q.shape).double(), torch.zeros(q.shape).double()
    for n in range(3):
        counted = [
            (n, *rest)
            for rest in product(*(range(size) for size in positions[1:]))
            if mask is None or bool(mask[(n, *rest)[: mask.dim()]])
        ]
        for index in counted:
            value, dt, dq = softmax_by_hand(name, int(t[index]) if labels else t[index], q[index])
            expected[n] += value / len(counted)
            by_prediction[index] = (n + 1) * torch.tensor(dq).double() / len(counted)
            if not labels:
                by_target[index] = (n + 1) * torch.tensor(dt).double() / len(counted)
    close(values, expected)
    got = gradients(values, *([prediction] if labels else [prediction, target]))
    torch.testing.assert_close(got[0].movedim(class_dim, -1), by_prediction, rtol=1e-6, atol=1e-7)
    if not labels:
        torch.testing.assert_close(got[1].movedim(class_dim, -1), by_target, rtol=1e-6, atol=1e-7)


@EACH_SOFTMAX
def test_positions_and_finite_differences(name: str) -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    function = partial(SOFTMAX[name], class_dim=1, mask=mask)
    assert torch.autograd.gradcheck(function, (logits(2, 4, 3), logits(2, 4, 3)))
    labels = torch.tensor([[0, 3, 1], [2, 2, 0]])
    assert torch.autograd.gradcheck(partial(function, labels), (logits(2, 4, 3),))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("where", ["target", "prediction"])
def test_a_position_that_does_not_count_may_hold_anything(name: str, value: float, where: str) -> None:
    settings = {"class_dim": -1} if name in SOFTMAX else {}
    mask = torch.tensor([[True, False], [True, True]])
    mask = mask if name in SOFTMAX else mask[..., None].expand(-1, -1, 3)
    pair = {"target": torch.randn(2, 2, 3).double(), "prediction": torch.randn(2, 2, 3).double()}
    clean = [z.clone().requires_grad_() for z in pair.values()]
    pair[where][0, 1] = value
    dirty = [z.clone().requires_grad_() for z in pair.values()]
    results = [ALL[name](*z, mask=mask, **settings) for z in (clean, dirty)]
    close(*results)
    close(*(gradients(v, *z) for v, z in zip(results, (clean, dirty), strict=True)))


# −∞: classes that are masked in both


@EACH_SOFTMAX
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kept", [[0, 2, 3], [1, 4], [2]])
def test_masked_classes_are_as_if_they_were_not_there(name: str, dtype: torch.dtype, kept: list[int]) -> None:
    """Two or more classes are needed, so the reference adds a class of probability 0."""
    gone = [c for c in range(5) if c not in kept]
    t, q = (torch.randn(4, 5, dtype=dtype) for _ in range(2))
    few = [torch.cat([z[:, kept], torch.full((4, 1), -1e4, dtype=dtype)], dim=1).requires_grad_() for z in (t, q)]
    many = [z.index_fill(1, torch.tensor(gone), -INF).requires_grad_() for z in (t, q)]
    expected, values = SOFTMAX[name](*few), SOFTMAX[name](*many)
    scale = (len(kept) + 1) / 5 if name == "qe" else 1
    torch.testing.assert_close(values, scale * expected)
    for got, wanted in zip(gradients(values, *many), gradients(expected, *few), strict=True):
        torch.testing.assert_close(got[:, kept], scale * wanted[:, :-1])
        assert not got[:, gone].any()


@EACH_SOFTMAX
def test_masked_classes_with_labels(name: str) -> None:
    q, labels = torch.randn(3, 4).double(), torch.tensor([0, 3, 0])
    few, many = q[:, [0, 3]].requires_grad_(), q.index_fill(1, torch.tensor([1, 2]), -INF).requires_grad_()
    values, expected = SOFTMAX[name](labels, many), SOFTMAX[name]((labels == 3).long(), few)
    scale = 2 / 4 if name == "qe" else 1
    close(values, scale * expected)
    (got,), (wanted,) = gradients(values, many), gradients(expected, few)
    close(got[:, [0, 3]], scale * wanted)
    assert not got[:, [1, 2]].any()


@EACH_SOFTMAX
def test_each_row_may_mask_other_classes(name: str) -> None:
    rows = torch.tensor([[1.0, -INF, 2.0, 0.0], [-INF, -INF, 0.5, 1.0], [0.0, 1.0, 2.0, -INF]]).double()
    t, q = rows.clone().requires_grad_(), (rows * 0.5 + 0.1).requires_grad_()
    values = SOFTMAX[name](t, q)
    for n in range(3):
        kept = [c for c in range(4) if rows[n, c] > -INF]
        distribution = oracles.softmax(rows[n, kept].tolist())
        value = oracles.VALUES[name](distribution, (rows[n, kept] * 0.5 + 0.1).tolist())
        assert values[n].item() == pytest.approx(value * (len(kept) / 4 if name == "qe" else 1), rel=1e-12)
    assert all(g.isfinite().all() for g in gradients(values, t, q))


@pytest.mark.parametrize("name", ["ce", "kl"])
def test_a_class_that_only_the_prediction_excludes_costs_infinity(name: str) -> None:
    assert SOFTMAX[name](torch.zeros(1, 2), torch.tensor([[0.0, -INF]])).item() == INF
    assert SOFTMAX[name](torch.tensor([[0.0, -INF]]), torch.zeros(1, 2)).item() == pytest.approx(math.log(2))


@EACH_BERNOULLI
@pytest.mark.parametrize("value", [-INF, INF])
def test_a_certain_bernoulli_logit(name: str, value: float) -> None:
    t, q = (torch.tensor([value, 0.3 + i]).double().requires_grad_() for i in range(2))
    values = BERNOULLI[name](t, q)
    assert values[0] == 0
    assert all(g.isfinite().all() and g[0] == 0 and g[1] != 0 for g in gradients(values, t, q))


# Bernoulli and squared error in floats


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def output_by_hand(name: str, t: float, z: float, label: bool) -> tuple[float, float]:
    """Value and the derivative by z; a label t is 0 or 1, otherwise t is a logit, or an output."""
    if name == "squared_error":
        return (t - z) ** 2, 2 * (z - t)
    p, q = (t if label else sigmoid(t)), sigmoid(z)
    if name == "bernoulli_qe":
        return (p - q) ** 2, 2 * (q - p) * q * (1 - q)
    value = p * softplus(-z) + (1 - p) * softplus(z)
    if name == "bernoulli_kl" and not label:
        value -= p * softplus(-t) + (1 - p) * softplus(t)
    return value, q - p


@EACH_OUTPUT
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("kind", ["logits", "labels", "bool"])
@pytest.mark.parametrize("masked", [False, True])
def test_one_output_and_several(name: str, shape: tuple[int, ...], kind: str, masked: bool) -> None:
    z, label = logits(*shape), kind != "logits"
    t = torch.randint(2, shape) if label else logits(*shape)
    t = t.bool() if kind == "bool" else t
    mask = torch.tensor([[True] * 2, [False] * 2, [True, False]])[:, : (*shape, 1)[1]] if masked else None
    if mask is not None and len(shape) == 1:
        mask = mask[:, 0]
    if mask is not None and shape == (3, 4):
        mask = torch.cat([mask, mask], dim=1)
    values = ALL[name](t, z, mask=mask)
    expected, slopes = torch.zeros(3).double(), torch.zeros(shape).double()
    for n in range(3):
        indices = [(n, *rest) for rest in product(*(range(size) for size in shape[1:]))]
        counted = [index for index in indices if mask is None or bool(mask[index[: mask.dim()]])]
        for index in counted:
            value, slope = output_by_hand(name, t[index].item(), z[index].item(), label)
            expected[n] += value / len(counted)
            slopes[index] = (n + 1) * slope / len(counted)
    close(values, expected)
    close(gradients(values, z)[0], slopes)


@EACH_OUTPUT
@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
def test_outputs_and_finite_differences(name: str, shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(ALL[name], (logits(*shape), logits(*shape)))
    assert torch.autograd.gradcheck(partial(ALL[name], torch.randint(2, shape)), (logits(*shape),))


@pytest.mark.parametrize("two", ["ce", "kl", "qe"])
def test_one_logit_is_the_softmax_of_two(two: str) -> None:
    t, z = logits(5), logits(5)
    pairs = [torch.stack([torch.zeros_like(a), a], dim=1) for a in (t, z)]
    close(BERNOULLI[f"bernoulli_{two}"](t, z), SOFTMAX[two](*pairs))


@EACH_BERNOULLI
def test_stable_at_extreme_logits(name: str) -> None:
    t, z = torch.tensor([1e4, -1e4, 1e4, 0.0]), torch.tensor([1e4, 1e4, -1e4, -1e4]).requires_grad_()
    values = BERNOULLI[name](t, z)
    wanted = {"bernoulli_qe": [0, 1, 1, 0.25], "bernoulli_kl": [0, 1e4, 1e4, 5e3 - math.log(2)]}
    torch.testing.assert_close(values, torch.tensor(wanted.get(name, [0, 1e4, 1e4, 5e3])).float())
    slopes = [0.0, 0.0, 0.0, 0.0] if name == "bernoulli_qe" else [0.0, 1.0, -1.0, -0.5]
    close(torch.autograd.grad(values.sum(), z)[0], torch.tensor(slopes))


# Refusals


@EACH_SOFTMAX
@pytest.mark.parametrize("target", [torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)], ids=["logits", "labels"])
def test_one_logit_under_a_softmax(name: str, target: Tensor) -> None:
    with pytest.raises(ValueError, match=r"two or more classes, got \(3, 1\).*bernoulli_kl.*squared_error") as caught:
        SOFTMAX[name](target, torch.zeros(3, 1))
    assert isinstance(caught.value, AdversarialDropoutError)


@EACH_BERNOULLI
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 2]), r"labels in \[0, 2\)"),
        (torch.tensor([0, -1]), r"labels in \[0, 2\)"),
        (torch.zeros(2, 1), r"prediction's shape \(2,\), got \(2, 1\)"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
    ],
)
def test_bad_targets_of_bernoulli(name: str, target: Tensor, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        BERNOULLI[name](target, torch.zeros(2))
    assert isinstance(caught.value, AdversarialDropoutError)


@pytest.mark.parametrize(("name", "meant"), [("mse", "squared_error"), ("bce", "bernoulli_ce")])
def test_usual_names_of_losses_lead_to_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f'did you mean "{meant}"'):
        divergences.resolve_divergence(name)

"""R-Drop, Mean Teacher and temporal ensembling against their published definitions, written out by hand."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adversarial_dropout import (
    AdversarialDropoutWarning,
    MeanTeacher,
    RDrop,
    TemporalEnsembling,
    VirtualAdversarialDropout,
    kl_divergence,
)
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, NonFiniteError

from .recording import CLASSES, FORMS, UNITS, assert_same, batch, build, flipped, plain, rescaled


def probabilities(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(dim=1, keepdim=True)


def small_network(*, norm: bool = False) -> nn.Sequential:
    """A float64 classifier with dropout, the same each time."""
    torch.manual_seed(7)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, CLASSES)).double()


def first_weight(model: nn.Module) -> nn.Parameter:
    return dict(model.named_parameters())["0.weight"]


# R-Drop


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_r_drop_is_the_mean_of_both_kl_divergences(form: str, given: bool, reduction: Any) -> None:
    net = build(form, std=0.2)
    x, _ = batch()
    target = net.model(x) if given else None
    value = RDrop(reduction=reduction)(net.model, x, target=target)
    p, q = (
        probabilities(net.logits(net.h(x, below.noise) * above.mask / 0.5, above.noise))
        for below, above in zip(net.below.runs, net.above.runs, strict=True)
    )
    values = ((p * (p / q).log()).sum(dim=1) + (q * (q / p).log()).sum(dim=1)) / 2
    expected = {"none": values, "mean": values.sum() / 5, "sum": values.sum()}[reduction]
    assert_same(value, expected)
    assert_same(net.grads(value.sum()), net.grads(expected.sum()))


def test_the_published_loss_of_r_drop() -> None:
    """L = −log P1(y) − log P2(y) + α/2 [KL(P1‖P2) + KL(P2‖P1)], as the docstring writes it."""
    model = small_network()
    x, y = batch(4)
    a, b = model(x), model(x)
    both_ways = (kl_divergence(a, b) + kl_divergence(b, a)).mean() / 2
    loss = F.cross_entropy(a, y) + F.cross_entropy(b, y) + 3.0 * both_ways
    expected = 0.0
    for p, q, label in zip(probabilities(a).tolist(), probabilities(b).tolist(), y.tolist(), strict=True):
        kl = sum(s * math.log(s / t) + t * math.log(t / s) for s, t in zip(p, q, strict=True))
        expected += (-math.log(p[label]) - math.log(q[label]) + 3.0 / 2 * kl) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_r_drop_with_another_divergence_and_without_noise() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    x, _ = batch()
    out = model(x)
    torch.manual_seed(3)
    again = model(x)
    torch.manual_seed(3)
    assert_same(RDrop(divergence="squared_error")(model, x, target=out), (out - again).square().mean())
    r_drop = pickle.loads(pickle.dumps(RDrop()))
    assert repr(r_drop) == "RDrop(divergence=kl, reduction=mean, output=None, class_dim=None)"
    with pytest.warns(AdversarialDropoutWarning, match="both passes gave the same predictions"):
        assert r_drop(small_network().eval(), x) == 0


# Mean Teacher


def published_mean_teacher(
    model: nn.Sequential, batches: list[tuple[Tensor, Tensor]], *, decay: float, weight: float, rate: float
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """SGD on cross-entropy plus the consistency cost, with the teacher as a second set of weights."""
    student = {name: value.detach().clone() for name, value in model.named_parameters()}
    teacher = {name: value.clone() for name, value in student.items()}
    losses = []
    for step, (x, y) in enumerate(batches):
        student = {name: value.detach().requires_grad_() for name, value in student.items()}
        torch.manual_seed(100 + step)
        out = functional_call(model, student, x)
        goal = probabilities(functional_call(model, teacher, x))
        consistency = ((probabilities(out) - goal) ** 2).sum() / CLASSES / len(x)
        loss = -probabilities(out).log()[range(len(x)), y].mean() + weight * consistency
        gradients = torch.autograd.grad(loss, list(student.values()))
        student = {
            name: (value - rate * gradient).detach()
            for (name, value), gradient in zip(student.items(), gradients, strict=True)
        }
        alpha = min(1 - 1 / (step + 2), decay)  # The authors count the step before the update.
        teacher = {name: alpha * value + (1 - alpha) * student[name] for name, value in teacher.items()}
        losses.append(loss.detach())
    return losses, student, teacher


def test_mean_teacher_trains_as_published() -> None:
    batches = [batch(5, seed) for seed in range(5)]
    losses, student, average = published_mean_teacher(small_network(), batches, decay=0.7, weight=4.0, rate=0.5)
    model = small_network()
    teacher = MeanTeacher(model, decay=0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step, ((x, y), expected) in enumerate(zip(batches, losses, strict=True)):
        torch.manual_seed(100 + step)
        out = model(x)
        loss = F.cross_entropy(out, y) + 4.0 * teacher(model, x, target=out)
        assert_same(loss.detach(), expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(model)
    assert_same([value.detach() for value in model.parameters()], list(student.values()))
    assert_same(list(teacher.teacher.parameters()), list(average.values()))
    assert all(value.grad is None and not value.requires_grad for value in teacher.teacher.parameters())


def test_the_pass_of_the_student_is_made_where_no_target_is_given() -> None:
    model = small_network()
    teacher = MeanTeacher(model, reduction="none")
    with torch.no_grad():
        first_weight(model).mul_(1.5)
    x, _ = batch()
    torch.manual_seed(1)
    values = teacher(model, x)
    torch.manual_seed(1)
    goal, prediction = teacher.teacher(x), model(x)
    assert_same(values, plain("qe", goal, prediction))
    parameters = list(model.parameters())
    assert_same(
        list(torch.autograd.grad(values.sum(), parameters)),
        list(torch.autograd.grad(plain("qe", goal, prediction).sum(), parameters)),
    )
    assert repr(teacher).startswith("MeanTeacher(\n  decay=0.999, divergence=qe, reduction=none, output=None")


def test_the_teacher_has_batch_statistics_of_its_own() -> None:
    model = small_network(norm=True)
    teacher = MeanTeacher(model, decay=0.5)
    linear, norm, *_ = teacher.teacher.children()
    with torch.no_grad():
        first_weight(model).add_(1.0)
    x, _ = batch(20)
    own = linear(x)
    teacher(model, x, target=model(x))
    before = norm.get_buffer("running_mean").clone()
    assert_same(before, 0.1 * own.mean(dim=0))
    teacher.update(model)
    assert torch.equal(norm.get_buffer("running_mean"), before)


def test_the_teacher_is_in_the_mode_of_the_model_module_by_module() -> None:
    model = small_network(norm=True)
    teacher = MeanTeacher(model)
    model[1].eval()
    wrapped = nn.Sequential(model)  # As DistributedDataParallel puts a module in front.
    x, _ = batch()
    teacher(wrapped, x)
    assert [module.training for module in teacher.teacher.modules()] == [m.training for m in model.modules()]
    assert not teacher.teacher.get_buffer("1.running_mean").any()
    teacher.update(wrapped)
    model.eval()
    assert_same(teacher(model, x, target=model(x)), teacher(model, x, target=model(x)))
    assert not teacher.teacher.training


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_a_mean_teacher_continues_from_its_state(how: str) -> None:
    model = small_network()
    teacher = MeanTeacher(model, decay=0.9)
    for _ in range(3):
        with torch.no_grad():
            first_weight(model).mul_(1.3)
        teacher.update(model)
    if how == "state_dict":
        other = MeanTeacher(nn.Sequential(*small_network()), decay=0.9)
        other.load_state_dict(teacher.state_dict())
    else:
        other = copy.deepcopy(teacher) if how == "deepcopy" else pickle.loads(pickle.dumps(teacher))
    with torch.no_grad():
        first_weight(model).mul_(1.3)
    for each in (teacher, other):
        each.update(model)
    assert_same(list(other.teacher.parameters()), list(teacher.teacher.parameters()))
    weights = [first_weight(small_network()).detach() * 1.3**step for step in range(5)]
    assert_same(first_weight(other.teacher), sum(weights, start=torch.zeros(())) / 5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MeanTeacher(small_network(), decay=99), InvalidValueError, r"decay to be in \[0, 1\], got 99"),
        (lambda: MeanTeacher([small_network()]), InvalidTypeError, "torch.nn.Module as model, got list"),  # type: ignore[arg-type]
        (lambda: MeanTeacher(nn.LazyLinear(2)), InvalidValueError, "lazy ones; run the model once before"),
        (
            lambda: MeanTeacher(small_network()).update(nn.Linear(2, 2)),
            InvalidValueError,
            "model that was copied, got one with other parameters: 2 tensors, 6 numbers, instead of 4 and 83",
        ),
        (lambda: MeanTeacher(nn.Linear(2, 2).bfloat16()), AdversarialDropoutWarning, "loses its small steps"),
    ],
)
def test_invalid_teachers(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", ["averaged", "mean teacher"])
def test_a_teacher_gives_the_target_of_virtual_adversarial_dropout(kind: str) -> None:
    net = build()
    x, _ = batch()
    teacher: Any = AveragedModel(net.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    if kind == "mean teacher":
        teacher = MeanTeacher(net.model)
    for update in (teacher.update_parameters,) * 2 if kind == "averaged" else (teacher.update,):
        with torch.no_grad():
            net.parameters[0].mul_(1.5)
        update(net.model)
    net.model(x)
    with torch.no_grad():
        target = teacher(x) if kind == "averaged" else teacher.teacher(x)
    loss = VirtualAdversarialDropout()(net.model, x, target=target)
    base, h = net.above.runs[0].mask, net.h(x, torch.zeros(5, UNITS, dtype=torch.float64))
    ones = torch.ones_like(h, requires_grad=True)
    (slope,) = torch.autograd.grad(plain("kl", target, net.head(h.detach() * ones)).sum(), ones)
    found = flipped(base, slope, 3)
    assert (found != base).any()
    expected = plain("kl", target, net.head(h * rescaled(found, 0.5, "inverted"))).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


# Temporal ensembling


def published_temporal_ensembling(
    model: nn.Sequential, x: Tensor, y: Tensor, epochs: list[list[list[int]]], *, alpha: float, weight: float
) -> tuple[list[Tensor], list[Tensor], list[list[float]]]:
    """Algorithm 2 with gradient descent; y is -1 where there is no label. Losses, weights and z̃."""
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    ensemble = [[0.0] * CLASSES for _ in x]
    targets = [[0.0] * CLASSES for _ in x]
    losses, step = [], 0
    for t, batches in enumerate(epochs, start=1):
        predictions = [[0.0] * CLASSES for _ in x]
        for rows in batches:
            weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
            torch.manual_seed(200 + step)
            z = probabilities(functional_call(model, weights, x[rows]))
            labelled = [(i, int(y[row])) for i, row in enumerate(rows) if y[row] >= 0]
            loss = sum((-z[i, label].log() for i, label in labelled), start=0 * z.sum()) / len(rows)
            if t > 1:
                squares = ((z - torch.tensor([targets[row] for row in rows], dtype=torch.float64)) ** 2).sum()
                loss = loss + weight / (CLASSES * len(rows)) * squares
            gradients = torch.autograd.grad(loss, list(weights.values()))
            for (name, value), gradient in zip(list(weights.items()), gradients, strict=True):
                weights[name] = (value - 0.5 * gradient).detach()
            for i, row in enumerate(rows):
                predictions[row] = z[i].tolist()
            losses.append(loss.detach())
            step += 1
        for i, newest in enumerate(predictions):
            ensemble[i] = [alpha * a + (1 - alpha) * b for a, b in zip(ensemble[i], newest, strict=True)]
            targets[i] = [value / (1 - alpha**t) for value in ensemble[i]]
    return losses, list(weights.values()), targets


@pytest.mark.parametrize("given", [False, True])
def test_temporal_ensembling_trains_as_published(given: bool) -> None:
    x, y = batch(7)
    y[::2] = -1
    epochs = [[[0, 3, 5], [6, 1, 2], [4]], [[2, 4, 1], [0, 6, 3], [5]], [[1, 5], [0, 2], [3, 4, 6]]]
    losses, weights, targets = published_temporal_ensembling(small_network(), x, y, epochs, alpha=0.6, weight=5.0)
    model = small_network()
    ensemble = TemporalEnsembling(7, CLASSES).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    expected = iter(losses)
    for step, rows in enumerate(rows for batches in epochs for rows in batches):
        torch.manual_seed(200 + step)
        out = model(x[rows])
        supervised = F.cross_entropy(out, y[rows], ignore_index=-1, reduction="sum") / len(rows)
        torch.manual_seed(200 + step)
        term = ensemble(model, x[rows], index=torch.tensor(rows), target=out if given else None)
        loss = supervised + 5.0 * term
        assert_same(loss.detach(), next(expected))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same([value.detach() for value in model.parameters()], weights)
    assert_same(ensemble.sums / (1 - 0.6**3), torch.tensor(targets, dtype=torch.float64))


@pytest.mark.parametrize("divergence", ["qe", "kl"])
def test_an_example_counts_from_its_second_use(divergence: str) -> None:
    ensemble = TemporalEnsembling(9, CLASSES, divergence=divergence, reduction="none", momentum=0.3).double()
    model, (x, _) = nn.Linear(6, CLASSES).double(), batch(4)
    first = model(x)
    assert not ensemble(model, x, index=torch.tensor([8, 0, 3, 5]), target=first).any()
    later = torch.randn(4, CLASSES, dtype=torch.float64, requires_grad=True)
    values = ensemble(model, x, index=torch.tensor([1, 3, 5, 8], dtype=torch.int32), target=later)
    expected = plain(divergence, first.detach()[[2, 3, 0]], later[1:])
    assert_same(values, torch.cat([torch.zeros(1), expected]))
    (gradient,) = torch.autograd.grad(values.sum(), later)
    assert_same(gradient[1:], torch.autograd.grad(expected.sum(), later)[0][1:])
    assert not gradient[0].any()
    times = torch.tensor([1, 1, 0, 2, 0, 2, 0, 0, 2])
    assert_same(ensemble.sums.sum(dim=1), 1 - 0.3 ** times.double())


def test_copies_of_an_example_in_a_batch_count_once() -> None:
    ensemble = TemporalEnsembling(3, CLASSES, momentum=0.5).double()
    model, (x, _) = nn.Linear(6, CLASSES).double(), batch(3)
    z = probabilities(model(x)).detach()
    ensemble(model, x, index=torch.tensor([2, 0, 2]))
    assert_same(ensemble.sums, torch.stack([z[1] / 2, torch.zeros(CLASSES), (z[0] + z[2]) / 4]))


def test_evaluation_and_a_failed_call_store_nothing_and_the_state_is_saved() -> None:
    ensemble = TemporalEnsembling(5, CLASSES)
    model, (x, _) = nn.Linear(6, CLASSES), batch(3)
    x, index = x.float(), torch.arange(3)
    ensemble(model, x, index=index)
    state = {name: value.clone() for name, value in ensemble.state_dict().items()}
    ensemble(model.eval(), x, index=index)
    with pytest.raises(NonFiniteError):
        ensemble(model.train(), x, index=index, target=torch.full((3, CLASSES), math.nan))
    assert all(torch.equal(value, state[name]) for name, value in ensemble.state_dict().items())
    other = TemporalEnsembling(5, CLASSES)
    other.load_state_dict(state)
    target = torch.randn(3, CLASSES)
    assert_same(*(each(model, x, index=index, target=target) for each in (ensemble, other)))
    assert repr(other).startswith("TemporalEnsembling(examples=5, classes=3, momentum=0.6, divergence=qe")


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (None, InvalidValueError, r"expected index, .*; call reg\(model, x, index=index\)"),
        ([0, 1, 2], InvalidTypeError, "index to be a tensor of integers, got list"),
        (torch.arange(3.0), InvalidTypeError, "tensor of integers, got torch.float32"),
        (torch.ones(3, dtype=torch.bool), InvalidTypeError, "tensor of integers, got torch.bool"),
        (torch.zeros(3, 1, dtype=torch.long), InvalidValueError, r"index of shape \(N,\), got \(3, 1\)"),
        (torch.tensor([0, -1, 5]), InvalidValueError, r"index in \[0, 5\), got values from -1 to 5"),
        (torch.arange(2), InvalidValueError, r"logits of shape \(2, 3\), one row for each .*, got \(3, 3\)"),
    ],
)
def test_invalid_indices(index: Any, error: type[Exception], message: str) -> None:
    x, _ = batch(3)
    with pytest.raises(error, match=message):
        TemporalEnsembling(5, CLASSES)(nn.Linear(6, CLASSES).double(), x, index=index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": 0, "classes": 3}, "examples to be a whole number, 1 or more, got 0"),
        ({"examples": 4, "classes": 1}, "classes to be a whole number, 2 or more, got 1"),
        ({"examples": 4, "classes": 3, "momentum": 1}, "momentum below 1, got 1"),
    ],
)
def test_invalid_ensembles(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        TemporalEnsembling(**settings)

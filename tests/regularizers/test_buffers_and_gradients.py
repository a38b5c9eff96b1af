"""The effects of a call: parameters' ``.grad``, buffers, and a graph for the backward pass."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from adversarial_dropout import AdversarialDropout

from .recording import FORMS, METHODS, Recorder, assert_same, batch, build, in_form


class AssigningNorm(nn.Module):
    """A BatchNorm that assigns its buffers instead of changing them in place."""

    mean: Tensor
    count: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=0)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * mean.detach()
            self.count = self.count + 1
        return x - mean


def batch_norm() -> nn.Module:
    return nn.BatchNorm1d(10)


def cumulative_batch_norm() -> nn.Module:
    return nn.BatchNorm1d(10, momentum=None)


def assigning_norm() -> nn.Module:
    return AssigningNorm(10)


def old_spectral_norm() -> nn.Module:
    return spectral_norm(nn.Linear(10, 10))


def new_spectral_norm() -> nn.Module:
    return parametrizations.spectral_norm(nn.Linear(10, 10))


NORMS: list[Callable[[], nn.Module]] = [
    batch_norm,
    cumulative_batch_norm,
    assigning_norm,
    old_spectral_norm,
    new_spectral_norm,
]
EACH_NORM = pytest.mark.parametrize("norm", NORMS)
EACH_METHOD = pytest.mark.parametrize("method", METHODS)
EACH_FORM = pytest.mark.parametrize("form", FORMS)


def normed(form: str, norm: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module, nn.Module, Recorder, Recorder]:
    """A model with one norm below the layer and one above, these two, and recorders of what enters them."""
    torch.manual_seed(0)
    below, above, into_below, into_above = norm(), norm(), Recorder(), Recorder()
    under = [nn.Linear(6, 10), into_below, below, nn.Softplus()]
    upper = [AdversarialDropout(0.5, 0.3), into_above, above, nn.Tanh(), nn.Linear(10, 3)]
    return in_form(form, under, upper).double(), below, above, into_below, into_above


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def after_plain_passes(module: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    """The buffers of a copy after it has run on these inputs."""
    twin = copy.deepcopy(module)
    for x in inputs:
        twin(x)
    return buffers(twin)


@EACH_NORM
@EACH_FORM
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("method", "counted"),
    [
        # per norm, which of the recorded runs count: below (cut), below (whole), above
        ("vadd", ([0, 1], [0, 2], [0, 2])),
        ("vadd-shared", ([0], [0, 2], [0, 2])),
        ("sadd", ([0], [1], [1])),
        ("vat", ([0], [0], [0])),
        ("at", ([], [], [])),
        ("pi", ([0, 1], [0, 1], [0, 1])),
        ("entropy", ([0], [0], [0])),
    ],
)
def test_buffers_follow_the_passes_that_count_and_no_other(
    form: str, method: str, norm: Callable[[], nn.Module], counted: tuple[list[int], list[int], list[int]], given: bool
) -> None:
    """``given``: the user runs the model first, so the buffers have other values."""
    model, below, above, into_below, into_above = normed(form, norm)
    x, y = batch(8)
    if given:
        with torch.no_grad():
            model(x + 1)
        into_below.runs.clear()
        into_above.runs.clear()
    start_below, start_above = copy.deepcopy(below), copy.deepcopy(above)
    METHODS[method]()(model, x, y)
    runs_below = counted[1] if form == "opaque" and norm is old_spectral_norm else counted[0]  # It works by a hook.
    expected_below = after_plain_passes(start_below, [into_below.runs[i].seen for i in runs_below])
    expected_above = after_plain_passes(start_above, [into_above.runs[i].seen for i in counted[2]])
    assert_same(list(buffers(below).values()), list(expected_below.values()))
    assert_same(list(buffers(above).values()), list(expected_above.values()))


@EACH_NORM
@EACH_FORM
@pytest.mark.parametrize("method", ["vat", "at", "entropy"])
def test_with_a_target_no_buffer_changes_or_is_replaced(form: str, method: str, norm: Callable[[], nn.Module]) -> None:
    model = normed(form, norm)[0]
    x, y = batch(8)
    target = model(x)
    values, objects = buffers(model), dict(model.named_buffers())
    loss: Tensor = METHODS[method]()(model, x, y, target=target)
    torch.autograd.grad(loss, list(model.parameters()))
    assert dict(model.named_buffers()).keys() == objects.keys()
    for name, buffer in model.named_buffers():
        assert buffer is objects[name], "a buffer was replaced by another tensor"
        assert torch.equal(buffer, values[name])


class Calibrated(nn.Module):
    """Takes scale and shift from the first batch: one is a buffer without a value, the other no buffer before that."""

    scale: Tensor | None
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = x.detach().std()
            self.register_buffer("shift", x.detach().mean())
        return (x - self.shift) / self.scale


@pytest.mark.parametrize("method", ["vat", "at"])
def test_a_pass_on_copies_creates_no_buffer(method: str) -> None:
    calibrated = Calibrated()
    model = nn.Sequential(nn.Linear(6, 10), calibrated, nn.Linear(10, 3)).double()
    x, y = batch()
    METHODS[method]()(model, x, y, target=torch.zeros(5, 3, dtype=torch.float64))
    assert calibrated.scale is None
    assert not list(calibrated.named_buffers())


class Counter(nn.Module):
    """Multiplies by the number of its calls."""

    def __init__(self, count: Tensor) -> None:
        super().__init__()
        self.count: Tensor
        self.register_buffer("count", count)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count.clone()


@pytest.mark.parametrize("method", ["vat", "at"])
def test_a_buffer_that_two_modules_share_stays_shared(method: str) -> None:
    values = []
    for shared in (False, True):
        torch.manual_seed(0)
        first = Counter(torch.zeros(()))
        second = Counter(first.count) if shared else first
        model = nn.Sequential(first, nn.Linear(6, 6), nn.Tanh(), second, nn.Linear(6, 3))
        x, y = batch()
        values.append(METHODS[method]()(model, x.float(), y, target=torch.zeros(5, 3)).item())
        assert first.count == 0
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("method", "given", "batches"),
    [
        ("vadd", False, 2),
        ("vadd", True, 1),
        ("vadd-shared", False, 2),
        ("sadd", False, 1),
        ("vat", False, 1),
        ("vat", True, 0),
        ("at", False, 0),
        ("pi", False, 2),
        ("pi", True, 1),
        ("entropy", True, 0),
    ],
)
@EACH_FORM
def test_batches_that_a_batchnorm_above_the_layer_has_counted(
    form: str, method: str, given: bool, batches: int
) -> None:
    model, _, above, *_ = normed(form, batch_norm)
    x, y = batch(8)
    target = model(x) if given else None
    assert isinstance(above, nn.BatchNorm1d)
    assert above.num_batches_tracked is not None
    before = above.num_batches_tracked.item()
    METHODS[method]()(model, x, y, target=target)
    assert above.num_batches_tracked.item() - before == batches


@EACH_NORM
@EACH_FORM
def test_backward_through_all_terms_together(form: str, norm: Callable[[], nn.Module]) -> None:
    model = normed(form, norm)[0]
    x, y = batch(8)
    out = model(x)
    total = nn.functional.cross_entropy(out, y)
    for name, make in METHODS.items():
        total = total + make()(model, x, y)
        if name != "vadd-shared":
            total = total + make()(model, x, y, target=out)
    for gradient in torch.autograd.grad(total, list(model.parameters())):
        assert gradient.isfinite().all()


@EACH_METHOD
@EACH_FORM
@pytest.mark.parametrize("accumulated", [False, True])
def test_a_call_touches_no_grad_and_no_value(form: str, method: str, accumulated: bool) -> None:
    model = normed(form, batch_norm)[0]
    x, y = batch(8)
    x.requires_grad_()
    if accumulated:
        model(x).square().sum().backward()
    tensors = [x, *model.parameters()]
    grads = [tensor.grad for tensor in tensors]
    copies = [None if grad is None else grad.clone() for grad in grads]
    values = [tensor.detach().clone() for tensor in tensors]
    METHODS[method]()(model, x, y)
    for tensor, grad, before, value in zip(tensors, grads, copies, values, strict=True):
        assert tensor.grad is grad
        assert grad is None or (before is not None and torch.equal(grad, before))
        assert torch.equal(tensor, value)
        assert tensor.requires_grad


@EACH_METHOD
@EACH_FORM
def test_gradients_accumulate_to_those_of_the_sum(form: str, method: str) -> None:
    (x, y), (x2, y2) = batch(8), batch(8, seed=2)
    reg = METHODS[method]()
    net = build(form, std=0.1)
    torch.manual_seed(1)
    first = reg(net.model, x, y)
    second = reg(net.model, x2, y2)
    expected = net.grads(first + second)

    torch.manual_seed(1)
    reg(net.model, x, y).backward()
    reg(net.model, x2, y2).backward()
    actual = [parameter.grad for parameter in net.parameters]
    assert_same([grad for grad in actual if grad is not None], expected)


@EACH_METHOD
def test_parameters_that_are_frozen_stay_frozen(method: str) -> None:
    net = build()
    net.stem.requires_grad_(False)
    x, y = batch()
    METHODS[method]()(net.model, x, y).backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.stem.parameters())
    assert all(parameter.grad is not None for parameter in net.head.parameters())


@EACH_METHOD
def test_tied_weights(method: str) -> None:
    """One matrix below and above the layer: its gradient is the sum over both uses."""

    def run(tied: bool) -> list[Tensor]:
        torch.manual_seed(0)
        lower, upper = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        upper.weight = lower.weight if tied else nn.Parameter(lower.weight.detach().clone())
        model = nn.Sequential(lower, nn.Softplus(), AdversarialDropout(0.5, 0.34), upper).double()
        x, y = batch()
        torch.manual_seed(1)
        loss = METHODS[method]()(model, x, y)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    (tied,), (first, second) = run(tied=True), run(tied=False)
    assert_same(tied, first + second)

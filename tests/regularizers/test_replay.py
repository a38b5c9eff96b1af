"""Passes with recorded outputs equal whole passes, on models that cannot be cut."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import SupervisedAdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.regularizers.passes import held_generators
from adversarial_dropout.regularizers.replay import replay_allowed
from adversarial_dropout.regularizers.search import draw_seed

from .own_containers import ALL_MODELS, own_model
from .own_models import Seen
from .recording import batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:the search pass repeats the target pass"),
    pytest.mark.filterwarnings(
        "ignore:None of the inputs have requires_grad=True"
    ),  # Reentrant checkpoints in a search.
]


@contextlib.contextmanager
def whole_passes() -> Iterator[None]:
    token = replay_allowed.set(False)
    try:
        yield
    finally:
        replay_allowed.reset(token)


def vadd_shared(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value: Tensor = VirtualAdversarialDropout(noise="shared")(model, x)
    return value


def vadd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value: Tensor = VirtualAdversarialDropout()(model, x)
    return value


def vadd_target(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    out = model(x)
    value: Tensor = VirtualAdversarialDropout()(model, x, target=out)
    return value + F.cross_entropy(out, y)


def sadd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value: Tensor = SupervisedAdversarialDropout()(model, x, y)
    return value


def sadd_target(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    out = model(x)
    value: Tensor = SupervisedAdversarialDropout()(model, x, y, target=out)
    return value + F.cross_entropy(out, y)


def shared_with_output(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    out, value = VirtualAdversarialDropout(noise="shared").with_output(model, x)
    return value + F.cross_entropy(out, y)


def with_output(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    out, value = VirtualAdversarialDropout(detach_target=True).with_output(model, x)
    return value + F.cross_entropy(out, y)


Step = Callable[[nn.Module, Tensor, Tensor], Tensor]

STEPS: dict[Step, tuple[int, int]] = {
    vadd_shared: (1, 3),
    shared_with_output: (1, 3),
    vadd: (2, 3),
    with_output: (2, 3),
    vadd_target: (2, 3),
    sadd: (1, 2),
    sadd_target: (2, 3),
}
"""How often a step runs what is below the layer, with replay and without."""
SHARED = (vadd_shared, shared_with_output)
EACH_STEP = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
ADDED_IN_ANOTHER_ORDER = ("functions between",)
"""Models with an activation that is used three times."""
EACH_MODEL = pytest.mark.parametrize("name", ALL_MODELS)


def results(model: nn.Module, step: Step, x: Tensor, y: Tensor, *, whole: bool, seed: int = 5) -> tuple[Any, ...]:
    """Loss, gradients, buffers, and what the random streams draw next."""
    torch.manual_seed(seed)
    for generator in held_generators(model):
        generator.manual_seed(seed)
    x = x.clone().requires_grad_(x.is_floating_point())
    with whole_passes() if whole else contextlib.nullcontext():
        loss = step(model, x, y)
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros(()) if leaf.grad is None else leaf.grad for leaf in (x, *model.parameters())]
    drawn = [torch.rand(3), *(torch.rand(3, generator=generator) for generator in held_generators(model))]
    return loss.detach(), gradients, {name: value.clone() for name, value in model.named_buffers()}, drawn


def runs(model: nn.Module, step: Step, x: Tensor, y: Tensor) -> int:
    """How often a step runs the first module."""
    (first,) = (module for module in model.modules() if isinstance(module, Seen))
    first.runs = 0
    step(model, x, y)
    return first.runs


def assert_equals_whole(model: nn.Module, step: Step, x: Tensor, y: Tensor, *, exact: bool = True) -> None:
    """Two steps, because the first may learn what to record.

    Gradients are equal to the bit where they are sums of the same terms in the same order. With shared noise, the
    gradients of the two passes are added in front of the backward pass and not behind it.
    """
    twin, after_one_pass = copy.deepcopy(model), copy.deepcopy(model)
    for seed in (5, 6):
        loss, gradients, buffers, drawn = results(model, step, x, y, whole=False, seed=seed)
        whole_loss, whole_gradients, whole_buffers, whole_drawn = results(twin, step, x, y, whole=True, seed=seed)
        assert torch.equal(loss, whole_loss)
        for gradient, expected in zip(gradients, whole_gradients, strict=True):
            if step in SHARED or not exact:
                torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-14)
            else:
                assert torch.equal(gradient, expected)
        assert all(map(torch.equal, drawn, whole_drawn))
        torch.manual_seed(seed)
        draw_seed()
        for generator in held_generators(after_one_pass):
            generator.manual_seed(seed)
        after_one_pass(x.clone())
        once = dict(after_one_pass.named_buffers())
        for name, value in buffers.items():
            if name.startswith("both.") and step in SHARED:
                continue  # It is below and above the layer, so its count is neither.
            below = name.startswith(("first.", "second.", "norm.", "blocks.")) and step in SHARED
            assert torch.equal(value, once[name] if below else whole_buffers[name]), name


@EACH_MODEL
@EACH_STEP
def test_in_training(name: str, step: Step) -> None:
    x, y = batch(8)
    assert_equals_whole(own_model(name).train(), step, x, y, exact=name not in ADDED_IN_ANOTHER_ORDER)


@EACH_MODEL
@EACH_STEP
def test_in_evaluation(name: str, step: Step) -> None:
    x, y = batch(8)
    assert_equals_whole(own_model(name).eval(), step, x, y, exact=name not in ADDED_IN_ANOTHER_ORDER)


@EACH_MODEL
@EACH_STEP
@pytest.mark.parametrize("training", [False, True])
def test_what_is_below_runs_as_often_as_in_a_cut_model(name: str, step: Step, training: bool) -> None:
    model = own_model(name).train(training)
    x, y = batch(8)
    seen = [module for module in model.modules() if isinstance(module, Seen)]
    step(model, x, y)  # Learns what to record.
    expected = STEPS[step][0]
    counts = []
    for whole in (False, True):
        for module in seen:
            module.runs = 0
        with whole_passes() if whole else contextlib.nullcontext():
            step(model, x, y)
        counts.append([module.runs for module in seen])
    uses = [2 if name == "several layers" and module is model.second else 1 for module in seen]
    assert counts[0] == [expected * use for use in uses]
    assert counts[1] == [STEPS[step][1] * use for use in uses]

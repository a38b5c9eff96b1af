"""When passes run whole because recorded outputs might not be what the passes would compute."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout

from .own_containers import own_model
from .own_models import WIDTH, Own, Seen
from .recording import assert_same, batch, build
from .test_replay import EACH_STEP, SHARED, STEPS, Step, assert_equals_whole, results, runs, sadd, vadd, vadd_shared

pytestmark = pytest.mark.filterwarnings("ignore:the search pass repeats the target pass")
LOGGER = "adversarial_dropout"


def pre_hook(model: nn.Module) -> nn.Module:
    model.first[1].register_forward_pre_hook(lambda *given: None)  # type: ignore[index, union-attr]
    return model


def hook_at_the_head(model: nn.Module) -> nn.Module:
    model.head.register_forward_hook(lambda *given: None)  # type: ignore[union-attr]
    return model


def backward_hook(model: nn.Module) -> nn.Module:
    model.first.register_full_backward_hook(lambda *given: None)  # type: ignore[union-attr]
    return model


def compiled_part(model: nn.Module) -> nn.Module:
    model.first[2].compile(backend="eager")  # type: ignore[index, union-attr]
    return model


def compiled_wrapper(model: nn.Module) -> nn.Module:
    model.first[2] = torch.compile(nn.Tanh(), backend="eager")  # type: ignore[assignment, operator]
    return model


REFUSED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "pre-hook": (pre_hook, "a module has hooks"),
    "hook": (hook_at_the_head, "a module has hooks"),
    "backward hook": (backward_hook, "a module has hooks"),
    "compiled part": (compiled_part, "a module is compiled"),
    "compiled wrapper": (compiled_wrapper, "a module is compiled"),
    "DataParallel": (nn.DataParallel, "several devices"),
}


@EACH_STEP
@pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("why", REFUSED)
def test_where_it_is_not_certain_passes_run_whole_and_a_log_says_why_once(
    why: str, step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = REFUSED[why]
    model = change(own_model("plain"))
    x, y = batch(8)
    with caplog.at_level(logging.INFO, LOGGER):
        assert [runs(model, step, x, y) for _ in range(3)] == [STEPS[step][1]] * 3
    (record,) = caplog.records
    assert record.name == LOGGER
    assert record.levelno == logging.INFO
    assert message in record.getMessage()
    assert type(model).__name__ in record.getMessage()


def test_no_log_where_outputs_are_recorded_or_the_model_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    x, y = batch(8)
    with caplog.at_level(logging.INFO, LOGGER):
        for step in STEPS:
            for form in ("sequential", "methods", "opaque"):
                step(build(form).model, x, y)
    assert not caplog.records


def test_global_hooks_see_whole_passes() -> None:
    x, y = batch(8)
    seen: list[nn.Module] = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        model = own_model("plain")
        assert runs(model, vadd_shared, x, y) == 3
    finally:
        hook.remove()
    assert seen.count(model.first) == 3


def test_inference_mode_runs_whole() -> None:
    x, y = batch(8)
    model = own_model("plain").eval()
    with torch.inference_mode():
        assert runs(model, vadd_shared, x, y) == 3
    with torch.no_grad():
        assert runs(model, vadd_shared, x, y) == 1


def test_torch_compile_traces_whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch(8)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert runs(own_model("plain"), vadd_shared, x, y) == 3


class CatchesAll(Own):
    def forward(self, x: Tensor) -> Any:
        h = self.features(x)
        try:
            h = self.layer(h)
        except BaseException:
            h = 2 * h
        return self.head(h)


@pytest.mark.parametrize("step", [vadd, sadd])
def test_a_model_that_catches_everything_runs_whole(step: Step, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = CatchesAll().double()
    with caplog.at_level(logging.INFO, LOGGER):
        assert_equals_whole(model, step, *batch(8))
    assert ["catches the exception" in record.getMessage() for record in caplog.records] == [True]


class Alternating(Own):
    """Takes another way from some pass on: it calls another module, or none."""

    def __init__(self, differs_in: int, other: bool) -> None:
        super().__init__(second=nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Tanh()), third=nn.Tanh())
        self.register_buffer("count", torch.tensor(0))
        self.pass_of_step, self.differs_in, self.other = itertools.count(), differs_in, other

    def features(self, x: Tensor) -> Tensor:
        self.count += 1
        h = self.first(x)
        if next(self.pass_of_step) < self.differs_in:
            return self.second(h)  # type: ignore[no-any-return]
        h = torch.rand_like(h) * h
        return self.third(h) if self.other else h  # type: ignore[no-any-return]


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize(
    ("step", "differs_in", "batches_below"),
    [
        (vadd_shared, 1, 2),  # The search differs: the adversarial pass runs whole.
        (vadd_shared, 2, 2),  # The adversarial pass differs.
        (vadd, 2, 2),  # The search differs from the pass in front of it.
        (vadd, 3, 2),
        (sadd, 1, 1),
        (sadd, 2, 1),
    ],
)
def test_passes_that_differ_run_whole_and_what_was_recorded_has_not_happened(
    step: Step, differs_in: int, batches_below: int, other: bool, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = Alternating(differs_in, other).double()
    x, y = batch(8)
    with caplog.at_level(logging.INFO, LOGGER):
        loss, _, after, _ = results(model, step, x, y, whole=False)
    assert "differ from pass to pass" in caplog.records[0].getMessage()
    assert loss.isfinite()
    assert after["first.1.num_batches_tracked"] == batches_below
    assert after["count"] == batches_below
    assert after["head.1.num_batches_tracked"] == (1 if step is sadd else 2)
    assert "forward" not in {name for module in model.modules() for name in vars(module)}


class Hiding(nn.Module):
    """Reaches the layer, which is not its submodule."""

    def __init__(self, layer: AdversarialDropout) -> None:
        super().__init__()
        self.inner, self.hidden = Seen(WIDTH, WIDTH), [layer]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.hidden[0](self.inner(x))
        return result


@EACH_STEP
def test_a_layer_inside_a_module_that_does_not_contain_it(step: Step) -> None:
    torch.manual_seed(0)
    model = Own(nn.Sequential(nn.Linear(6, WIDTH), nn.Dropout(0.2)))
    model.hiding = Hiding(model.layer)
    model.features = lambda x: model.hiding(model.first(x))  # type: ignore[method-assign]
    model.double()

    def forward(x: Tensor) -> Tensor:
        result: Tensor = model.head(model.features(x))
        return result

    model.forward = forward  # type: ignore[method-assign]
    x, y = batch(8)
    twin = results(model, step, x, y, whole=True)
    again = results(model, step, x, y, whole=False)
    assert torch.equal(twin[0], again[0])
    assert_same(again[1], twin[1])
    assert all(map(torch.equal, again[3], twin[3]))
    # What it does up to the layer is not recorded, but runs in the pass that records.
    assert runs(model, step, x, y) == STEPS[step][1] + (step not in SHARED)
    assert model.forward is forward


class Functional(nn.Module):
    """Has no module below the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 6))
        self.layer, self.head = AdversarialDropout(0.5, 0.3), nn.Linear(WIDTH, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.head(self.layer(F.dropout(F.linear(x, self.weight).tanh(), 0.2)))
        return logits


@EACH_STEP
def test_with_no_module_below_the_layer_a_step_makes_no_pass_of_its_own_for_it(step: Step) -> None:
    model = Functional().double()
    assert_equals_whole(model, step, *batch(8))
    model.calls = 0
    step(model, *batch(8))
    assert model.calls == STEPS[step][1]

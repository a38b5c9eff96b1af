"""``torch.compile`` of the model and of the step, ``torch.fx.symbolic_trace`` and ``torch.export``, against eager."""

import shutil
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout, sample_mask
from adversarial_dropout.layers import Granularity, Rescale

from .recording import METHODS, batch

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Raised inside Dynamo.

Step = Callable[[Tensor, Tensor], Tensor]
SEARCHING = ("vadd", "vadd-shared", "sadd", "at", "vat")


@pytest.fixture(autouse=True)
def no_earlier_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 10), nn.Tanh()),
        AdversarialDropout(0.5, 0.3),
        nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)),
    ).double()


def step_of(model: Callable[[Tensor], Tensor], method: str) -> Step:
    regularizer = METHODS[method]()

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = F.cross_entropy(model(x), y) + regularizer(model, x, y)
        return loss

    return step


def results(model: nn.Module, step: Step, steps: int = 2) -> list[Tensor]:
    """Loss and gradients of each step, then buffers, and the next random numbers."""
    found: list[Tensor] = []
    torch.manual_seed(3)
    for number in range(steps):
        x, y = batch(8, seed=number)
        loss = step(x, y)
        found += [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    return [*found, *(buffer.clone() for buffer in model.buffers()), torch.rand(3)]


def compiled(how: str, backend: str | Callable[..., object], method: str) -> list[Tensor]:
    model = network()
    if how == "model":
        return results(model, step_of(torch.compile(model, backend=backend), method))
    if how == "model and step":
        return results(model, torch.compile(step_of(torch.compile(model, backend=backend), method), backend=backend))
    if how == "parts":  # What a regulariser runs of a model that can be cut.
        for part in model:
            if not isinstance(part, AdversarialDropout):
                part.compile(backend=backend)
        return results(model, step_of(model, method))
    return results(model, torch.compile(step_of(model, method), backend=backend))


def assert_as_eager(found: list[Tensor], method: str) -> None:
    model = network()
    expected = results(model, step_of(model, method))
    assert torch.equal(found[-1], expected[-1]), "the compiled step leaves another random state"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("how", "method"),
    [
        *(("model", method) for method in [*SEARCHING, "pi"]),
        *((how, m) for how in ("parts", "step") for m in ("sadd", "vat")),
    ],
)
def test_compiled_equals_eager(how: str, method: str) -> None:
    assert_as_eager(compiled(how, "eager", method), method)


@pytest.mark.parametrize(("how", "method"), [("model", "vadd"), ("model and step", "sadd")])
def test_compiled_by_aot_autograd_equals_eager(how: str, method: str) -> None:
    assert_as_eager(compiled(how, "aot_eager", method), method)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_by_inductor_equals_eager() -> None:
    """Inductor draws other random numbers, so there is no other noise, and the layer keeps all or gets a target."""

    def loss(compile_it: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), AdversarialDropout(0.0, 0.3), nn.Linear(10, 3)).double()
        x, _ = batch(8)
        target = model(x.flip(1)).detach()
        regularizer = VirtualAdversarialDropout()
        value = regularizer(torch.compile(model) if compile_it else model, x, target=target)
        return [value.detach(), *torch.autograd.grad(value, list(model.parameters()))]

    expected, found = loss(False), loss(True)
    assert expected[0] > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("how", "method"), [("model", "vadd"), ("step", "sadd")])
def test_steps_after_the_second_compile_nothing(how: str, method: str) -> None:
    graphs: list[int] = []
    counts: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(len(graph.graph.nodes))
        return graph

    model = network()
    step = step_of(torch.compile(model, backend=backend) if how == "model" else model, method)
    step = torch.compile(step, backend=backend) if how == "step" else step
    for number in range(12):
        step(*batch(8, seed=number)).backward()  # type: ignore[no-untyped-call]
        counts.append(len(graphs))
    assert 0 < counts[1] == counts[-1] < 6


@pytest.mark.parametrize("method", SEARCHING)
def test_a_step_in_one_graph_is_refused_with_the_reason(method: str) -> None:
    step = torch.compile(step_of(network(), method), backend="eager", fullgraph=True)
    with pytest.raises(Unsupported, match="which one graph cannot hold; compile the step without fullgraph=True"):
        step(*batch(8))


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_a_searched_model_in_one_graph_is_refused_with_the_reason(method: str) -> None:
    model = torch.compile(network(), backend="eager", fullgraph=True)
    model(batch(8)[0])
    with pytest.raises(Unsupported, match=r"masks of an AdversarialDropout layer .*; compile the model without fullgr"):
        METHODS[method]()(model, *batch(8))


@pytest.mark.parametrize("method", ["at", "vat", "pi"])
def test_methods_that_leave_the_masks_alone_run_a_model_in_one_graph(method: str) -> None:
    model = network()
    compiled_model = torch.compile(model, backend="eager", fullgraph=True)
    assert_as_eager(results(model, step_of(compiled_model, method)), method)


@pytest.mark.parametrize("method", ["pi", "entropy"])
def test_methods_without_a_search_fit_into_one_graph(method: str) -> None:
    model = network()
    step = torch.compile(step_of(model, method), backend="eager", fullgraph=True)
    assert_as_eager(results(model, step), method)


@pytest.mark.parametrize(("granularity", "rescale"), [("element", "inverted"), ("channel", "sum"), ("feature", "sum")])
def test_a_compiled_layer_draws_the_same_masks_and_remembers_them(granularity: Granularity, rescale: Rescale) -> None:
    layer = AdversarialDropout(0.4, granularity=granularity, rescale=rescale)
    x = torch.randn(4, 5, 6)
    outputs, masks = [], []
    for run in (layer, torch.compile(layer, backend="eager", fullgraph=True)):
        torch.manual_seed(2)
        outputs.append(run(x))
        masks.append(layer._last_mask)
    torch.manual_seed(2)
    expected = sample_mask(layer.mask_shape(x), 0.4)
    assert torch.equal(*outputs)
    for mask in masks:
        assert mask is not None
        assert torch.equal(mask, expected)


def test_a_compiled_forward_is_a_target() -> None:
    values = []
    for backend in (None, "eager", "aot_eager"):
        model = network()
        run = model if backend is None else torch.compile(model, backend=backend)
        torch.manual_seed(3)
        x, _ = batch(8)
        values.append(VirtualAdversarialDropout()(model, x, target=run(x)))
    assert values[0] > 0
    assert values[0] == values[1] == values[2]


# torch.fx and torch.export


@pytest.mark.parametrize("training", [True, False])
def test_a_symbolic_trace_has_the_layer_and_equals_its_model(training: bool) -> None:
    model = network().train(training)
    traced = torch.fx.symbolic_trace(model)
    assert traced.get_submodule("1") is model[1]
    x, y = batch(8)
    outputs = []
    for module in (model, traced):
        torch.manual_seed(3)
        outputs.append(module(x))
    assert torch.equal(*outputs)
    if not training:
        return
    losses = []
    for module in (model, traced):
        torch.manual_seed(3)
        loss = METHODS["sadd"]()(module, x, y)
        losses.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert losses[0][0] > 0
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=1e-12)


class Branching(nn.Module):
    """Calls one layer twice, and it is not the first thing that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"layer": AdversarialDropout(0.3, granularity="channel")})

    def forward(self, x: Tensor) -> Tensor:
        layer = self.inner["layer"]
        result: Tensor = layer(x + 1) * layer(x)
        return result


def test_a_symbolic_trace_calls_the_layer_by_its_name() -> None:
    traced = torch.fx.symbolic_trace(Branching())
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["inner.layer"] * 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("granularity", ["element", "channel", "feature"])
def test_export(granularity: Granularity, training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6), AdversarialDropout(0.4, granularity=granularity), nn.Linear(6, 2))
    model.train(training)
    x = torch.randn(3, 5, 4)
    torch.manual_seed(3)
    expected = model(x)
    mask = model[1]._last_mask
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = torch.export.export(model, (x,)).module()
    assert model[1]._last_mask is mask, "the export has replaced the mask of the last forward"
    torch.manual_seed(3)
    assert torch.equal(exported(x), expected)

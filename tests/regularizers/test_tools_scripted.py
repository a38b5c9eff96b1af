"""TorchScript: scripted and traced parts below and above the layer equal the modules that they were made from."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.errors import AdversarialDropoutError, InvalidTypeError

from .recording import METHODS, Opaque, batch

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

KINDS = ("script", "trace")


def scripted(kind: str, module: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``module`` in TorchScript; training-mode normalisation may not run for the example's sake."""
    module = copy.deepcopy(module)
    buffers = [buffer.clone() for buffer in module.buffers()]
    if kind == "script":
        compiled: nn.Module = torch.jit.script(module)
        return compiled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced: nn.Module = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
    for buffer, value in zip(traced.buffers(), buffers, strict=True):
        buffer.data.copy_(value)
    return traced


def parts(norm: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(10)] if norm else []
    last: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    below = nn.Sequential(nn.Linear(6, 10), *middle, nn.Tanh())
    above = nn.Sequential(nn.Linear(10, 8), *last, nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
    return below.double(), above.double()


def build(where: str, kind: str | None, norm: bool = False) -> nn.Sequential:
    below, above = parts(norm)
    if kind is not None and "below" in where:
        below = scripted(kind, below, torch.randn(8, 6).double())
    if kind is not None and "above" in where:
        above = scripted(kind, above, torch.randn(8, 10).double())
    return nn.Sequential(below, AdversarialDropout(0.5, 0.3), above)


def assert_as_eager(make: Callable[[bool], nn.Module], method: str, training: bool = True) -> None:
    """Two steps: loss, gradients, buffers and the random state equal those without TorchScript."""
    found = []
    for in_script in (False, True):
        model = make(in_script).train(training)
        regularizer = METHODS[method]()
        torch.manual_seed(3)
        values: list[Tensor] = []
        for number in range(2):
            x, y = batch(8, seed=number)
            loss = F.cross_entropy(model(x), y) + regularizer(model, x, y)
            model.zero_grad()
            loss.backward()
            values += [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
        found.append([*values, *(buffer.clone() for buffer in model.buffers()), torch.rand(3)])
    assert torch.equal(found[0][-1], found[1][-1]), "another random state"
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["below", "above"])
def test_parts_in_torchscript_with_batch_norm(where: str, kind: str, method: str) -> None:
    assert_as_eager(lambda in_script: build(where, kind if in_script else None, norm=True), method)


@pytest.mark.parametrize("method", ["vadd", "sadd", "vat"])
def test_an_uncut_model_of_scripted_parts_in_evaluation(method: str) -> None:
    def make(in_script: bool) -> nn.Module:
        return Opaque(build("below and above", "script" if in_script else None, norm=True))

    if method == "vadd":
        with pytest.warns(UserWarning, match="repeats the target pass"):
            assert_as_eager(make, method, training=False)
    else:
        assert_as_eager(make, method, training=False)


@pytest.mark.parametrize("method", ["vadd", "sadd", "at", "vat"])
def test_the_search_leaves_no_gradient_and_no_flag(method: str) -> None:
    model = build("below and above", "script", norm=True)
    x, y = batch(8)
    METHODS[method]()(model, x, y)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


class Counting(nn.Module):
    """Changes a buffer in place, replaces another one, and uses both."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.ones(10))
        self.mean = nn.Buffer(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.mul_(1.1)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)  # type: ignore[assignment]
        return x - self.mean + self.scale.sum()


@pytest.mark.parametrize("method", ["sadd", "at", "vat"])
def test_buffers_of_other_kinds_are_restored(method: str) -> None:
    def make(in_script: bool) -> nn.Module:
        torch.manual_seed(0)
        counting: nn.Module = Counting()
        if in_script:
            counting = torch.jit.script(counting)
        layers = [nn.Linear(6, 10), AdversarialDropout(0.5, 0.3), counting, nn.Linear(10, 3)]
        return nn.Sequential(*layers).double()

    assert_as_eager(make, method)


@pytest.mark.parametrize("method", ["at", "vat"])
def test_half_precision_torchscript_is_refused_where_a_pass_needs_float32(method: str) -> None:
    model = nn.Sequential(nn.Linear(6, 10), torch.jit.script(nn.Linear(10, 3))).to(torch.bfloat16)
    x, y = batch(8)
    with pytest.raises(InvalidTypeError, match=r"TorchScript in float32 or float64, got torch.bfloat16.*module.float"):
        METHODS[method]()(model, x.bfloat16(), y)


def test_a_whole_model_in_torchscript_runs_the_methods_without_a_layer() -> None:
    model = nn.Sequential(*parts(norm=True)).eval()
    frozen = torch.jit.script(copy.deepcopy(model))
    x, y = batch(8)
    for method in ("at", "vat", "entropy"):
        losses = []
        for each in (model, frozen):
            torch.manual_seed(1)
            losses.append(METHODS[method]()(each, x, y).item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-9, abs=1e-15), method
    with pytest.raises(AdversarialDropoutError, match="AdversarialDropout layer, found none"):
        VirtualAdversarialDropout()(frozen, x)


# The layer itself


def test_a_layer_is_not_scripted() -> None:
    model = nn.Sequential(nn.Linear(6, 10), AdversarialDropout(0.3), nn.Linear(10, 3))
    with pytest.raises(InvalidTypeError, match="script the parts below and above the layer, or use torch"):
        torch.jit.script(model)
    assert isinstance(model[1], AdversarialDropout)
    assert model(torch.randn(8, 6)).shape == (8, 3)


@pytest.mark.parametrize("training", [True, False])
def test_a_traced_layer(training: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 10), AdversarialDropout(0.3), nn.Linear(10, 3)).train(training)
    x = torch.randn(8, 6)
    traced = torch.jit.trace(model, x, check_trace=False)  # type: ignore[no-untyped-call]
    outputs = []
    for module in (model, traced):
        torch.manual_seed(1)
        outputs.append(module(x))
    assert torch.equal(*outputs)

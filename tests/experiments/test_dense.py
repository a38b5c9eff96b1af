"""Dense is nn.Linear, in another order of summation where oneDNN computes it."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from adversarial_dropout.experiments.models import dense
from adversarial_dropout.experiments.models.dense import Dense

SIZES = [(1, 1, 1), (1, 7, 5), (128, 2048, 625), (250, 64, 10), (3, 1, 9)]


def twins(inputs: int, outputs: int, bias: bool = True) -> tuple[Dense, nn.Linear]:
    torch.manual_seed(0)
    ours = Dense(inputs, outputs, bias=bias)
    theirs = nn.Linear(inputs, outputs, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """Output, and gradients of a weighted sum of it in the input and the parameters."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [leaf, *layer.parameters()])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_values_and_gradients_are_those_of_linear(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    ours, theirs = twins(inputs, outputs, bias)
    x = torch.randn(rows, inputs)
    for found, expected in zip(run(ours, x), run(theirs, x), strict=True):
        assert found.layout == torch.strided
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_computed_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would compare nn.Linear with itself."""
    ours, theirs = twins(2048, 625)
    x = torch.randn(128, 2048)
    with torch.profiler.profile() as seen:
        ours(x)
    assert any(event.key == "aten::mkldnn_linear" for event in seen.key_averages())
    monkeypatch.setattr(dense, "_onednn_can", lambda x, weight: False)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("shape", [(0, 6), (6,), (2, 3, 6)])
def test_other_shapes_are_left_to_linear(shape: tuple[int, ...]) -> None:
    ours, theirs = twins(6, 4)
    x = torch.randn(shape)
    for found, expected in zip(run(ours, x), run(theirs, x), strict=True):
        assert torch.equal(found, expected)


def test_other_precisions_are_left_to_linear() -> None:
    ours, theirs = twins(6, 4)
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.double()(x.double()), theirs.double()(x.double()))


def test_transposed_input() -> None:
    ours, theirs = twins(6, 4)
    x = torch.randn(6, 5).T
    torch.testing.assert_close(ours(x), theirs(x))


def test_frozen_weights_get_no_gradient_and_the_input_does() -> None:
    ours, theirs = twins(6, 4)
    x = torch.randn(5, 6, requires_grad=True)
    frozen = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    (found,) = torch.autograd.grad(functional_call(ours, frozen, (x,)).square().sum(), x)
    (expected,) = torch.autograd.grad(theirs(x).square().sum(), x)
    torch.testing.assert_close(found, expected)
    assert ours.weight.grad is None


def test_gradients_of_each_example() -> None:
    ours, theirs = twins(6, 4)
    x = torch.randn(5, 6)

    def each(layer: nn.Linear) -> Tensor:
        found: Tensor = vmap(grad(lambda row: layer(row.unsqueeze(0)).square().sum()))(x)
        return found

    torch.testing.assert_close(each(ours), each(theirs))


def test_it_copies_exports_and_compiles_as_linear() -> None:
    ours, theirs = twins(6, 4)
    x = torch.randn(5, 6)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))
    exported = torch.export.export(ours, (x,)).module()
    torch.testing.assert_close(exported(x), theirs(x))

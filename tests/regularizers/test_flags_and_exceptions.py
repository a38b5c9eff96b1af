"""Train/eval flags, the layers' last masks, and the state after an exception."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout, kl_divergence

from .recording import FORMS, METHODS, Recorder, batch, build, in_form

EACH_FORM = pytest.mark.parametrize("form", FORMS)
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


class Failing(nn.Module):
    """Raises in the run with number ``countdown``."""

    def __init__(self) -> None:
        super().__init__()
        self.countdown = -1

    def forward(self, x: Tensor) -> Tensor:
        self.countdown -= 1
        if self.countdown == 0:
            raise ZeroDivisionError("as the test wants it")
        return x


class FailingDivergence:
    """KL divergence that raises in the call with number ``countdown``."""

    def __init__(self, countdown: int) -> None:
        self.countdown = countdown

    def __call__(self, target: Tensor, prediction: Tensor) -> Tensor:
        self.countdown -= 1
        if self.countdown == 0:
            raise ZeroDivisionError("as the test wants it")
        return kl_divergence(target, prediction)


def mixed(form: str) -> tuple[nn.Module, Failing, Failing, AdversarialDropout, nn.BatchNorm1d]:
    """A model in training with a frozen BatchNorm and a dropout layer in evaluation mode."""
    torch.manual_seed(0)
    below, above, layer, frozen = Failing(), Failing(), AdversarialDropout(0.5, 0.3), nn.BatchNorm1d(10)
    under = [nn.Linear(6, 10), frozen, nn.Dropout(0.3), nn.Softplus(), below]
    upper = [layer, above, nn.Linear(10, 10), nn.BatchNorm1d(10), nn.Dropout(0.3), nn.Linear(10, 3)]
    model = in_form(form, under, upper).double()
    frozen.running_mean = torch.rand(10, dtype=torch.float64)
    frozen.eval()
    upper[4].eval()
    return model, below, above, layer, frozen


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.filterwarnings("ignore:the search pass repeats")
@EACH_FORM
@EACH_METHOD
@pytest.mark.parametrize("training", [False, True])
def test_each_module_keeps_its_flag_in_all_passes_and_afterwards(form: str, method: str, training: bool) -> None:
    net = build(form, std=0.1)
    net.model.train(training)
    net.below.eval()
    net.head.train(not training)
    before = flags(net.model)
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    assert flags(net.model) == before
    assert not any(run.training for run in net.below.runs)
    assert {run.training for run in net.above.runs} <= {training}


@EACH_FORM
@EACH_METHOD
def test_a_frozen_batchnorm_stays_frozen(form: str, method: str) -> None:
    model, *_, frozen = mixed(form)
    x, y = batch(8)
    before, values = flags(model), [buffer.clone() for buffer in frozen.buffers()]
    METHODS[method]()(model, x, y)
    assert flags(model) == before
    assert all(torch.equal(a, b) for a, b in zip(values, frozen.buffers(), strict=True))


def assert_works_normally(model: nn.Module, layer: AdversarialDropout) -> None:
    """The layer behaves as nn.Dropout, and every regulariser can be called."""
    h = torch.ones(4, 1000, dtype=torch.float64)
    torch.manual_seed(2)
    dropped = layer(h)
    torch.manual_seed(2)
    assert torch.equal(dropped, nn.functional.dropout(h, 0.5))
    layer.eval()
    assert torch.equal(layer(h), h)
    layer.train()
    x, y = batch(8)
    for make in METHODS.values():
        make()(model, x, y).backward()


@EACH_FORM
@EACH_METHOD
@pytest.mark.parametrize("side", ["below", "above"])
def test_an_exception_in_the_model_leaves_no_trace(form: str, method: str, side: str) -> None:
    x, y = batch(8)
    raised = 0
    for countdown in (1, 2, 3):
        model, below, above, layer, _ = mixed(form)
        model(x)
        last_mask, before = layer._last_mask, flags(model)
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        (below if side == "below" else above).countdown = countdown
        try:
            METHODS[method]()(model, x, y)
        except ZeroDivisionError:
            raised += 1
        below.countdown = above.countdown = -1
        assert flags(model) == before
        assert layer._last_mask is last_mask
        assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
        assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert_works_normally(model, layer)
    whole = {"sadd": 2, "vadd": 3, "vadd-shared": 3, "at": 2, "vat": 3, "pi": 2, "entropy": 1}[method]
    cut = {"sadd": 1, "vadd": 2, "vadd-shared": 1}.get(method, whole)
    assert raised == (cut if side == "below" else whole)


@EACH_FORM
@pytest.mark.parametrize("method", ["sadd", "vadd", "vadd-shared", "vat"])
@pytest.mark.parametrize("countdown", [1, 2])
def test_an_exception_in_the_divergence_leaves_no_trace(form: str, method: str, countdown: int) -> None:
    model, *_, layer, _ = mixed(form)
    x, y = batch(8)
    model(x)
    last_mask, before = layer._last_mask, flags(model)
    with pytest.raises(ZeroDivisionError):
        METHODS[method](divergence=FailingDivergence(countdown))(model, x, y)
    assert flags(model) == before
    assert layer._last_mask is last_mask
    assert_works_normally(model, layer)


@EACH_FORM
def test_a_search_that_fails_leaves_the_generator_where_the_search_began(form: str) -> None:
    """Also the search's own noise is taken back."""
    held, expected = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    net = build(form, std=0.1, generator=held)
    with pytest.raises(ZeroDivisionError):
        METHODS["sadd"](divergence=FailingDivergence(1))(net.model, *batch())
    for _ in range(0 if form == "opaque" else 1):
        torch.randn(5, 10, dtype=torch.float64, generator=expected)
    assert torch.equal(held.get_state(), expected.get_state())


Call = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]

BETWEEN: dict[str, Call] = {
    "sadd": lambda model, x, y, out: METHODS["sadd"]()(model, x, y),
    "vadd": lambda model, x, y, out: METHODS["vadd"]()(model, x),
    "vadd-target": lambda model, x, y, out: METHODS["vadd"]()(model, x, target=out),
    "vadd-shared": lambda model, x, y, out: METHODS["vadd-shared"]()(model, x),
    "at": lambda model, x, y, out: METHODS["at"]()(model, x, y),
    "vat": lambda model, x, y, out: METHODS["vat"]()(model, x),
    "vat-target": lambda model, x, y, out: METHODS["vat"]()(model, x, target=out),
    "pi": lambda model, x, y, out: METHODS["pi"]()(model, x),
    "pi-target": lambda model, x, y, out: METHODS["pi"]()(model, x, target=out),
    "entropy": lambda model, x, y, out: METHODS["entropy"]()(model, x),
}


@EACH_FORM
@pytest.mark.parametrize("between", BETWEEN)
def test_the_mask_of_the_users_last_forward_is_kept_through_all_calls(form: str, between: str) -> None:
    """``out = model(x); vat(model, x, target=out); vadd(model, x, target=out)`` starts from the mask of ``out``."""
    net = build(form, delta=0.0)
    x, y = batch()
    out = net.model(x)
    BETWEEN[between](net.model, x, y, out)
    VirtualAdversarialDropout()(net.model, x, target=out)
    assert torch.equal(net.above.runs[-1].mask, net.above.runs[0].mask)


@EACH_FORM
def test_a_last_mask_that_does_not_fit_is_not_used(form: str) -> None:
    net = build(form, delta=0.0)
    x, _ = batch(8)
    net.model(x)
    out = net.model(x[:5])
    VirtualAdversarialDropout()(net.model, x, target=torch.zeros(8, 3, dtype=torch.float64))
    mask = net.above.runs[-1].mask
    assert mask.shape == (8, 10)
    assert 0.2 < mask.double().mean() < 0.8
    VirtualAdversarialDropout()(net.model, x[:5], target=out)
    assert torch.equal(net.above.runs[-1].mask, net.above.runs[1].mask)


def test_without_a_target_the_last_mask_is_not_used() -> None:
    net = build(delta=0.0)
    x, _ = batch(30)
    net.model(x)
    VirtualAdversarialDropout()(net.model, x)
    assert 0.3 < (net.above.runs[-1].mask == net.above.runs[0].mask).double().mean() < 0.7


def test_a_layer_used_in_two_places_with_one_shape_has_one_mask() -> None:
    layer, first, second = AdversarialDropout(0.5, 0.3), Recorder(), Recorder()
    model = in_form("opaque", [], [layer, first, nn.Softplus(), layer, second, nn.Linear(10, 3)])
    VirtualAdversarialDropout()(model, torch.rand(4, 10) + 1)
    for one, two in zip(first.runs, second.runs, strict=True):
        assert torch.equal(one.mask, two.mask)

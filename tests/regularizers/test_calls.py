"""Reductions, empty and single batches, calls without gradients."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialTraining,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)

from .recording import FORMS, METHODS, assert_same, batch, build, plain

EACH_METHOD = pytest.mark.parametrize("method", METHODS)
EACH_FORM = pytest.mark.parametrize("form", FORMS)


@EACH_METHOD
@pytest.mark.parametrize("n", [1, 7])
def test_reductions(method: str, n: int) -> None:
    x, y = batch(n)
    results = {}
    for reduction in ("none", "sum", "mean"):
        net = build(std=0.1)
        torch.manual_seed(1)
        results[reduction] = METHODS[method](reduction=reduction)(net.model, x, y)
    assert results["none"].shape == (n,)
    assert_same(results["sum"], results["none"].sum())
    assert_same(results["mean"], results["none"].sum() / n)


@EACH_METHOD
def test_the_mean_is_the_default_and_a_scalar_with_a_graph(method: str) -> None:
    net = build(std=0.1)
    x, y = batch()
    loss = METHODS[method]()(net.model, x, y)
    assert loss.shape == ()
    assert loss.requires_grad
    assert loss.dtype == torch.float64


@EACH_METHOD
@EACH_FORM
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_an_empty_batch_gives_0_with_a_graph(form: str, method: str, reduction: str) -> None:
    net = build(form, std=0.1)
    x, y = batch(0)
    loss = METHODS[method](reduction=reduction)(net.model, x, y)
    assert loss.shape == ((0,) if reduction == "none" else ())
    assert loss.sum().item() == 0
    assert all(not gradient.any() for gradient in net.grads(loss.sum()))


@EACH_METHOD
@EACH_FORM
def test_an_empty_batch_with_a_target(form: str, method: str) -> None:
    net = build(form, std=0.1)
    if method == "vadd-shared":
        net.model = nn.Sequential(net.layer, net.above, net.head)
    x = net.stem(batch(0)[0]) if method == "vadd-shared" else batch(0)[0]
    assert METHODS[method]()(net.model, x, batch(0)[1], target=net.model(x)).item() == 0


@EACH_METHOD
@EACH_FORM
def test_a_batch_of_one(form: str, method: str) -> None:
    net = build(form, std=0.1)
    x, y = batch(1)
    loss = METHODS[method]()(net.model, x, y)
    assert loss.item() > 0
    assert all(gradient.isfinite().all() for gradient in net.grads(loss))


@pytest.mark.parametrize("method", ["sadd", "vadd", "vadd-shared"])
def test_the_mask_of_an_example_does_not_depend_on_the_others(method: str) -> None:
    """J is the gradient of a sum over the batch, with respect to the mask of each example."""
    x, y = batch(6)
    net = build(p=0.0)
    view = x + 0.3
    whole = build(p=0.0)
    if method == "sadd":
        SupervisedAdversarialDropout()(net.model, x, y)
        SupervisedAdversarialDropout()(whole.model, x[:2], y[:2])
    else:
        VirtualAdversarialDropout()(net.model, x, target=net.model(view))
        VirtualAdversarialDropout()(whole.model, x[:2], target=whole.model(view[:2]))
    assert torch.equal(net.above.runs[-1].mask[:2], whole.above.runs[-1].mask)


@EACH_METHOD
@EACH_FORM
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("given", [False, True])
def test_calls_without_gradients_give_the_same_value(form: str, method: str, mode: str, given: bool) -> None:
    values = []
    for without in (False, True):
        net = build(form, std=0.1)
        model: nn.Module = net.model
        torch.manual_seed(1)
        guard = torch.no_grad() if mode == "no_grad" else torch.inference_mode()
        with guard if without else torch.enable_grad():
            x, y = batch()
            if method == "vadd-shared" and given:
                x, model = net.stem(x), nn.Sequential(net.layer, net.above, net.head)
            target = model(x) if given else None
            loss = METHODS[method]()(model, x, y, target=target)
        assert loss.requires_grad == (not without)
        values.append(loss.item())
    assert values[0] == values[1] != 0


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("make", [VirtualAdversarialDropout, VirtualAdversarialTraining])
def test_a_divergence_that_saves_its_target_without_gradients(make: type[nn.Module], mode: str) -> None:
    def inner(target: Tensor, prediction: Tensor) -> Tensor:
        return 1 - (target * prediction).sum(dim=1)

    values = []
    for without in (False, True):
        net = build(std=0.1)
        torch.manual_seed(1)
        guard = torch.no_grad() if mode == "no_grad" else torch.inference_mode()
        with guard if without else torch.enable_grad():
            values.append(make(divergence=inner)(net.model, batch()[0]).item())
    assert values[0] == values[1]


@EACH_METHOD
def test_inputs_and_targets_made_in_inference_mode(method: str) -> None:
    """A target (of a teacher, for example) may be made there; so may an input, if there is no under part."""
    net, twin_net = build(std=0.1), build(std=0.1)
    model = nn.Sequential(net.layer, net.above, net.head)
    twin = nn.Sequential(twin_net.layer, twin_net.above, twin_net.head)
    with torch.inference_mode():
        target = torch.randn(5, 3, dtype=torch.float64)
        y = batch()[1].clone()
    h = torch.rand(5, 10, dtype=torch.float64) + 0.5
    torch.manual_seed(1)
    loss = METHODS[method]()(model, h, y, target=target)
    torch.manual_seed(1)
    assert loss.item() == METHODS[method]()(twin, h, y.clone(), target=target.clone()).item()


@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_training_continues_after_a_call_without_gradients(noise: str) -> None:
    net = build(std=0.1)
    x, y = batch()
    reg = VirtualAdversarialDropout(noise=noise)  # type: ignore[arg-type]
    with torch.inference_mode():
        out = net.model(x)
        reg(net.model, x)
    VirtualAdversarialDropout()(net.model, x, target=out.clone()).backward()
    net.model(x).sum().backward()
    SupervisedAdversarialDropout()(net.model, x, y).backward()
    assert all(parameter.grad is not None for parameter in net.parameters)


@pytest.mark.parametrize("detach", [False, True])
def test_the_flag_for_the_target_changes_gradients_and_not_the_value(detach: bool) -> None:
    """The full gradient is the sum of those through the prediction and through the target."""
    net = build(std=0.2)
    x, _ = batch()
    out = net.model(x)
    state = torch.get_rng_state()
    loss = VirtualAdversarialDropout(detach_target=detach)(net.model, x, target=out)
    (through_target,) = torch.autograd.grad(loss, out, retain_graph=True, materialize_grads=True)
    assert through_target.any() == (not detach)
    torch.set_rng_state(state)
    other = VirtualAdversarialDropout(detach_target=not detach)(net.model, x, target=out)
    assert loss.item() == other.item()
    whole, half = (net.grads(loss), net.grads(other)) if not detach else (net.grads(other), net.grads(loss))
    prediction = net.logits(
        net.h(x, net.below.runs[-1].noise) * net.above.runs[-1].mask / 0.5, net.above.runs[-1].noise
    )
    by_target = net.grads(plain("kl", out, prediction.detach()).mean())
    assert_same(whole, [a + b for a, b in zip(half, by_target, strict=True)])


@EACH_METHOD
def test_regularisers_are_modules_without_parameters_that_copy_pickle_and_print(method: str) -> None:
    reg = METHODS[method]()
    assert not list(reg.parameters())
    assert not reg.state_dict()
    assert "reduction=mean" in repr(reg)
    x, y = batch()
    values = []
    for regularizer in (reg, copy.deepcopy(reg), pickle.loads(pickle.dumps(reg))):
        net = build(std=0.1)
        torch.manual_seed(1)
        values.append(regularizer(net.model, x, y).item())
    assert len(set(values)) == 1


def test_terms_add_up_and_can_be_called_in_any_order() -> None:
    net = build(std=0.1)
    x, y = batch()
    out = net.model(x)
    total = nn.functional.cross_entropy(out, y) + 2.0 * VirtualAdversarialDropout()(net.model, x, target=out)
    total = total + 0.5 * VirtualAdversarialTraining()(net.model, x, target=out)
    total = total + AdversarialTraining()(net.model, x, y) + SupervisedAdversarialDropout()(net.model, x, y)
    total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters)

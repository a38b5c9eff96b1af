"""``torch.func`` through the layer, as through ``nn.Dropout``, and around the regularisers."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.errors import InvalidTypeError
from adversarial_dropout.layers import Granularity, Rescale

from .recording import METHODS, batch

Named = dict[str, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 10), nn.Tanh(), AdversarialDropout(0.5, 0.3), nn.Linear(10, 8), nn.Dropout(0.3), nn.Linear(8, 3)
    ).double()


class Term(nn.Module):
    """A module whose output is the term itself."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.model = network()
        self.regularizer = METHODS[method]()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.regularizer(self.model, x, y)
        return loss


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("seed", range(3))
def test_vmap_draws_as_dropout_does(randomness: str, seed: int) -> None:
    x = torch.randn(4, 20, 6)
    outputs = []
    for layer in (AdversarialDropout(0.4), nn.Dropout(0.4)):
        torch.manual_seed(seed)
        outputs.append(vmap(layer, randomness=randomness)(x))
    assert torch.equal(*outputs)
    first, second = (outputs[0][i] != 0 for i in range(2))
    assert torch.equal(first, second) == (randomness == "same")


def test_vmap_without_randomness_refuses_as_dropout_does() -> None:
    for layer in (AdversarialDropout(0.4), nn.Dropout(0.4)):
        with pytest.raises(RuntimeError, match="randomness error mode"):
            vmap(layer)(torch.randn(4, 5, 6))
    x = torch.randn(4, 5, 6)
    assert torch.equal(vmap(AdversarialDropout(0.4).eval())(x), x)


@pytest.mark.parametrize("rescale", ["inverted", "sum"])
@pytest.mark.parametrize("granularity", ["element", "channel", "feature"])
def test_vmap_with_the_same_noise_is_a_loop(granularity: Granularity, rescale: Rescale) -> None:
    layer = AdversarialDropout(0.4, granularity=granularity, rescale=rescale)
    x = torch.randn(3, 4, 5, 6)
    torch.manual_seed(1)
    mapped = vmap(layer, randomness="same")(x)
    rows = []
    for row in x:
        torch.manual_seed(1)
        rows.append(layer(row))
    torch.testing.assert_close(mapped, torch.stack(rows), rtol=1e-6, atol=0)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_no_tensor_of_a_transform_stays_in_the_layer(randomness: str) -> None:
    model, (x, _) = network(), batch(8)
    model(x)
    vmap(model, randomness=randomness)(x.expand(3, 8, 6))
    layer = model[2]
    assert isinstance(layer, AdversarialDropout)
    if randomness == "same":
        assert layer._last_mask is not None
        assert layer._last_mask.sum() > 0
    else:
        assert layer._last_mask is None, "each entry of the vmap had a mask of its own"
    copy.deepcopy(model)
    assert VirtualAdversarialDropout()(model, x, target=model(x[:, :])) > 0


def test_the_warning_of_lost_units_reads_no_value_under_vmap() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vmap(AdversarialDropout(0.999), randomness="different")(torch.ones(3, 2, 2))


def test_gradients_by_torch_func_are_those_of_autograd() -> None:
    model, (x, y) = network(), batch(8)
    parameters: Named = dict(model.named_parameters())

    def loss(named: Named) -> Tensor:
        return F.cross_entropy(functional_call(model, named, (x,)), y)

    torch.manual_seed(1)
    found = grad(loss)(parameters)
    layer = model[2]
    assert isinstance(layer, AdversarialDropout)
    mask = layer._last_mask
    torch.manual_seed(1)
    out = model(x)
    assert mask is not None
    assert layer._last_mask is not None
    assert torch.equal(mask, layer._last_mask)
    expected = torch.autograd.grad(F.cross_entropy(out, y), list(parameters.values()))
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-12)


def test_gradients_per_example() -> None:
    """With everything kept, so that the masks of the loop and of the vmap are equal."""
    model, (x, y) = network(), batch(5)
    for module in model:
        if isinstance(module, AdversarialDropout | nn.Dropout):
            module.p = 0.0
    parameters: Named = dict(model.named_parameters())

    def loss(named: Named, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, named, (x[None],)), y[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, x, y)
    for i in range(5):
        expected = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient, rtol=1e-9, atol=1e-12)


def test_an_ensemble_under_vmap_has_a_mask_for_each_model() -> None:
    models = [network() for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    skeleton, (x, _) = network(), batch(8)

    def run(parameters: Named, buffers: Named) -> Tensor:
        logits: Tensor = functional_call(skeleton, (parameters, buffers), (x,))
        return logits

    outputs = vmap(run, randomness="different")(parameters, buffers)
    assert not torch.equal(outputs[0], outputs[1]), "equal models, different masks"
    same = vmap(run, randomness="same")(parameters, buffers)
    torch.testing.assert_close(same[0], same[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_term_called_with_other_parameters(method: str) -> None:
    """``functional_call`` outside a transform: the passes use these parameters, and the module gets its own back."""
    term, (x, y) = Term(method), batch(8)
    before = dict(term.named_parameters())
    other = {name: (1.5 * parameter).detach().requires_grad_() for name, parameter in before.items()}
    torch.manual_seed(1)
    loss = functional_call(term, other, (x, y))
    found = torch.autograd.grad(loss, list(other.values()))
    assert all(parameter is before[name] for name, parameter in term.named_parameters())
    with torch.no_grad():
        for parameter in before.values():
            parameter.mul_(1.5)
    torch.manual_seed(1)
    plain = term(x, y)
    expected = torch.autograd.grad(plain, list(before.values()))
    torch.testing.assert_close([loss.detach(), *found], [plain.detach(), *expected], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd", "at", "vat"])
@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_a_search_under_a_transform_is_refused(transform: str, method: str) -> None:
    term, (x, y) = Term(method), batch(8)
    run: Callable[[], object] = {
        "grad": lambda: grad(lambda named: functional_call(term, named, (x, y)))(dict(term.named_parameters())),
        "vmap": lambda: vmap(term, randomness="different")(x.expand(2, 8, 6), y.expand(2, 8)),
    }[transform]
    with pytest.raises(
        InvalidTypeError, match=r"outside the transforms of torch.func, .* use torch.autograd.grad or b"
    ):
        run()
    assert term(x, y) > 0, "the refusal leaves the model usable"


@pytest.mark.parametrize("method", ["pi", "entropy"])
def test_methods_without_a_search_have_gradients_by_torch_func(method: str) -> None:
    term, (x, y) = Term(method), batch(8)
    parameters = dict(term.named_parameters())
    torch.manual_seed(1)
    found = grad(lambda named: functional_call(term, named, (x, y)))(parameters)
    torch.manual_seed(1)
    expected = torch.autograd.grad(term(x, y), list(parameters.values()))
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)

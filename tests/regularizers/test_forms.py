"""A network gives the same loss and gradients in all forms: cutting changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout

from .recording import FORMS, METHODS, Recorder, batch, in_form


def network(form: str, generator: torch.Generator | None) -> nn.Module:
    """Dropout, BatchNorm, Gaussian noise and in-place activations below and above two layers."""
    torch.manual_seed(0)
    under = [nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(inplace=True), nn.Dropout(0.3), Recorder(0.3, generator)]
    upper = [
        AdversarialDropout(0.4, 0.3),
        nn.LeakyReLU(0.1, inplace=True),
        Recorder(0.3, generator),
        nn.Linear(12, 9),
        nn.BatchNorm1d(9),
        nn.Tanh(),
        AdversarialDropout(0.2, 0.4, rescale="none"),
        nn.Dropout(0.3),
        nn.Linear(9, 3),
    ]
    model = in_form(form, under, upper).double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            torch.nn.init.uniform_(layer.weight)
    return model


def loss_and_gradients(
    model: nn.Module, method: str, with_target: bool, generator: torch.Generator | None
) -> tuple[Tensor, list[Tensor], Tensor]:
    x, y = batch(8)
    x.requires_grad_()
    torch.manual_seed(5)
    if generator is not None:
        generator.manual_seed(6)
    target = model(x) if with_target else None
    loss = METHODS[method]()(model, x, y, target=target)
    gradients = torch.autograd.grad(loss, [x, *model.parameters()], materialize_grads=True)
    return loss.detach(), list(gradients), torch.rand(3)


def assert_equal_in_all_forms(run: Callable[[str], tuple[Tensor, list[Tensor], Tensor]]) -> None:
    (loss, gradients, drawn), *others = [run(form) for form in FORMS]
    assert loss.item() != 0
    for other_loss, other_gradients, other_drawn in others:
        torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(other_gradients, gradients, rtol=1e-9, atol=1e-13)
        assert torch.equal(other_drawn, drawn), "later draws depend on the cut"


@pytest.mark.filterwarnings('ignore:rescale="none"')
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    ("method", "with_target", "training"),
    [
        ("vadd", False, True),
        ("vadd", False, False),
        ("vadd", True, True),
        ("vadd", True, False),
        ("vadd-shared", False, True),
        ("sadd", False, True),
        ("sadd", False, False),
        ("at", False, True),
        ("vat", False, True),
        ("vat", True, False),
        ("pi", False, True),
        ("entropy", False, True),
    ],
)
def test_the_same_in_all_forms(method: str, with_target: bool, training: bool, held: bool) -> None:
    def run(form: str) -> tuple[Tensor, list[Tensor], Tensor]:
        generator = torch.Generator() if held else None
        model = network(form, generator).train(training)
        return loss_and_gradients(model, method, with_target, generator)

    assert_equal_in_all_forms(run)


@pytest.mark.parametrize("form", FORMS)
def test_an_in_place_activation_behind_the_layer_leaves_h_for_the_next_pass(form: str) -> None:
    """In evaluation the layer is the identity; if the passes shared ``h``, LeakyReLU would act on it twice."""
    model = in_form(form, [nn.Linear(6, 12)], [AdversarialDropout(0.4, 0.3), nn.LeakyReLU(0.3, inplace=True)]).eval()
    x = torch.randn(8, 6)
    with pytest.warns(UserWarning, match="repeats the target pass"):
        assert METHODS["vadd-shared"]()(model, x).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_an_in_place_activation_in_front_of_the_layer_acts_once_in_each_pass(method: str) -> None:
    """Such an ``upper`` writes into ``h``, which several passes need."""

    def run(form: str) -> tuple[Tensor, list[Tensor], Tensor]:
        torch.manual_seed(0)
        upper = [nn.LeakyReLU(0.3, inplace=True), AdversarialDropout(0.4, 0.3), nn.Linear(12, 3)]
        return loss_and_gradients(in_form(form, [nn.Linear(6, 12)], upper).double(), method, False, None)

    assert_equal_in_all_forms(run)


def starting_in_place(form: str, method: str, *, inplace: bool) -> tuple[float, Tensor]:
    """The loss, and x after the call, for a model whose first layer works in place or not."""
    torch.manual_seed(0)
    upper = [AdversarialDropout(0.4, 0.3), nn.Tanh(), nn.Linear(12, 3)]
    model = in_form(form, [nn.LeakyReLU(0.3, inplace=inplace), nn.Linear(6, 12)], upper).double()
    x, y = batch(8)
    torch.manual_seed(1)
    return METHODS[method]()(model, x, y).item(), x


@pytest.mark.parametrize("method", ["sadd", "vadd", "vadd-shared", "at", "vat"])
@pytest.mark.parametrize("form", FORMS)
def test_an_in_place_activation_at_the_start_of_the_model_acts_once_in_each_pass(form: str, method: str) -> None:
    (expected, before), (loss, after) = (starting_in_place(form, method, inplace=inplace) for inplace in (False, True))
    assert loss == expected
    if method in ("at", "vat"):
        assert torch.equal(after, before), "a pass has changed x"

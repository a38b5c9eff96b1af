"""The loss of a step: cross-entropy plus weighted terms, each on the images that are its own."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import (
    AdversarialTraining,
    EntropyMinimization,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.run.step import Batch, Objective
from adversarial_dropout.experiments.terms import Add, At, Entmin, Pi, Sadd, Term, Vadd, Vat, by_kind
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.model_io import Inputs


class Square(Regularizer):
    """A term that is easily computed by hand: the mean square of the logits. It keeps what it was given."""

    def __init__(self, *, supervised: bool) -> None:
        super().__init__()
        self.supervised = supervised
        self.given: list[tuple[Tensor, Tensor | None]] = []

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        assert isinstance(x, Tensor)
        self.given.append((x, y))
        return square(model, x)


def square(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x)
    return logits.square().mean(dim=1)


def batch() -> Batch:
    return Batch(torch.rand(6, 5).double(), torch.tensor([0, 1, 2, 0, 1, 2]), torch.rand(9, 5).double())


def objective(terms: dict[str, Term], stubs: tuple[Square, ...]) -> Objective:
    made = Objective(nn.Linear(5, 3).double(), terms)
    made.regularizers = nn.ModuleList(stubs)
    return made.double()


@pytest.mark.parametrize("ramp", [0.0, 0.3, 1.0])
def test_loss_and_gradient(ramp: float) -> None:
    terms = by_kind(Sadd(weight=2.0), Pi(weight=30.0), Entmin(weight=0.5, ramp=False))
    made = objective(terms, (Square(supervised=True), Square(supervised=False), Square(supervised=False)))
    step = batch()
    loss, values = made(step, ramp)
    gradients = torch.autograd.grad(loss, list(made.model.parameters()))

    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in made.model.parameters())
    assert step.unlabelled is not None
    logits, others = step.images @ weight.T + bias, step.unlabelled @ weight.T + bias
    entropy = (logits.logsumexp(1) - logits[torch.arange(6), step.labels]).sum() / 6
    labelled, unlabelled = logits.pow(2).sum() / 18, others.pow(2).sum() / 27
    by_hand = entropy + 2.0 * ramp * labelled + 30.0 * ramp * unlabelled + 0.5 * unlabelled
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, torch.autograd.grad(by_hand, (weight, bias)), rtol=1e-10, atol=1e-14)
    expected = {"ce": entropy, "sadd": labelled, "pi": unlabelled, "entmin": unlabelled}
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert not value.requires_grad, "values are for the record"
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-12, atol=0)


def test_who_sees_what() -> None:
    supervised, unsupervised = Square(supervised=True), Square(supervised=False)
    step = batch()
    objective(by_kind(Sadd(), Pi()), (supervised, unsupervised))(step, 1.0)
    ((images, labels),) = supervised.given
    assert images is step.images
    assert labels is not None
    assert torch.equal(labels, step.labels)
    ((others, none),) = unsupervised.given
    assert others is step.unlabelled
    assert none is None


@pytest.mark.parametrize("kinds", [(Sadd,), (Vadd, Sadd), (Sadd, Vadd)])
@pytest.mark.parametrize("unlabelled", [True, False])
def test_sadd_has_the_mask_of_the_likelihood(kinds: tuple[type[Sadd | Vadd], ...], unlabelled: bool) -> None:
    """Eq. 6 has one εˢ; without a flip the adversarial pass repeats the likelihood's, so both terms are equal. Another
    term, whose target is computed on two views of as many images, takes nothing away.
    """
    model = SmallCnn(p=0.5, delta=0.0, input_noise=0.0).build((1, 8, 8), 10)
    made = Objective(model, by_kind(*(kind(divergence="ce") for kind in kinds))).train()
    x = torch.rand(4, 1, 8, 8)
    step = Batch(x, torch.tensor([1, 2, 3, 4]), x + 0.1 if unlabelled else None, x + 0.2)
    _, values = made(step, 1.0)
    assert values["sadd"] == values["ce"]


def test_plain_is_cross_entropy_alone() -> None:
    made = Objective(nn.Linear(5, 3).double(), {})
    step = batch()
    loss, values = made(step, 1.0)
    torch.testing.assert_close(loss, F.cross_entropy(made.model(step.images), step.labels))
    assert list(values) == ["ce"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(At, {"eps": 0.5}), (Vat, {"eps": 0.5}), (Pi, {"divergence": "kl"}), (Sadd, {}), (Vadd, {}), (Entmin, {})],
)
@pytest.mark.parametrize("ramp", [True, False])
def test_each_kind_on_the_network(kind: type[Term], settings: dict[str, Any], ramp: bool) -> None:
    term = kind(weight=3.0, ramp=ramp, **settings)
    made = Objective(SmallCnn(delta=0.05).build((1, 8, 8), 10), by_kind(term))
    step = Batch(torch.rand(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]), torch.rand(5, 1, 8, 8))
    loss, values = made(step, 0.25)
    factor = 0.25 if ramp else 1.0
    assert float(values[term.kind]) > 0
    assert loss.item() == pytest.approx(float(values["ce"]) + 3.0 * factor * float(values[term.kind]), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and math.isfinite(float(p.grad.sum())) for p in made.parameters())


def test_a_weight_of_zero_leaves_the_gradient_of_plain() -> None:
    model = nn.Linear(5, 3).double()
    step = batch()
    gradients = []
    for terms in ({}, by_kind(Entmin(weight=0.0))):
        loss, _ = Objective(model, terms)(step, 1.0)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("term", "made", "settings"),
    [
        (At(eps=0.7), AdversarialTraining, {"eps": 0.7}),
        (
            Vat(eps=0.7, xi=1e-3, divergence="qe"),
            VirtualAdversarialTraining,
            {"eps": 0.7, "xi": 1e-3, "divergence": "qe"},
        ),
        (Pi(divergence="kl"), PiModel, {"divergence": "kl"}),
        (Sadd(divergence="qe"), SupervisedAdversarialDropout, {"divergence": "qe"}),
        (
            Vadd(divergence="qe", noise="shared"),
            VirtualAdversarialDropout,
            {"divergence": "qe", "noise": "shared"},
        ),
        (Add(), VirtualAdversarialDropout, {"divergence": reconstruction_error, "noise": "shared"}),
        (Entmin(), EntropyMinimization, {}),
    ],
)
def test_settings_are_passed_on(term: Term, made: type[Regularizer], settings: dict[str, object]) -> None:
    regularizer = term.build()
    assert type(regularizer) is made
    assert regularizer.reduction == "mean"
    assert {name: getattr(regularizer, name) for name in settings} == settings
    assert term.supervised == regularizer.supervised
    assert term.searches == isinstance(regularizer, SupervisedAdversarialDropout | VirtualAdversarialDropout)


@pytest.mark.parametrize("divergence", ["ce", "kl", "qe"])
def test_every_divergence(divergence: Any) -> None:
    for kind in (Vat, Pi, Vadd):
        assert kind(divergence=divergence).build().divergence == divergence


@pytest.mark.parametrize("divergence", ["ce", "qe"])
def test_every_divergence_to_labels(divergence: Any) -> None:
    assert Sadd(divergence=divergence).build().divergence == divergence


@pytest.mark.parametrize("kind", [Vat, Pi, Sadd, Vadd])
def test_a_divergence_that_does_not_exist(kind: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"divergence to be .*, got 'se'"):
        kind(divergence="se")


def test_the_model_is_trained_through_the_objective() -> None:
    made = Objective(SmallCnn(delta=0.05).build((1, 8, 8), 10), by_kind(Vadd()))
    made.train()
    assert all(module.training for module in made.modules())
    made.eval()
    assert not any(module.training for module in made.model.modules())
    assert list(made.parameters()) == list(made.model.parameters()), "the terms have no parameters of their own"

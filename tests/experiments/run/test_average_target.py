"""Targets from the moving average of the weights, and one view instead of two."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import load
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.run import checkpoint
from adversarial_dropout.experiments.run.ranks import joined
from adversarial_dropout.experiments.run.run import Run
from adversarial_dropout.experiments.run.step import Batch, Objective
from adversarial_dropout.experiments.terms import Entmin, Ict, Pi, Term, Vadd, by_kind
from adversarial_dropout.layers import AdversarialDropout

from ..runs import interrupt, small, trained


class Linear(nn.Module):
    """Adversarial dropout in front of a linear map."""

    def __init__(self, p: float, delta: float) -> None:
        super().__init__()
        self.upper = nn.Sequential(AdversarialDropout(p, delta), nn.Linear(6, 3))
        self.under = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.upper(self.under(x))
        return logits


def objective(*terms: Term, p: float = 0.0, delta: float = 0.4) -> Objective:
    """In it, the average differs from the model."""
    torch.manual_seed(0)
    made = Objective(Linear(p, delta).double(), by_kind(*terms))
    assert made.average is not None
    with torch.no_grad():
        for parameter in made.average.teacher.parameters():
            parameter.add_(torch.randn_like(parameter))
    return made


def output_layer(model: nn.Module) -> nn.Linear:
    assert isinstance(model, Linear)
    layer = model.upper[1]
    assert isinstance(layer, nn.Linear)
    return layer


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images, first, second = (torch.rand(7, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    return Batch(images, torch.arange(7) % 3, first, second)


def quadratic(target: Tensor, logits: Tensor) -> Tensor:
    return (target.softmax(1) - logits.softmax(1)).square().mean()


@pytest.mark.parametrize("views", [1, 2])
def test_pi_with_the_average_is_mean_teacher(views: int) -> None:
    made = objective(Pi(views=views, target="average", weight=2.0))  # type: ignore[arg-type]
    step = batch()
    assert step.unlabelled is not None
    assert step.second is not None
    loss, values = made(step, 1.0)
    assert made.average is not None
    own, average = output_layer(made.model), output_layer(made.average.teacher)
    goal = average(step.unlabelled).detach()
    by_hand = quadratic(goal, own(step.unlabelled if views == 1 else step.second))
    torch.testing.assert_close(values["pi"], by_hand.detach())
    loss.backward()
    gradient = own.weight.grad
    expected = torch.autograd.grad(F.cross_entropy(own(step.images), step.labels) + 2.0 * by_hand, own.weight)
    torch.testing.assert_close(gradient, expected[0])
    assert all(parameter.grad is None for parameter in made.average.parameters())


@pytest.mark.parametrize("views", [1, 2])
def test_views_of_the_own_target(views: int) -> None:
    torch.manual_seed(0)
    made = Objective(Linear(0.0, 0.4).double(), by_kind(Pi(views=views)))  # type: ignore[arg-type]
    assert made.average is None
    step = batch()
    assert step.unlabelled is not None
    assert step.second is not None
    other = step.second if views == 2 else step.unlabelled.clone()
    with pytest.warns(match="nothing to make consistent") if views == 1 else torch.enable_grad():
        _, values = made(step, 1.0)
    torch.testing.assert_close(values["pi"], quadratic(made.model(step.unlabelled), made.model(other)).detach())


def test_the_search_starts_from_the_mask_of_the_average() -> None:
    made = objective(Vadd(target="average", divergence="qe"), p=0.5, delta=0.2)  # One flip of six.
    step = batch()
    assert made.average is not None
    assert step.unlabelled is not None
    assert step.second is not None
    masks: dict[str, list[Tensor]] = {"own": [], "average": []}
    inputs: dict[str, list[Tensor]] = {"own": [], "average": []}
    for name, network in (("own", made.model), ("average", made.average.teacher)):

        def keep(module: nn.Module, given: tuple[Tensor], output: Tensor, name: str = name) -> None:
            inputs[name].append(given[0].detach())
            masks[name].append(output.detach() != 0)

        network.upper[0].register_forward_hook(keep)  # type: ignore[index, union-attr]
    _, values = made(step, 1.0)
    (base,) = masks["average"]
    flips = (base ^ masks["own"][-1]).sum(dim=1)
    assert flips.max() == 1
    assert torch.equal(inputs["average"][0], step.unlabelled)
    assert torch.equal(inputs["own"][-1], step.second)
    own, average = output_layer(made.model), output_layer(made.average.teacher)
    by_hand = quadratic(average(2 * base * step.unlabelled), own(2 * masks["own"][-1] * step.second))
    torch.testing.assert_close(values["vadd"], by_hand.detach())


def test_one_target_serves_all_terms() -> None:
    made = objective(Pi(target="average"), Vadd(target="average"), Ict(target="average"), p=0.5)
    assert made.average is not None
    calls: list[int] = []
    made.average.teacher.register_forward_hook(lambda *arguments: calls.append(1))
    made(batch(), 1.0)
    assert len(calls) == 1


def config(*terms: Term, **data: Any) -> ExperimentConfig:
    base = small("vadd-qe", epochs=4)
    return base.changed(terms=by_kind(*terms), data=dataclasses.replace(base.data, **data))


AVERAGED = (Pi(target="average"), Vadd(target="average", flips="random"), Ict())


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    made = config(*AVERAGED)
    made = dataclasses.replace(made, training=dataclasses.replace(made.training, steps_per_epoch=1, target_decay=0.6))
    with joined("cpu", "float32") as ranks:
        data = load(made.data)
        run = Run(made, data, ranks, capture=False)
        pixels = Pixels(made.data, data.brightest)
        average = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
        for step in range(1, 4):
            run.epoch(pixels)
            decay = min(0.6, 1 - 1 / (step + 1))
            for name, tensor in run.model.named_parameters():
                average[name] = decay * average[name] + (1 - decay) * tensor.detach()
                found = run.state_dict()["average"][f"teacher.{name}"]
                torch.testing.assert_close(found, average[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_goes_on_with_the_same_bits(after: int, tmp_path: Path) -> None:
    made = config(*AVERAGED, translate=1)
    expected = trained(made, tmp_path / "whole")
    interrupt(made, tmp_path / "interrupted", after=after)
    state = checkpoint.load(tmp_path / "interrupted")
    assert state is not None
    changed = copy.deepcopy(state["average"])
    assert trained(made, tmp_path / "interrupted") == expected
    checkpoint.save(tmp_path / "changed", {**state, "average": {**changed, "teacher.upper.1.bias": torch.ones(10)}})
    assert trained(made, tmp_path / "changed") != expected, "the average counts"


def test_shared_noise_with_one_view_alone() -> None:
    shared = config(Vadd(noise="shared", views=1), translate=1)
    assert shared.data.augmented
    with pytest.raises(InvalidValueError, match=r"expected terms.vadd.noise.*two views; or terms.vadd.views=1"):
        config(Vadd(noise="shared"), translate=1)
    with pytest.raises(InvalidValueError, match=r'expected terms.vadd.noise="independent" with terms.vadd.target'):
        Vadd(noise="shared", target="average")


def test_shared_noise_with_one_view_beside_pi_with_two() -> None:
    made = Objective(SmallCnn(delta=0.1).build((1, 8, 8), 10), by_kind(Pi(), Vadd(noise="shared", views=1)))
    images, first, second = (torch.rand(6, 1, 8, 8) for _ in range(3))
    _, values = made(Batch(images, torch.arange(6), first, second), 1.0)
    assert all(value > 0 for value in values.values())


@pytest.mark.parametrize(
    ("terms", "training", "message"),
    [
        ((Pi(views=1),), {}, "terms.pi.views=2, because training images are not changed at random, got 1"),
        ((Pi(),), {"target_decay": 0.5}, "training.target_decay=0.99, because no term takes its target from averaged"),
    ],
)
def test_refused_where_it_has_no_effect(terms: tuple[Term, ...], training: dict[str, float], message: str) -> None:
    base = small("pi")
    with pytest.raises(InvalidValueError, match=f"expected {message}"):
        dataclasses.replace(
            base,
            terms=by_kind(*terms),
            training=dataclasses.replace(base.training, **training),  # type: ignore[arg-type]
        )


def test_vadd_with_entropy_minimisation(tmp_path: Path) -> None:
    made = config(Vadd(), Entmin())
    assert trained(made, tmp_path)
    assert list(made.terms) == ["vadd", "entmin"]


@pytest.mark.parametrize(("setting", "value"), [("views", 3), ("views", "2"), ("target", "mean")])
def test_wrong_settings(setting: str, value: Any) -> None:
    for term in (Pi, Vadd):
        with pytest.raises(InvalidValueError, match=f"expected terms.{term.kind}.{setting} to be"):
            term(**{setting: value})
    with pytest.raises(InvalidValueError, match=r"expected terms.vadd.flips to be one of found, random"):
        Vadd(flips="all")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"training.target_decay"):
        TrainingConfig(target_decay=1.5)

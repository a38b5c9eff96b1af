"""The budget δ rises from one flip to its value."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import TrainingConfig
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.run.budgets import RisingBudgets
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.masks import flip_budget
from adversarial_dropout.regularizers import search
from adversarial_dropout.regularizers.layer_masks import LayerMasks, found_mask

from ..runs import small


def model(delta: float, second: float = 0.5) -> nn.Module:
    maps = AdversarialDropout(0.5, delta, granularity="channel")
    return nn.Sequential(
        nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), maps, nn.Flatten(), AdversarialDropout(0.5, second), nn.Linear(90, 2)
    )


def test_each_layer_rises_from_one_flip() -> None:
    network = model(0.4, 0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    budgets = RisingBudgets(network, torch.zeros(1, 1, 5, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    flips = []
    for share in (0.0, 0.01, 0.5, 1.0):
        budgets.set(share)
        flips.append(
            [flip_budget(layer.delta, n) for layer, n in zip(adversarial_layers(network), (10, 90), strict=True)]
        )
    assert flips == [[1, 1], [1, 1], [2, 22], [4, 45]]
    assert [layer.delta for layer in adversarial_layers(network)] == [0.4, 0.5]


def test_a_budget_of_no_flip_stays_that() -> None:
    network = model(0.05, 0.5)
    budgets = RisingBudgets(network, torch.zeros(1, 1, 5, 5))
    for share in (0.0, 1.0):
        budgets.set(share)
        assert adversarial_layers(network)[0].delta == 0.05


def test_nothing_to_rise() -> None:
    with pytest.raises(InvalidValueError, match=r"allow two flips or more .* got 0.15 of 10, 0.02 of 90 units; raise"):
        RisingBudgets(model(0.15, 0.02), torch.zeros(1, 1, 5, 5))


def test_a_run_searches_with_the_budget_of_its_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deltas: list[float] = []

    def seen(masks: LayerMasks, *arguments: torch.Tensor) -> torch.Tensor:
        deltas.append(masks.layer.delta)
        return found_mask(masks, *arguments)

    monkeypatch.setattr(search, "found_mask", seen)
    config = small("vadd-qe", epochs=3, steps=1)
    training = dataclasses.replace(config.training, ramp_up=2, ramp_delta=True)
    loop.run(dataclasses.replace(config, training=training), tmp_path)
    # 256 units, 6 flips; the ramp is exp(-5), exp(-5/4), 1.
    assert deltas == [1 / 256, pytest.approx(6 / 256 * 2.718281828459045 ** (-5 / 4)), 6 / 256]


@pytest.mark.parametrize(
    ("method", "training", "why"),
    [
        ("vadd-qe", TrainingConfig(ramp_delta=True, ramp_up=0), "training.ramp_up is 0"),
        ("vat", TrainingConfig(ramp_delta=True), "no term of the run searches"),
    ],
)
def test_refused_where_nothing_would_rise(method: str, training: TrainingConfig, why: str) -> None:
    config = small(method)
    with pytest.raises(InvalidValueError, match=f"expected training.ramp_delta=False, because {why}, got True"):
        dataclasses.replace(config, training=training)


def test_the_budget_alone_may_rise() -> None:
    config = small("vadd-qe")
    terms = {kind: dataclasses.replace(term, ramp=False) for kind, term in config.terms.items()}
    training = dataclasses.replace(config.training, ramp_delta=True)
    assert dataclasses.replace(config, training=training, terms=terms).training.ramp_up == 1

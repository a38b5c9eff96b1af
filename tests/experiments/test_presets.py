"""Presets: each builds, and each method has the terms that its name says."""

import dataclasses

import pytest
import torch

from adversarial_dropout import flip_budget
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import models, presets
from adversarial_dropout.experiments.config import ExperimentConfig, Scale
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.training.objective import Batch, Objective

CELLS = [
    (preset.name, method, scale)
    for preset in presets.PRESETS.values()
    for method in preset.methods
    for scale in preset.scales
]
NAMED = {
    "pi": ("pi", "qe"),
    "vat": ("vat", "kl"),
    "sadd": ("sadd", "ce"),
    "vadd-kl": ("vadd", "kl"),
    "vadd-qe": ("vadd", "qe"),
}


@pytest.mark.parametrize(("name", "method", "scale"), CELLS)
def test_every_preset_builds_and_takes_a_step(name: str, method: str, scale: Scale) -> None:
    config = presets.get(name, method, scale, seed=3)
    assert (config.preset, config.method, config.scale, config.seed, config.threads) == (name, method, scale, 3, 1)
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    data = sources.load(config.data.name)
    split = make_split(data, config.data, config.seed)
    model = models.build(config.model, len(data.classes))
    rows, others = split.labelled[: config.training.batch_labelled], split.unlabelled[:16]
    loss, values = Objective(model, config.terms)(Batch(data.pixels(rows), data.labels[rows], data.pixels(others)), 1.0)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)
    assert list(values) == ["ce", *(term.kind for term in config.terms)]


@pytest.mark.parametrize(("name", "method", "scale"), CELLS)
def test_terms_are_what_the_name_says(name: str, method: str, scale: Scale) -> None:
    config = presets.get(name, method, scale)
    expected = [] if method == "plain" else [NAMED[part] for part in method.split("+")]
    assert [(term.kind, term.divergence) for term in config.terms] == expected
    assert all(term.weight > 0 and term.ramp for term in config.terms)


def test_the_methods_of_digits() -> None:
    preset = presets.find("digits-100")
    assert preset.methods == ("plain", "pi", "vat", "sadd", "vadd-kl", "vadd-qe", "vadd-qe+vat")
    config = presets.get("digits-100", "plain")
    assert config.data.name == "digits"
    assert config.data.labelled == 100
    assert config.data.validation == 0, "reported runs are judged on the test part"


@pytest.mark.parametrize("name", presets.PRESETS)
def test_methods_stand_on_equal_footing(name: str) -> None:
    preset = presets.PRESETS[name]
    assert preset.name == name
    assert preset.methods[0] == "plain"
    for scale in preset.scales:
        configs = [presets.get(name, method, scale) for method in preset.methods]
        assert len({config.data for config in configs}) == 1
        assert len({(config.model.name, config.model.p, config.model.input_noise) for config in configs}) == 1
        # What a method may have of its own: its terms, its budget and its learning rate.
        assert len({dataclasses.replace(config.training, learning_rate=1.0) for config in configs}) == 1


@pytest.mark.parametrize("name", presets.PRESETS)
def test_tiny_is_two_steps(name: str) -> None:
    training = presets.get(name, "plain", "tiny").training
    assert training.epochs * (training.steps_per_epoch or 0) == 2


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_search_may_flip(name: str) -> None:
    model = presets.get(name, "plain").model
    assert flip_budget(model.delta, 256) >= 1
    assert model.p > 0, "VAdD needs a base mask to differ from"


@pytest.mark.parametrize(
    ("name", "method", "scale", "message"),
    [
        (
            "digits-10",
            "plain",
            "quick",
            "expected a preset of digits-100, got 'digits-10'; did you mean \"digits-100\"",
        ),
        ("xyz", "plain", "quick", "got 'xyz'; `adversarial-dropout presets` lists them"),
        ("digits-100", "vadd-q", "quick", 'expected a method of digits-100: plain, .*; did you mean "vadd-qe"'),
        ("digits-100", "VAT", "quick", "got 'VAT'"),
        ("digits-100", "plain", "paper", "expected a scale of digits-100: tiny, quick, got 'paper'"),
    ],
)
def test_unknown_names_offer_the_nearest(name: str, method: str, scale: Scale, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        presets.get(name, method, scale)


def test_the_step_above_is_repeatable() -> None:
    config = presets.get("digits-100", "vadd-qe+vat", "tiny")
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        model = models.build(config.model, 10)
        images = torch.rand(4, 1, 8, 8)
        loss, _ = Objective(model, config.terms)(Batch(images, torch.arange(4), images), 0.5)
        losses.append(loss)
    assert torch.equal(losses[0], losses[1])

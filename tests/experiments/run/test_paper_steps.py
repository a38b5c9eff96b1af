"""Every cell of the paper's tables takes a step: full network, real files, all terms."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.presets import paper
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.step import Objective

from .. import small_data

NAMES = [column.preset for column in paper.COLUMNS]
CELLS = [(name, method) for name in NAMES for method in presets.find(name).methods]


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> DataLocation:
    """Small files of all three forms."""
    folder = tmp_path_factory.mktemp("data")
    for source in small_data.SOURCES:
        small_data.hub_files(folder / source, source)
    return DataLocation(folder)


def short(name: str, method: str) -> ExperimentConfig:
    """The full preset, but one step with two images of a kind, and 20 labels where only some are used."""
    config = presets.get(name, method, "paper")
    data, training = config.data, config.training
    return config.changed(
        data=dataclasses.replace(data, labelled=None if data.labelled is None else 20, evaluated=2),
        training=dataclasses.replace(
            training,
            epochs=1,
            steps_per_epoch=1,
            batch_labelled=2,
            batch_unlabelled=2 if training.batch_unlabelled else 0,
        ),
    )


def mixing() -> Whitening:
    """A whitening that is quickly made: the mean of three colours, taken away from each."""
    size = 32 * 32
    colours = (2 * torch.eye(3) - torch.full((3, 3), 1 / 3)).repeat_interleave(size, 0).repeat_interleave(size, 1)
    return Whitening(torch.zeros(3 * size), colours * torch.eye(size).repeat(3, 3))


@pytest.mark.parametrize(("name", "method"), CELLS)
def test_a_step(name: str, method: str, location: DataLocation) -> None:
    config = short(name, method)
    data = sources.load(config.data, location)
    split = make_split(data, config.data, config.seed)
    pixels = Pixels(config.data, data.brightest, mixing() if config.data.whiten else None)
    model = config.model.build(data.shape, len(data.classes))
    objective = Objective(model, config.terms)
    order = torch.Generator().manual_seed(0)
    (step,) = batches(data, pixels, split, config.training, order, needs_unlabelled=objective.needs_unlabelled)
    loss, values = objective(step, 1.0)
    loss.backward()
    assert loss.isfinite()
    kinds = {"vadd-kl": "vadd", "vadd-qe": "vadd", "plain": "ce"}
    named = {kinds.get(part, part) for part in method.split("+")} | {"ce"}
    assert values.keys() - {"entmin"} == named
    weights: dict[str, float] = {"ce": 1.0, **{kind: term.weight for kind, term in config.terms.items()}}
    expected = sum(weights[kind] * float(value) for kind, value in values.items())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    for kind, value in values.items():
        assert value > 0, f"{kind} asks nothing"
    norm_logits = isinstance(config.model, ConvLarge) and config.model.norm_logits
    for parameter, gradient in ((key, value.grad) for key, value in model.named_parameters()):
        assert gradient is not None, parameter
        assert gradient.isfinite().all(), parameter
        if not (norm_logits and parameter == "upper.1.0.bias"):  # Normalisation takes it away again.
            assert gradient.abs().max() > 1e-5, parameter


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("paper/mnist-all", "vadd-qe+vat"),
        ("paper/svhn-all", "vadd-kl"),
        ("authors/svhn-1000", "sadd"),
        ("authors/cifar10-4000", "vadd-qe+vat"),
    ],
)
def test_a_run(name: str, method: str, location: DataLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whitening, "fit", lambda _: mixing())  # The real one takes a quarter of a minute.
    config = short(name, method)
    record = loop.run(config, tmp_path, location=location)
    (row,) = record.metrics
    assert row.keys() == {"epoch", "loss", "ce", "error", *config.terms}
    shape = small_data.SHAPES[config.data.name]
    assert record.final["data"]["shape"] == list(shape)
    assert record.final["data"]["classes"] == list(small_data.CLASSES[config.data.name])
    before = config.model.build(shape, 10).state_dict()
    weights = safetensors.torch.load_file(tmp_path / records.WEIGHTS)
    assert {key: value.shape for key, value in weights.items()} == {key: value.shape for key, value in before.items()}
    assert all(value.isfinite().all() for value in weights.values())
    assert (tmp_path / records.WHITENING).exists() == name.startswith("authors/cifar10")

"""A stopped run resumes, a finished run is not repeated, and a run with another config is refused."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.network import Network, NoisyNetwork
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.records import Metrics
from adversarial_dropout.experiments.run import checkpoint, loop
from adversarial_dropout.experiments.trained.trained import Trained

from ..runs import interrupt, result, small, trained


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("method", ["plain", "vadd-qe+vat"])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_an_interrupted_run_goes_on_with_the_same_bits(method: str, after: int, tmp_path: Path) -> None:
    config = small(method, epochs=4)
    expected = trained(config, tmp_path / "whole")
    interrupt(config, tmp_path / "interrupted", after=after)
    assert not records.is_finished(tmp_path / "interrupted")
    epochs: list[int] = []
    loop.run(config, tmp_path / "interrupted", lambda epoch, row: epochs.append(epoch))
    assert epochs == list(range(after + 1, 5)), "what is done is not done again"
    assert result(tmp_path / "interrupted") == expected


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_whose_epoch_is_chosen_goes_on_with_the_same_bits(after: int, tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=4)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, choosing=0.3))
    expected = trained(config, tmp_path / "whole")
    interrupt(config, tmp_path / "interrupted", after=after)
    loop.run(config, tmp_path / "interrupted")
    assert result(tmp_path / "interrupted") == expected


PAPER = pytest.mark.parametrize(
    ("preset", "method"),
    [
        ("paper/mnist-1000", "vadd-qe+vat"),
        ("paper/svhn-all", "vadd-kl"),
        ("authors/svhn-1000", "pi"),
        ("authors/cifar10-4000", "vadd-kl+vat"),
    ],
)


def paper(preset: str, method: str) -> tuple[ExperimentConfig, ImageData]:
    """The paper's settings (whitening, views, norms, a falling β₁), a narrow network, and noise for images."""
    config = presets.get(preset, method, "tiny")
    unlabelled = 4 if config.training.batch_unlabelled else 0
    training = dataclasses.replace(
        config.training,
        epochs=3,
        steps_per_epoch=2,
        ramp_down=2,
        beta1_end=0.5,
        batch_labelled=4,
        batch_unlabelled=unlabelled,
    )
    channels = 1 if config.model.name == "mnist-cnn" else 3
    images = torch.randint(256, (60, channels, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = ImageData(images, torch.arange(60) % 10, torch.arange(50, 60), 255, tuple("abcdefghij"))
    model = config.model
    if isinstance(model, ConvLarge):
        model = dataclasses.replace(model, width=32)
    return dataclasses.replace(config, model=model, training=training), data


@PAPER
def test_a_run_of_the_papers_networks_goes_on_with_the_same_bits(
    preset: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = paper(preset, method)
    monkeypatch.setattr(sources, "load", lambda *arguments, **options: data)
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "cache"))
    expected = trained(config, tmp_path / "whole")
    for after in (1, 2):
        interrupt(config, tmp_path / str(after), after=after)
        assert trained(config, tmp_path / str(after)) == expected


@PAPER
def test_what_is_kept_of_the_papers_networks_gives_the_recorded_error(
    preset: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = paper(preset, method)
    assert isinstance(config.model, NoisyNetwork)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, noise_in_evaluation=False))
    monkeypatch.setattr(sources, "load", lambda *arguments, **options: data)
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "cache"))
    record = loop.run(config, tmp_path / "run")
    network = Trained.load(record)
    guesses = [int(network.model(network.pixels(data.images[[row]])).argmax()) for row in range(50, 60)]
    assert record.error == pytest.approx(10 * sum(guess != number for number, guess in enumerate(guesses)))
    assert (network.shape, network.classes) == (data.shape, data.classes)


def test_seconds_count_all_restarts(tmp_path: Path) -> None:
    config = small(epochs=3)
    interrupt(config, tmp_path, after=1)
    state = checkpoint.load(tmp_path)
    assert state is not None
    checkpoint.save(tmp_path, {**state, "seconds": 1000.0})
    interrupt(config, tmp_path, after=2)
    assert 1000 < loop.run(config, tmp_path).seconds < 1060


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    config = small(epochs=1)
    first = loop.run(config, tmp_path)
    before = times(tmp_path)

    def never(epoch: int, row: Metrics) -> None:
        raise AssertionError("trained again")

    again = loop.run(config, tmp_path, never)
    assert times(tmp_path) == before
    assert (again.metrics, again.final) == (first.metrics, first.final)


@pytest.mark.parametrize("finished", [True, False])
def test_another_config_is_refused(finished: bool, tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=2)
    if finished:
        loop.run(config, tmp_path)
    else:
        interrupt(config, tmp_path, after=1)
    before = times(tmp_path)
    other = dataclasses.replace(config, seed=4, training=dataclasses.replace(config.training, learning_rate=1e-3))
    message = (
        rf"{tmp_path} holds a run of another config \(recorded → asked for\): seed: 0 → 4; "
        r"training.learning_rate: 0.003 → 0.001. Choose another folder with --out, or delete this one"
    )
    with pytest.raises(InvalidValueError, match=message):
        loop.run(other, tmp_path)
    assert times(tmp_path) == before
    loop.run(config, tmp_path)


@pytest.mark.parametrize(
    ("model", "message"), [(ConvLarge(), "images of 12 × 12"), (SmallCnn(input_noise=-1.0), "expected .*-1.0")]
)
def test_a_config_that_cannot_start_does_not_occupy_the_folder(model: Network, message: str, tmp_path: Path) -> None:
    config = small(epochs=1)
    with pytest.raises(InvalidValueError, match=message):
        loop.run(dataclasses.replace(config, model=model), tmp_path)
    loop.run(config, tmp_path)


def test_a_loss_that_diverges(tmp_path: Path) -> None:
    config = small(epochs=3, steps=1, learning_rate=1e30)
    for _ in range(2):
        with pytest.raises(loop.DivergedError, match=rf"finite loss, got .* in epoch 2 of {tmp_path}; lower.*learning"):
            loop.run(config, tmp_path)
        state = checkpoint.load(tmp_path)
        assert state is not None
        assert state["epoch"] == 1
        assert records.epochs_done(tmp_path) == 1
        assert all(math.isfinite(value) for row in state["rows"] for value in row.values())
        assert not records.is_finished(tmp_path)


def test_a_term_that_diverges(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="finite"):
        loop.run(small("vadd-qe", epochs=3, steps=1, learning_rate=1e30), tmp_path)
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["epoch"] == 1

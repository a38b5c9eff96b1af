"""Small runs to train, what they leave behind, and records made by hand."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig, Scale
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.records import Metrics, Record
from adversarial_dropout.experiments.run import loop


def small(
    method: str = "plain",
    *,
    seed: int = 0,
    epochs: int = 3,
    steps: int = 2,
    learning_rate: float = 3e-3,
    validation: int = 0,
) -> ExperimentConfig:
    """A config that trains for a few steps: the tiny preset with some values replaced."""
    config = presets.get("digits-100", method, "tiny", seed)
    training = dataclasses.replace(config.training, epochs=epochs, steps_per_epoch=steps, learning_rate=learning_rate)
    return dataclasses.replace(config, training=training, data=dataclasses.replace(config.data, validation=validation))


def arguments(config: ExperimentConfig, out: Path) -> list[str]:
    """The command that trains ``config`` (made by :func:`small`) below ``out``."""
    training = config.training
    return [
        *("train", config.preset, config.method, "--scale", config.scale, "--seed", str(config.seed)),
        *("--training.epochs", str(training.epochs), "--training.steps-per-epoch", str(training.steps_per_epoch)),
        *("--training.learning-rate", str(training.learning_rate), "--out", str(out)),
    ]


def seen(data: ImageData, rows: Tensor) -> Tensor:
    """What a network of the digits is shown of ``rows``: 0 to 16 as 0 to 1."""
    return data.images[rows].float() / 16


def result(folder: Path) -> dict[str, bytes]:
    """What must be the same bits in two equal runs: weights, metrics, split and config."""
    names = (records.WEIGHTS, records.METRICS, records.SPLIT, records.CONFIG)
    return {name: (folder / name).read_bytes() for name in names}


def trained(config: ExperimentConfig, folder: Path) -> dict[str, bytes]:
    """Run ``config`` and return its :func:`result`."""
    loop.run(config, folder)
    return result(folder)


class StoppedError(Exception):
    """Raised in a run to interrupt it."""


def interrupt(config: ExperimentConfig, folder: Path, *, after: int) -> None:
    """Run ``config``, and stop it when ``after`` epochs are recorded."""

    def stop(epochs: int, row: Metrics) -> None:
        if epochs == after:
            raise StoppedError

    try:
        loop.run(config, folder, stop)
    except StoppedError:
        return
    raise AssertionError(f"the run ended before epoch {after}")


def checkpoint_state(value: float, epoch: int) -> dict[str, object]:
    """A checkpoint's content, recognisable by ``value``."""
    generator = torch.Generator().manual_seed(int(value))
    return {"epoch": epoch, "model": {"weight": torch.full((5, 3), float(value))}, "order": generator.get_state()}


def record(
    method: str,
    error: float,
    *,
    seed: int = 0,
    seconds: float = 10.0,
    preset: str = "digits-100",
    scale: Scale = "quick",
    evaluated_on: str = "test",
    curve: tuple[float, ...] = (50.0, 20.0),
) -> Record:
    """A record made by hand; nothing of it is on disk."""
    known = method if method in presets.find("digits-100").methods else "plain"
    config = presets.get("digits-100", known, scale, seed)
    data = dataclasses.replace(config.data, validation=300 if evaluated_on == "validation" else 0)
    config = dataclasses.replace(config, preset=preset, method=method, data=data)
    errors = (*curve, error)
    metrics = [{"epoch": float(epoch), "loss": 1.0, "error": value} for epoch, value in enumerate(errors, 1)]
    final = {
        "metrics": metrics[-1],
        "epoch": len(metrics),
        "evaluated_on": evaluated_on,
        "seconds": seconds,
        "environment": {
            "python": "3.11",
            "packages": {"torch": "2.13.0"},
            "system": "Linux",
            "processor": "a processor",
            "cores": 2,
            "gpu": None,
            "commit": "0123456789abcdef",
        },
    }
    return Record(folder=Path("/nowhere", scale, method, str(seed)), config=config, metrics=metrics, final=final)

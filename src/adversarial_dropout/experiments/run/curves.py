"""The metrics of a run as curves for TensorBoard, written by Accelerate's tracker while the run trains."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import TrainingConfig
from adversarial_dropout.experiments.records import Metrics
from adversarial_dropout.experiments.run import optimizers

if TYPE_CHECKING:
    from accelerate.tracking import TensorBoardTracker

Log = Literal["tensorboard"]
"""A program that shows curves."""

FOLDER = "tensorboard"
"""Folder of the curves, in that of the run."""


def check_log() -> None:
    """Raise :class:`InvalidValueError` unless TensorBoard's writer is installed."""
    if not any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX")):
        raise InvalidValueError(
            "expected the package tensorboard for --log tensorboard, got none; pip install "
            "'adversarial-dropout[tensorboard]', or leave --log out"
        )


class Curves:
    """Called after each epoch of the run in ``folder``; writes its metrics, with the learning rate of the epoch.

    The first call replaces curves that are there, and writes all epochs that the run has recorded. The curves of a run
    that was stopped, or that was begun without them, are therefore complete, and no epoch is there twice.
    """

    def __init__(self, folder: Path, training: TrainingConfig) -> None:
        check_log()
        self._folder = folder
        self._training = training
        self._tracker: TensorBoardTracker | None = None

    def __call__(self, epochs: int, metrics: Metrics) -> None:
        """Write the ``metrics`` of the last of ``epochs``. A :class:`RecordError` says why it is not possible."""
        with records.writing(self._folder / FOLDER):
            if self._tracker is None:
                self._tracker = self._begin()
                for row in records.read_metrics(self._folder)[:-1]:
                    self._write(self._tracker, row)
            self._write(self._tracker, metrics)

    def close(self) -> None:
        """Close the files."""
        if self._tracker is not None:
            self._tracker.writer.close()

    def _begin(self) -> "TensorBoardTracker":
        from accelerate.tracking import TensorBoardTracker

        for path in (self._folder / FOLDER).glob("events.out.tfevents.*"):
            path.unlink()
        tracker = TensorBoardTracker(FOLDER, self._folder)
        tracker.start()
        return tracker

    def _write(self, tracker: Any, row: Metrics) -> None:
        epoch = int(row["epoch"])
        values = {name: value for name, value in row.items() if name != "epoch"}
        tracker.log({**values, "learning_rate": learning_rate(self._training, epoch - 1)}, step=epoch)


def learning_rate(training: TrainingConfig, epoch: int) -> float:
    """The learning rate in an epoch, counted from 0."""
    optimizer = optimizers.build(training, iter([torch.nn.Parameter(torch.zeros(1))]))
    optimizers.follow_schedule(training, epoch, optimizer)
    return float(optimizer.param_groups[0]["lr"])


@contextlib.contextmanager
def curves(log: Log | None, folder: Path, training: TrainingConfig) -> Iterator[Curves | None]:
    """The curves that are asked for, if any, closed at the end."""
    made = None if log is None else Curves(folder, training)
    try:
        yield made
    finally:
        if made is not None:
            made.close()

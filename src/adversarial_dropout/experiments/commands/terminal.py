"""What commands show in the terminal while they train."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adversarial_dropout.experiments.commands.options import Grid
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.records import Metrics, Record


def progress_bar(console: Console) -> Progress:
    """A progress bar with the time passed and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    )


class RunShown:
    """Shows a run in a progress bar."""

    def __init__(self, progress: Progress, name: str, epochs: int) -> None:
        self._progress = progress
        self._epochs = epochs
        self._features: TaskID | None = None
        self._task = progress.add_task(f"{name}: epoch 1 of {epochs}", total=epochs)
        self._started = time.monotonic()
        self._before: int | None = None

    def features(self, done: int, images: int) -> None:
        """Show of how many images the features are computed."""
        if self._features is None:
            self._features = self._progress.add_task("features")
        shown = f"features: {done:,} of {images:,} images"
        self._progress.update(self._features, completed=done, total=images, description=shown)
        self._started = time.monotonic()

    def epoch(self, done: int, metrics: Metrics) -> None:
        """Show the error after an epoch, and the time left."""
        if self._before is None:
            self._before = done - 1  # Epochs of an earlier process.
        left = (self._epochs - done) * (time.monotonic() - self._started) / (done - self._before)
        shown = f"error {metrics['error']:.2f} %, {timedelta(seconds=round(left))} left"
        self._progress.update(self._task, completed=done, description=f"epoch {done} of {self._epochs}: {shown}")


@contextlib.contextmanager
def run_shown(console: Console, name: str, epochs: int) -> Iterator[RunShown]:
    """A progress bar for one run, with the time left from the first epoch on."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield RunShown(progress, name, epochs)


def run_grid_shown(
    configs: Sequence[ExperimentConfig], command: Grid, location: DataLocation, console: Console
) -> list[Record]:
    """Train every config below ``command.out`` and show a progress bar."""
    from adversarial_dropout.experiments.grid.grid import run_grid, run_locally

    if command.backend == "ray":
        from adversarial_dropout.experiments.grid.cluster import ray_tasks

        backend = ray_tasks(command.ray_address)
    else:
        backend = run_locally
    with progress_bar(console) as progress:
        task = progress.add_task(f"0 of {len(configs)} runs", total=1.0)
        return run_grid(
            configs,
            command.out,
            jobs=command.jobs,
            backend=backend,
            device=command.device,
            capture=command.capture,
            progress=lambda share, done: progress.update(
                task, completed=share, description=f"{done} of {len(configs)} runs"
            ),
            location=location,
        )

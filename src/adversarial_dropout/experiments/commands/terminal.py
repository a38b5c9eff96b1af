"""What commands show in the terminal while they train."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


@contextlib.contextmanager
def epochs_shown(console: Console, name: str, epochs: int) -> Iterator[Callable[[int, Metrics], None]]:
    """Show the progress of a run. What it gives is called after each epoch, and shows the time left from then on."""
    started = time.monotonic()
    before: int | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{name}: epoch 1 of {epochs}", total=epochs)

        def update(done: int, metrics: Metrics) -> None:
            nonlocal before
            before = done - 1 if before is None else before  # Epochs of an earlier process.
            left = (epochs - done) * (time.monotonic() - started) / (done - before)
            text = f"epoch {done} of {epochs}: error {metrics['error']:.2f} %, {timedelta(seconds=round(left))} left"
            progress.update(task, completed=done, description=text)

        yield update


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

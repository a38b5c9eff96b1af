"""What commands show in the terminal while runs are trained, and when they are done."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.commands.options import Grid
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.records import Record


def progress_bar(console: Console) -> Progress:
    """A bar with the time that has passed and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    )


def run_grid_shown(
    configs: Sequence[ExperimentConfig], command: Grid, location: DataLocation, console: Console
) -> list[Record]:
    """Train every config below ``command.out``, with a bar."""
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


def show(found: Sequence[Record], page: Path, console: Console) -> None:
    """Print the tables of finished runs and write their report to ``page``."""
    from adversarial_dropout.experiments.results import summary
    from adversarial_dropout.experiments.results.page import write_report

    order = [method for preset in presets.PRESETS.values() for method in preset.methods]
    for group in summary.summarise(found, order):
        console.print(group.table)
    write_report(found, page, order)
    console.print(f"report: {page}", soft_wrap=True, markup=False)

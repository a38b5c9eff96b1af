"""The command ``adversarial-dropout``: reads arguments, calls the rest, prints."""

import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import (
    DataConfig,
    ExperimentConfig,
    Kind,
    ModelConfig,
    Scale,
    TermConfig,
    TrainingConfig,
)
from adversarial_dropout.experiments.records import Record

_REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train every method on digits with 100 labels, then print the table and write the report."""

    seeds: int = 5
    """Runs of each method, with seeds 0, 1, 2, ..."""
    scale: Scale = "quick"
    """"quick" for the real thing, "tiny" for two steps that only show that it runs."""
    out: Path = Path("runs/demo")
    """Folder of the runs and the report. What is finished there is not repeated."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time, each on one core."""

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"expected {name} to be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one network. The settings below are those of the preset and method; each can be overridden."""

    preset: tyro.conf.Positional[str] = "digits-100"
    """Experiment; `adversarial-dropout presets` lists them."""
    method: tyro.conf.Positional[str] = "vadd-qe"
    """Method of the experiment."""
    scale: Scale = "quick"
    """How much of the schedule is run; "tiny" is two steps."""
    seed: int = 0
    """Seed of initialisation, labelled split, order and noise."""
    threads: int = 1
    """CPU threads. Another number gives other rounding, and so other results."""
    out: Path = Path("runs")
    """Folder below which the run gets a folder of its own. The same command goes on with a run that was stopped."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    terms: dict[str, TermConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List experiments and their methods."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the tables of finished runs and write the HTML report."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder below which the runs are."""
    out: Path | None = None
    """The HTML file; report.html in FOLDER if not given."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 after an error of the user's, 1 after another, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without Greek letters still shows the rest.
    console = Console()
    try:
        match _parse(arguments):
            case Demo() as command:
                _demo(command, console)
            case Train() as command:
                _train(command, console)
            case Presets():
                _presets(console)
            case Report() as command:
                _report(command, console)
    except AdversarialDropoutError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished epoch of each run", file=sys.stderr)
        sys.exit(130)


def _parse(arguments: list[str]) -> Demo | Train | Presets | Report:
    train = _train_defaults(arguments[1:]) if arguments[:1] == ["train"] else Train()
    return tyro.cli(
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Presets, tyro.conf.subcommand("presets")]
        | Annotated[Report, tyro.conf.subcommand("report")],
        args=arguments,
        prog="adversarial-dropout",
        description="Adversarial dropout for PyTorch (Park, Park, Shin, Moon; AAAI 2018).",
        config=(tyro.conf.PositionalMetavarFromFieldName,),
    )


def _train_defaults(arguments: list[str]) -> Train:
    """The settings of the preset, method and scale that are asked for: what the options then override.

    A first reading finds these three among the options of all kinds of terms.
    """
    every = Train(terms={kind: TermConfig(kind=kind) for kind in get_args(Kind)})
    read = [argument for argument in arguments if argument not in ("-h", "--help")]
    asked, _ = tyro.cli(Train, default=every, args=read, return_unknown_args=True)
    config = presets.get(asked.preset, asked.method, asked.scale)
    return dataclasses.replace(
        every,
        preset=asked.preset,
        method=asked.method,
        scale=asked.scale,
        data=config.data,
        model=config.model,
        training=config.training,
        terms={term.kind: term for term in config.terms},
    )


def _demo(command: Demo, console: Console) -> None:
    from adversarial_dropout.experiments.training.grid import run_grid

    methods = presets.find("digits-100").methods
    seeds = range(command.seeds)
    configs = [presets.get("digits-100", method, command.scale, seed) for seed in seeds for method in methods]
    with _progress(console) as progress:
        task = progress.add_task(f"0 of {len(configs)} runs", total=1.0)
        found = run_grid(
            configs,
            command.out,
            jobs=command.jobs,
            progress=lambda share, done: progress.update(
                task, completed=share, description=f"{done} of {len(configs)} runs"
            ),
        )
    _show(found, command.out / _REPORT, console)


def _train(command: Train, console: Console) -> None:
    from adversarial_dropout.experiments.training import loop

    config = ExperimentConfig(
        preset=command.preset,
        method=command.method,
        scale=command.scale,
        seed=command.seed,
        threads=command.threads,
        data=command.data,
        model=command.model,
        training=command.training,
        terms=tuple(command.terms.values()),
    )
    folder = records.run_folder(command.out, config)
    with _progress(console) as progress:
        task = progress.add_task(f"{config.preset} {config.method}", total=config.training.epochs)
        record = loop.run(
            config,
            folder,
            lambda epochs, row: progress.update(
                task, completed=epochs, description=f"epoch {epochs}: error {row['error']:.2f} %"
            ),
        )
    part = record.final["evaluated_on"]
    console.print(f"{part} error {record.error:.2f} % after {config.training.epochs} epochs, {record.seconds:.1f} s")
    console.print(f"record: {folder}", soft_wrap=True, markup=False)


def _presets(console: Console) -> None:
    table = Table("preset", "methods", "scales", "what it is")
    for preset in presets.PRESETS.values():
        table.add_row(preset.name, ", ".join(preset.methods), ", ".join(preset.scales), preset.summary)
    console.print(table)


def _report(command: Report, console: Console) -> None:
    _show(records.find_records(command.folder), command.out or command.folder / _REPORT, console)


def _show(found: Sequence[Record], page: Path, console: Console) -> None:
    from adversarial_dropout.experiments.analysis import tables
    from adversarial_dropout.experiments.report.html import write_report

    order = [method for preset in presets.PRESETS.values() for method in preset.methods]
    for group in tables.summarise(found, order):
        console.print(tables.as_terminal(group))
    write_report(found, page, order)
    console.print(f"report: {page}", soft_wrap=True, markup=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    )


if __name__ == "__main__":
    main()

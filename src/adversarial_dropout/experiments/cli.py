"""The command ``adversarial-dropout``: reads arguments, calls the rest, prints."""

import contextlib
import dataclasses
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError, check_choice
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.arguments import (
    Demo,
    Evaluate,
    Export,
    Predict,
    Presets,
    Report,
    Reproduce,
    Train,
    parse,
)
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import Place
from adversarial_dropout.experiments.presets import paper
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.trained import Trained

if TYPE_CHECKING:
    from adversarial_dropout.experiments.analysis.paper_tables import PaperTable

_REPORT = "report.html"
_SEEDS = {"tiny": 1, "quick": 3, "paper": 8}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 after an error of the user's, 1 after another, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without Greek letters still shows the rest.
    console = Console()
    warnings.showwarning = _show_warning
    try:
        match parse(arguments):
            case Demo() as command:
                _demo(command, console)
            case Train() as command:
                _train(command, console)
            case Reproduce() as command:
                _reproduce(command, console)
            case Evaluate() as command:
                _evaluate(command, console)
            case Predict() as command:
                _predict(command)
            case Export() as command:
                _export(command, console)
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


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _demo(command: Demo, console: Console) -> None:
    methods = presets.find("digits-100").methods
    seeds = range(command.seeds)
    configs = [presets.get("digits-100", method, command.scale, seed) for seed in seeds for method in methods]
    found = _run_grid(configs, command.out, command.jobs, Place(), console)
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
    if config.data.name == presets.OWN_IMAGES:
        raise InvalidValueError("expected images to train on: give --data FOLDER, or --data.name with a hub id")
    folder = records.run_folder(command.out, config)
    before = records.is_finished(folder)
    with _progress(console) as progress:
        task = progress.add_task(f"{config.preset} {config.method}", total=config.training.epochs)
        record = loop.run(
            config,
            folder,
            lambda epochs, row: progress.update(
                task, completed=epochs, description=f"epoch {epochs}: error {row['error']:.2f} %"
            ),
            Place(command.folder, command.skip_bad_images),
        )
    part = record.final["evaluated_on"]
    examples = f" of {record.final['examples']} images" if "examples" in record.final else ""
    console.print(
        f"{part} error {record.error:.2f} %{examples} after {config.training.epochs} epochs, {record.seconds:.1f} s"
        f"{' (trained before)' if before else ''}"
    )
    console.print(f"record: {folder}", soft_wrap=True, markup=False)


def _reproduce(command: Reproduce, console: Console) -> None:
    from adversarial_dropout.experiments.analysis import paper_tables

    columns = tuple(cell.preset for cell in paper_tables.columns(command.table, command.family))
    for name in command.presets:
        check_choice("presets", name, columns)
    for name in command.methods:
        check_choice("methods", name, paper.METHODS)
    seeds = range(command.seeds or _SEEDS[command.scale])
    configs = [
        presets.get(preset, method, command.scale, seed)
        for seed in seeds
        for preset in command.presets or columns
        for method in command.methods
    ]
    try:
        _run_grid(configs, command.out, command.jobs, Place(command.folder), console)
    except BaseException:  # Also after Ctrl-C or a failed cell, what is finished is shown.
        with contextlib.suppress(AdversarialDropoutError):  # It must not hide what stopped the grid.
            _show_paper_table(command, columns, console)
        raise
    _show_paper_table(command, columns, console)


def _show_paper_table(command: Reproduce, columns: Sequence[str], console: Console) -> None:
    """What is finished below ``--out``, by this command or another."""
    from adversarial_dropout.experiments.analysis import paper_tables

    found = [
        records.read_record(path.parent)
        for preset in columns
        for path in sorted((command.out / preset / command.scale).glob(f"*/*/{records.FINAL}"))
    ]
    trained = {(record.config.preset, record.config.method) for record in found}
    methods = {*command.methods, *(method for _, method in trained)}
    shown = {*command.presets, *(preset for preset, _ in trained)} if command.presets else set(columns)
    if found:
        table = paper_tables.paper_table(
            command.table,
            found,
            command.scale,
            family=command.family,
            methods=[method for method in paper.METHODS if method in methods],
            shown=tuple(shown),
        )
        _write_paper_table(table, command.out, console)


def _write_paper_table(table: "PaperTable", folder: Path, console: Console) -> None:
    from adversarial_dropout.experiments.analysis import paper_tables
    from adversarial_dropout.experiments.report.html import write_paper_table

    for part in paper_tables.as_terminal(table):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    family = "" if table.columns[0].family == "paper" else f"-{table.columns[0].family}"
    beside = folder / f"{table.name}{family}-{table.scale}"
    records.write_bytes(beside.with_suffix(".md"), (paper_tables.as_markdown(table) + "\n").encode())
    records.write_bytes(beside.with_suffix(".csv"), paper_tables.as_csv(table).encode())
    write_paper_table(table, beside.with_suffix(".html"))
    console.print(f"table: {beside}.md, .csv, .html", soft_wrap=True, markup=False)


def _evaluate(command: Evaluate, console: Console) -> None:
    from adversarial_dropout.experiments.analysis import evaluation

    trained = Trained.of(command.run)
    place = None if command.folder is None else Place(command.folder, command.skip_bad_images)
    found = evaluation.evaluate(trained, place)
    console.print(f"error {found.error:.2f} % of {found.examples} images")
    table = Table("class", "error in %", "n")
    for name, (error, examples) in found.classes.items():
        table.add_row(escape(name), f"{error:.2f}", str(examples))
    console.print(table)
    if command.out is not None:
        records.write_json(command.out, dataclasses.asdict(found))


def _predict(command: Predict) -> None:
    from adversarial_dropout.experiments.analysis import evaluation

    trained = Trained.of(command.run)
    found, bad = evaluation.predict(trained, command.images, resize=command.resize)
    text = evaluation.as_csv(found) if command.format == "csv" else evaluation.as_json(found)
    if command.out is None:
        print(text, end="")
    else:
        records.write_bytes(command.out, text.encode())
    if bad:
        raise InvalidValueError(f"{len(bad)} of {len(found) + len(bad)} images are left out:\n" + "\n".join(bad))


def _export(command: Export, console: Console) -> None:
    from adversarial_dropout.experiments import export

    folder = command.out or command.run / "export"
    for path in export.export(Trained.of(command.run), folder, onnx=command.onnx):
        console.print(f"wrote {path}", soft_wrap=True, markup=False)


def _presets(console: Console) -> None:
    table = Table(Column("preset", no_wrap=True), "methods", "scales", "what it is")
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


def _run_grid(
    configs: Sequence[ExperimentConfig], out: Path, jobs: int, place: Place, console: Console
) -> list[Record]:
    from adversarial_dropout.experiments.training.grid import run_grid

    with _progress(console) as progress:
        task = progress.add_task(f"0 of {len(configs)} runs", total=1.0)
        return run_grid(
            configs,
            out,
            jobs=jobs,
            progress=lambda share, done: progress.update(
                task, completed=share, description=f"{done} of {len(configs)} runs"
            ),
            place=place,
        )


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

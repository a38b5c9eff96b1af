"""The command that trains what a table of the paper shows, and sets the errors beside its own."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from adversarial_dropout.errors import AdversarialDropoutError, check_choice
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.arguments import Reproduce
from adversarial_dropout.experiments.commands.terminal import run_grid_shown
from adversarial_dropout.experiments.data.sources import Place
from adversarial_dropout.experiments.presets import paper

if TYPE_CHECKING:
    from adversarial_dropout.experiments.analysis.paper_tables import PaperTable

_SEEDS = {"tiny": 1, "quick": 3, "paper": 8}


def reproduce(command: Reproduce, console: Console) -> None:
    """Train the cells of a table; show what is finished, whatever happens."""
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
        run_grid_shown(configs, command.out, command.jobs, Place(command.folder), console)
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
    from adversarial_dropout.experiments.report.runs import write_paper_table

    for part in paper_tables.as_terminal(table):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    family = "" if table.columns[0].family == "paper" else f"-{table.columns[0].family}"
    beside = folder / f"{table.name}{family}-{table.scale}"
    records.write_bytes(beside.with_suffix(".md"), (paper_tables.as_markdown(table) + "\n").encode())
    records.write_bytes(beside.with_suffix(".csv"), paper_tables.as_csv(table).encode())
    write_paper_table(table, beside.with_suffix(".html"))
    console.print(f"table: {beside}.md, .csv, .html", soft_wrap=True, markup=False)

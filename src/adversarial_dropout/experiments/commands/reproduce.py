"""``reproduce``: what a table or a figure of the paper shows."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from rich.console import Console

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError, check_choice
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.commands.options import DataFolder, Grid, check_positive
from adversarial_dropout.experiments.commands.terminal import run_grid_shown
from adversarial_dropout.experiments.config import ExperimentConfig, Scale
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.presets import autoencoder, paper
from adversarial_dropout.experiments.presets.stated import STATED

if TYPE_CHECKING:
    from adversarial_dropout.experiments.results.paper_tables import PaperTable


_TABLE_SEEDS = {"tiny": 1, "quick": 3}  # At scale "paper" as many as in the paper.
_FIGURE_IMAGES = 1000
_FIGURE_SEEDS = {"tiny": 1, "paper": 5}


@dataclass(frozen=True, kw_only=True)
class Reproduce(Grid):
    """Train what a table or a figure of the paper shows, and set the results beside its own."""

    result: tyro.conf.Positional[Literal["table1", "table2", "table6", "table7", "figure2", "figure3"]]
    """table1: MNIST. table2: SVHN and CIFAR-10. table6: CIFAR-10 with all labels, table7: with 4,000, both beside more
    that others published. figure2: what the units of autoencoders see. figure3: how strongly they are activated."""
    scale: Scale | None = None
    """"paper": the full schedule. "quick": what a small machine finishes. "tiny": two steps. If not given, "quick" for
    a table and "paper" for a figure."""
    methods: tuple[str, ...] | None = None
    """Methods to train in each column of a table; if not given, those for which the paper has a figure there."""
    presets: tuple[str, ...] = ()
    """Columns of a table, by the name of their presets; all of them if none is given."""
    family: Literal["paper", "authors"] = "paper"
    """"paper": as the paper states it. "authors": as the authors' released code runs it."""
    seeds: int | None = None
    """Runs of each cell, with seeds 0, 1, 2, ...; if not given, at scale "paper" as many as in the paper for a table (8
    for table1, 5 for the others) and 5 for a figure; at "quick" 3, at "tiny" 1."""
    images: int | None = None
    """Test images that the units of a figure's autoencoders are shown; 1,000 if not given."""
    folder: DataFolder = None
    """Folder with the data in parquet files, or with folders mnist, svhn, cifar10 of them; else from the hub."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ():
            raise InvalidValueError(f"expected methods, one at least of {', '.join(paper.METHODS)}, got none")
        check_positive(self, "seeds", "images")
        if self.images is not None and not self.is_figure:
            raise InvalidValueError(f"expected --images with a figure alone, got {self.result}; leave it out")
        if self.is_figure:
            for_tables = {"methods": None, "presets": (), "family": "paper"}
            given = [f"--{name}" for name, usual in for_tables.items() if getattr(self, name) != usual]
            if given:
                raise InvalidValueError(
                    f"expected {' and '.join(given)} with a table alone, got {self.result}, which compares three "
                    f"autoencoders; leave it out"
                )

    @property
    def is_figure(self) -> bool:
        """Whether a figure is asked for; otherwise it is a table."""
        return self.result.startswith("figure")

    def run(self, console: Console) -> None:
        """Train what a table or figure shows, and show it."""
        if self.is_figure:
            _reproduce_figure(self, console)
        else:
            _reproduce_table(self, self.scale or "quick", console)


def _reproduce_figure(command: Reproduce, console: Console) -> None:
    from adversarial_dropout.experiments.data import sources
    from adversarial_dropout.experiments.studies.autoencoders.comparison import METHODS, compare
    from adversarial_dropout.experiments.studies.autoencoders.features import check_images
    from adversarial_dropout.experiments.studies.autoencoders.page import write_figure

    scale = command.scale or "paper"
    configs = [
        presets.get(autoencoder.NAME, method, scale, seed)
        for seed in range(command.seeds or _FIGURE_SEEDS.get(scale, 1))
        for method in METHODS
    ]
    _refuse_other_settings(command.out, configs)
    location = DataLocation(command.folder)
    images = command.images or _FIGURE_IMAGES
    check_images(images, len(sources.load(configs[0].data, location).test))  # Before anything is trained.
    found = run_grid_shown(configs, command, location, console)
    comparison, shown = compare(found, images, None if command.folder is None else location)
    console.print(comparison.numbers.without_last, comparison.claims)
    means_nothing = "Scale tiny: two steps that show that everything runs. What is seen means nothing."
    note = f"{means_nothing}\n\n" if scale == "tiny" else ""
    console.print(note, end="")
    beside = command.out / f"{command.result}-{scale}"
    shown_tables = f"{comparison.numbers.markdown()}\n\n{comparison.claims.markdown()}"
    records.write_bytes(beside.with_suffix(".md"), f"{note}{shown_tables}\n".encode())
    records.write_bytes(beside.with_suffix(".csv"), comparison.by_seed.csv().encode())
    write_figure(command.result, comparison, shown, found, beside)
    console.print(f"figure: {beside}.svg, .html, .md, .csv", soft_wrap=True, markup=False)


def _reproduce_table(command: Reproduce, scale: Scale, console: Console) -> None:
    from adversarial_dropout.experiments.results import paper_tables

    cells = paper_tables.columns(command.result, command.family)
    columns = tuple(cell.preset for cell in cells)
    for name in command.presets:
        check_choice("presets", name, columns)
    for name in command.methods or ():
        check_choice("methods", name, paper.METHODS)
    seeds = command.seeds or _TABLE_SEEDS.get(scale, STATED[cells[0].source].repeats)
    configs = [
        presets.get(preset, method, scale, seed)
        for seed in range(seeds)
        for preset, method in _cells(command)
        if preset in (command.presets or columns)
    ]
    _refuse_other_settings(command.out, configs, columns)
    try:
        run_grid_shown(configs, command, DataLocation(command.folder), console)
    except BaseException:  # Also after Ctrl-C or a failed cell, what is finished is shown.
        with contextlib.suppress(AdversarialDropoutError):  # It must not hide what stopped the grid.
            _show_paper_table(command, scale, columns, console)
        raise
    _show_paper_table(command, scale, columns, console)


def _cells(command: Reproduce) -> list[tuple[str, str]]:
    """Preset and method of what is trained: each method that is asked for, or what the paper has a figure for."""
    from adversarial_dropout.experiments.results import paper_tables

    if command.methods is None:
        return [(cell.preset, method) for cell, method in paper_tables.trained(command.result, command.family)]
    cells = paper_tables.columns(command.result, command.family)
    return [(cell.preset, method) for cell in cells for method in command.methods]


def _refuse_other_settings(out: Path, configs: Sequence[ExperimentConfig], shown: Sequence[str] = ()) -> None:
    """Check, before anything is trained, that what is begun below ``out`` is what is asked for, and that the finished
    runs of the presets ``shown`` are what their presets say.
    """
    from adversarial_dropout.experiments.results.settings import check_settings

    asked = {records.run_folder(out, config): config for config in configs}
    folders = {out / preset / configs[0].scale for preset in (*shown, *(config.preset for config in configs))}

    def counts(folder: Path, config: dict[str, Any]) -> bool:
        on_test = not config.get("data", {}).get("validation")  # Errors on held-out images are in no table.
        return folder in asked or (bool(shown) and on_test and records.is_finished(folder))

    check_settings([found for folder in sorted(folders) for found in _begun(folder) if counts(*found)], asked)


def _begun(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and config of each run in ``folder`` that has something to keep."""
    from adversarial_dropout.experiments.run import checkpoint

    for path in sorted(folder.glob(f"*/*/{records.CONFIG}")):
        if records.is_finished(path.parent) or checkpoint.exists(path.parent):
            with contextlib.suppress(records.RecordError):  # The grid says so for its cell, and goes on with others.
                yield path.parent, records.read_json(path)


def _show_paper_table(command: Reproduce, scale: Scale, columns: Sequence[str], console: Console) -> None:
    """What is finished below ``--out``, by this command or another."""
    from adversarial_dropout.experiments.results import paper_tables

    found = [
        records.read_record(path.parent)
        for preset in columns
        for path in sorted((command.out / preset / scale).glob(f"*/*/{records.FINAL}"))
    ]
    shown = {*command.presets, *(record.config.preset for record in found)} if command.presets else set(columns)
    if found:
        table = paper_tables.paper_table(
            command.result,
            found,
            scale,
            family=command.family,
            methods=command.methods or (),
            shown=tuple(shown),
        )
        _write_paper_table(table, command.out, console)


def _write_paper_table(table: "PaperTable", folder: Path, console: Console) -> None:
    from adversarial_dropout.experiments.results.page import write_paper_table

    console.print(table.table.title, highlight=False)
    for column in table.by_column:
        console.print(column)
    family = "" if table.columns[0].family == "paper" else f"-{table.columns[0].family}"
    beside = folder / f"{table.name}{family}-{table.scale}"
    records.write_bytes(beside.with_suffix(".md"), (table.table.markdown() + "\n").encode())
    records.write_bytes(beside.with_suffix(".csv"), table.figures.csv().encode())
    write_paper_table(table, beside.with_suffix(".html"))
    console.print(f"table: {beside}.md, .csv, .html", soft_wrap=True, markup=False)

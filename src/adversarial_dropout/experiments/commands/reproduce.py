"""``reproduce``: a table or a figure of the paper."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro
from rich.console import Console

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError, check_at_least, check_choice
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.commands.begun import refuse_other_settings
from adversarial_dropout.experiments.commands.options import DataFolder, Grid
from adversarial_dropout.experiments.commands.terminal import run_grid_shown
from adversarial_dropout.experiments.config import Scale
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.presets import autoencoder, paper
from adversarial_dropout.experiments.presets.stated import STATED

_TABLE_SEEDS = {"tiny": 1, "quick": 3}  # At scale "paper" as many as in the paper.
_FIGURE_IMAGES = 1000
_FIGURE_SEEDS = {"tiny": 1, "paper": 5}


@dataclass(frozen=True, kw_only=True)
class Reproduce(Grid):
    """Train what a table or a figure of the paper shows, and compare the results with the paper's."""

    result: tyro.conf.Positional[Literal["table1", "table2", "table6", "table7", "figure2", "figure3"]]
    """table1: MNIST. table2: SVHN and CIFAR-10. table6: CIFAR-10 with all labels, table7: with 4,000, both with more
    published results. figure2: what the units of autoencoders see. figure3: how strongly they are activated."""
    scale: Scale | None = None
    """"paper": the full schedule. "quick": what a small machine finishes. "tiny": two steps. If not given, "quick" for
    a table and "paper" for a figure."""
    methods: tuple[str, ...] | None = None
    """Methods to train in each column of a table; if not given, those for which the paper has an error there."""
    presets: tuple[str, ...] = ()
    """Columns of a table, by the names of their presets; all columns if none is given."""
    family: Literal["paper", "authors"] = "paper"
    """"paper": as the paper states it. "authors": as the authors' released code runs it."""
    seeds: int | None = None
    """Runs of each cell, with seeds 0, 1, 2, ...; if not given, at scale "paper" as many as in the paper for a table (8
    for table1, 5 for the others) and 5 for a figure; at "quick" 3, at "tiny" 1."""
    images: int | None = None
    """Test images to show to the autoencoders of a figure; 1,000 if not given."""
    folder: DataFolder = None
    """Folder with the data in parquet files, or in folders mnist, svhn, cifar10 of them; without it they come from the
    hub."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seeds", "images"):
            if (value := getattr(self, name)) is not None:
                check_at_least(name, value, 1)
        if self.methods == ():
            raise InvalidValueError(f"expected methods, at least one of {', '.join(paper.METHODS)}, got none")
        if self.is_figure:
            for_tables = {"methods": None, "presets": (), "family": "paper"}
            given = [f"--{name}" for name, usual in for_tables.items() if getattr(self, name) != usual]
            if given:
                raise InvalidValueError(
                    f"expected {' and '.join(given)} only with a table, got {self.result}, which compares three "
                    f"autoencoders; leave it out"
                )
        elif self.images is not None:
            raise InvalidValueError(f"expected --images only with a figure, got {self.result}; leave it out")

    @property
    def is_figure(self) -> bool:
        """Whether a figure is asked for; otherwise it is a table."""
        return self.result.startswith("figure")

    def run(self, console: Console) -> None:
        if self.is_figure:
            _reproduce_figure(self, self.scale or "paper", console)
        else:
            _reproduce_table(self, self.scale or "quick", console)


def _reproduce_figure(command: Reproduce, scale: Scale, console: Console) -> None:
    from adversarial_dropout.experiments.data import sources
    from adversarial_dropout.experiments.studies.autoencoders.comparison import METHODS, compare
    from adversarial_dropout.experiments.studies.autoencoders.features import check_images
    from adversarial_dropout.experiments.studies.autoencoders.page import write_figure

    configs = [
        presets.get(autoencoder.NAME, method, scale, seed)
        for seed in range(command.seeds or _FIGURE_SEEDS.get(scale, 1))
        for method in METHODS
    ]
    refuse_other_settings(command.out, configs)
    location = DataLocation(command.folder)
    images = command.images or _FIGURE_IMAGES
    check_images(images, len(sources.load(configs[0].data, location).test))  # Before anything is trained.
    runs = run_grid_shown(configs, command, location, console)
    comparison, shown = compare(runs, images, None if command.folder is None else location)
    console.print(comparison.numbers.without_last, comparison.claims)
    note = "Scale tiny: two steps, which show that everything runs. The pictures mean nothing.\n\n"
    note = note if scale == "tiny" else ""
    console.print(note, end="")
    beside = command.out / f"{command.result}-{scale}"
    tables = f"{comparison.numbers.markdown()}\n\n{comparison.claims.markdown()}"
    records.write_bytes(beside.with_suffix(".md"), f"{note}{tables}\n".encode())
    records.write_bytes(beside.with_suffix(".csv"), comparison.by_seed.csv().encode())
    write_figure(command.result, comparison, shown, runs, beside)
    console.print(f"figure: {beside}.svg, .html, .md, .csv", soft_wrap=True, markup=False)


def _reproduce_table(command: Reproduce, scale: Scale, console: Console) -> None:
    from adversarial_dropout.experiments.results import paper_tables

    columns = paper_tables.columns(command.result, command.family)
    names = tuple(column.preset for column in columns)
    for name in command.presets:
        check_choice("presets", name, names)
    for name in command.methods or ():
        check_choice("methods", name, paper.METHODS)
    if command.methods is None:
        cells = [(cell.preset, method) for cell, method in paper_tables.trained(command.result, command.family)]
    else:
        cells = [(name, method) for name in names for method in command.methods]
    configs = [
        presets.get(preset, method, scale, seed)
        for seed in range(command.seeds or _TABLE_SEEDS.get(scale, STATED[columns[0].source].repeats))
        for preset, method in cells
        if preset in (command.presets or names)
    ]
    refuse_other_settings(command.out, configs, names)
    try:
        run_grid_shown(configs, command, DataLocation(command.folder), console)
    except BaseException:  # What is finished is shown also after Ctrl-C or a failed cell.
        with contextlib.suppress(AdversarialDropoutError):  # It must not hide what stopped the grid.
            _show_paper_table(command, scale, names, console)
        raise
    _show_paper_table(command, scale, names, console)


def _show_paper_table(command: Reproduce, scale: Scale, names: Sequence[str], console: Console) -> None:
    """Print and write the table of all finished runs below ``--out``, also of those that another command trained."""
    from adversarial_dropout.experiments.results import paper_tables
    from adversarial_dropout.experiments.results.page import write_paper_table

    runs = [
        records.read_record(path.parent)
        for preset in names
        for path in sorted((command.out / preset / scale).glob(f"*/*/{records.FINAL}"))
    ]
    if not runs:
        return
    table = paper_tables.paper_table(
        command.result,
        runs,
        scale,
        family=command.family,
        methods=command.methods or (),
        shown=(*command.presets, *(run.config.preset for run in runs)) if command.presets else (),
    )
    console.print(table.table.title, highlight=False)
    for column in table.by_column:
        console.print(column)
    family = "" if command.family == "paper" else f"-{command.family}"
    beside = command.out / f"{command.result}{family}-{scale}"
    records.write_bytes(beside.with_suffix(".md"), (table.table.markdown() + "\n").encode())
    records.write_bytes(beside.with_suffix(".csv"), table.figures.csv().encode())
    write_paper_table(table, beside.with_suffix(".html"))
    console.print(f"table: {beside}.md, .csv, .html", soft_wrap=True, markup=False)

"""The paper's tables with our errors beside its own, from records only."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.analysis.published import LITERATURE, PAPER, Published, Quoted
from adversarial_dropout.experiments.analysis.tables import markdown
from adversarial_dropout.experiments.config import Scale, differences
from adversarial_dropout.experiments.presets.paper import CELLS, METHODS, TITLES, Cell, Source
from adversarial_dropout.experiments.records import Record

TABLES: dict[str, tuple[Source, ...]] = {
    "table1": ("mnist",),
    "table2": ("svhn", "cifar10"),
    "table6": ("svhn",),
    "table7": ("cifar10",),
}
"""Data sets of each table. Table 2 has SVHN and CIFAR-10 beside methods with the same network, Tables 6 and 7 have one
of them each beside others as well."""


def columns(table: str, family: str = "paper") -> tuple[Cell, ...]:
    """The columns of a table: data sets with few and with all labels.

    Raises:
        InvalidValueError: there is no such table, or the family has no such data set.
    """
    check_choice("table", table, tuple(TABLES))
    found = tuple(cell for cell in CELLS if cell.family == family and cell.source in TABLES[table])
    if not found:
        raise InvalidValueError(f"expected a family that has {table}, got {family!r}; the authors' code has no MNIST")
    return found


@dataclass(frozen=True)
class Entry:
    """One method in one column.

    Attributes:
        errors: Ours in percent, one per seed; empty where nothing has been run.
        paper: The paper's.
    """

    errors: tuple[float, ...]
    paper: Published | None

    @property
    def ours(self) -> Published | None:
        """Mean and standard deviation (n - 1) of our errors."""
        if not self.errors:
            return None
        return Published(statistics.fmean(self.errors), statistics.stdev(self.errors) if len(self.errors) > 1 else None)

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """Ours, n, the paper's, the difference of the means."""
        ours, paper = self.ours, self.paper
        if ours is None:
            return ("", "", str(paper or ""), "")
        apart = "" if paper is None else f"{ours.mean - paper.mean:+.2f}"
        return (str(ours), str(len(self.errors)), str(paper or ""), apart)


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        name: "table1", ...
        scale: Of our runs.
        columns: What is trained on.
        rows: Entries by method, one per column.
        literature: Rows from other papers, by data set.
        steps: Training steps of our runs in each column, as text.
    """

    name: str
    scale: Scale
    columns: tuple[Cell, ...]
    rows: dict[str, tuple[Entry, ...]]
    literature: dict[Source, tuple[Quoted, ...]]
    steps: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it shows, in a line."""
        full = "the full schedule" if self.scale == "paper" else f"scale {self.scale}, NOT the paper's schedule"
        return f"Table {self.name[5:]}, {full}: test error in %, mean ± std over n seeds, last epoch"

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns of text."""
        names = ["method"]
        for cell, steps in zip(self.columns, self.steps, strict=True):
            what = f"{TITLES[cell.source]}, {cell.labels:,} labels"
            if cell.family == "authors":
                what += ", authors' code"
            names += [f"{what}: ours{steps}", "n", "paper", "difference"]
        return tuple(names)

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """The rows as text."""
        return [(method, *(text for entry in entries for text in entry.texts)) for method, entries in self.rows.items()]

    @property
    def quoted(self) -> list[tuple[str, ...]]:
        """The rows from other papers as text: method, source, data set, few labels, all labels."""
        return [
            (row.name, row.citation, TITLES[source], str(row.few or ""), str(row.all or ""))
            for source, rows in self.literature.items()
            for row in rows
        ]


_PER_COLUMN = 4  # Ours, n, the paper's, the difference.
QUOTED_HEADER = ("published method", "in", "data", "few labels", "all labels")


def paper_table(
    name: str,
    found: Iterable[Record],
    scale: Scale,
    *,
    family: str = "paper",
    methods: Sequence[str] = METHODS,
    shown: Sequence[str] = (),
) -> PaperTable:
    """Put finished runs into a table of the paper. Runs of other experiments, scales and methods are left out.

    Raises:
        InvalidValueError: a record's settings are not those of its preset; the difference is shown.
    """
    cells = tuple(cell for cell in columns(name, family) if not shown or cell.preset in shown)
    runs: dict[tuple[str, str], dict[int, Record]] = {}
    for record in found:
        config = record.config
        own = config.scale == scale and config.method in methods and config.preset in {c.preset for c in cells}
        if own and record.final["evaluated_on"] == "test":
            _check_settings(record)
            runs.setdefault((config.preset, config.method), {})[config.seed] = record
    for cell in cells:
        _check_data([record for (preset, _), own in runs.items() if preset == cell.preset for record in own.values()])
    rows = {}
    for method in methods:
        rows[method] = tuple(
            Entry(
                tuple(record.error for _, record in sorted(runs.get((cell.preset, method), {}).items())),
                PAPER[cell.source, cell.all_labels].get(method),
            )
            for cell in cells
        )
    only_same = name == "table2"
    literature = {
        source: tuple(row for row in LITERATURE[source] if row.same_network or not only_same)
        for source in dict.fromkeys(cell.source for cell in cells)
    }
    return PaperTable(name, scale, cells, rows, literature, tuple(_steps(cell, scale) for cell in cells))


def _check_data(column: Sequence[Record]) -> None:
    digests = {record.final.get("data", {}).get("sha256"): record.folder for record in column}
    if len(digests) > 1:
        raise InvalidValueError(
            f"expected runs on the same data, got other images or labels in "
            f"{' than in '.join(map(str, digests.values()))}; "
            f"take one of them away, or give another --out"
        )


def _check_settings(record: Record) -> None:
    config = record.config
    changed = differences(
        presets.get(config.preset, config.method, config.scale, config.seed).to_dict(), config.to_dict()
    )
    if changed:
        raise InvalidValueError(
            f"{record.folder} does not have the settings of its preset (preset → record): {'; '.join(changed)}. Take "
            f"it away, or give another --out"
        )


def _steps(cell: Cell, scale: Scale) -> str:
    training = presets.get(cell.preset, "plain", scale).training
    if scale == "paper" or training.steps_per_epoch is None:
        return ""
    return f" after {training.epochs * training.steps_per_epoch:,} steps"


def as_terminal(table: PaperTable) -> list[str | Table]:
    """The table for the terminal: ours, one below the other for each column, then the rows from other papers."""
    parts: list[str | Table] = [table.title]
    for place, name in enumerate(table.header[1::_PER_COLUMN]):
        ours = Table()
        for text in ("method", "ours", *table.header[2 : 1 + _PER_COLUMN]):
            ours.add_column(text, no_wrap=True, justify="left" if text == "method" else "right")
        for line in table.lines:
            ours.add_row(line[0], *line[1 + _PER_COLUMN * place : 1 + _PER_COLUMN * (place + 1)])
        parts += [name, ours]
    others = Table(*QUOTED_HEADER)
    for line in table.quoted:
        others.add_row(*line)
    return [*parts, "As published by others, same protocol", others]


def as_markdown(table: PaperTable) -> str:
    """The table as Markdown."""
    return f"{markdown(table.header, table.lines)}\n\n{markdown(QUOTED_HEADER, table.quoted)}"


def as_csv(table: PaperTable) -> str:
    """The table as CSV: one line per method and column, numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("table", "scale", "data", "labels", "method", "mean", "std", "n", "paper_mean", "paper_std", "source")
    )
    for method, entries in table.rows.items():
        for cell, entry in zip(table.columns, entries, strict=True):
            ours, paper = (value or (None, None) for value in (entry.ours, entry.paper))
            where = (table.name, table.scale, cell.source, cell.labels, method)
            writer.writerow((*where, *ours, len(entry.errors), *paper, cell.family))
    for source, rows in table.literature.items():
        for row in rows:
            for labels, value in (("few", row.few), ("all", row.all)):
                if value is not None:
                    writer.writerow((table.name, "", source, labels, row.name, "", "", "", *value, row.citation))
    return text.getvalue()

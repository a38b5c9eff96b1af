"""The paper's tables as it prints them, with our errors beside its own, from records only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import Scale
from adversarial_dropout.experiments.presets.paper import COLUMNS, METHODS, Column
from adversarial_dropout.experiments.presets.stated import STATED, TITLES
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.results.published import NAMES, PRINTED, PrintedRow, Published
from adversarial_dropout.experiments.results.settings import check_settings
from adversarial_dropout.experiments.results.summary import distinct
from adversarial_dropout.experiments.show.table import Table

DASH = "-"


def columns(table: str, family: str = "paper") -> tuple[Column, ...]:
    """The columns of a table, in the paper's order.

    Raises:
        InvalidValueError: there is no such table, or the family has no such data set.
    """
    check_choice("table", table, tuple(PRINTED))
    cells = {(cell.source, cell.all_labels): cell for cell in COLUMNS if cell.family == family}
    found = tuple(cells[column] for column in PRINTED[table].columns if column in cells)
    if not found:
        raise InvalidValueError(f"expected a family that has {table}, got {family!r}; the authors' code has no MNIST")
    return found


def trained(table: str, family: str = "paper") -> tuple[tuple[Column, str], ...]:
    """The cells that `reproduce` trains by itself: those of the paper's own rows where a figure is printed.

    Returns:
        Column and method of each, column by column.

    Raises:
        InvalidValueError: there is no such table, or the family has no such data set.
    """
    return tuple(
        (cell, row.method)
        for place, cell in enumerate(columns(table, family))
        for row in PRINTED[table].rows
        if row.method is not None and row.figures[place] is not None
    )


@dataclass(frozen=True)
class Entry:
    """One row in one column.

    Attributes:
        errors: Ours in percent, one per seed; empty where nothing has been run.
        paper: The paper's figure.
        printed: What stands in the paper: the figure, a dash, or nothing where its table has no such row.
    """

    errors: tuple[float, ...]
    paper: Published | None
    printed: str

    @property
    def ours(self) -> Published | None:
        """Mean and standard deviation (n - 1) of our errors."""
        return Published.of(self.errors) if self.errors else None

    @property
    def cells(self) -> tuple[object, ...]:
        """Ours, n, the paper's, the difference of the means."""
        ours, paper = self.ours, self.paper
        apart = None if ours is None or paper is None else f"{ours.mean - paper.mean:+.2f}"
        return ours, len(self.errors) or None, self.printed, apart


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        name: As the paper has it.
        method: What is trained for it; ``None`` for a row that the paper quotes.
        entries: One per column.
    """

    name: str
    method: str | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        name: "table1", ...
        scale: Of our runs.
        columns: What is trained on.
        body: All rows: the paper's in its order, then those that it does not have.
    """

    name: str
    scale: Scale
    columns: tuple[Column, ...]
    body: tuple[TableRow, ...]

    @property
    def table(self) -> Table:
        """As the paper has it: its columns side by side."""
        full = "the full schedule" if self.scale == "paper" else f"scale {self.scale}, NOT the paper's schedule"
        repeats = STATED[self.columns[0].source].repeats
        return Table(
            (*_WHICH, *(text for name in self._names for text in (name, *_BESIDE))),
            [(row.name, row.method, *(cell for entry in row.entries for cell in entry.cells)) for row in self.body],
            f"Table {self.name[5:]}, {full}: test error in %, mean ± std over n seeds, last epoch",
            (
                f"Paper: Park, Park, Shin, Moon, AAAI 2018; its own figures are over {repeats} runs, those without ± "
                f'are quoted there from others, and "{DASH}" is a dash there. Difference: ours minus the paper\'s, in '
                f"percentage points.",
                *PRINTED[self.name].notes,
            ),
        )

    @property
    def by_column(self) -> list[Table]:
        """The same for the terminal: a table for each of its columns, with all rows."""
        return [
            Table(
                (*_WHICH, "ours", *_BESIDE),
                [(row.name, row.method, *row.entries[place].cells) for row in self.body],
                name,
                self.table.notes if place == len(self.columns) - 1 else (),
            )
            for place, name in enumerate(self._names)
        ]

    @property
    def figures(self) -> Table:
        """The same for a program: a row for each row and column, numbers in full precision.

        ``printed`` is the paper's cell as text, ``n`` is empty where nothing is trained.
        """
        return Table(
            (
                *("table", "scale", "family", "data", "labels", "row", "method"),
                *("mean", "std", "n", "printed", "paper_mean", "paper_std"),
            ),
            [
                (
                    *(self.name, self.scale, cell.family, cell.source, cell.labels, row.name, row.method),
                    *(entry.ours or _NOTHING),
                    *(len(entry.errors) if row.method else None, entry.printed),
                    *(entry.paper or _NOTHING),
                )
                for row in self.body
                for cell, entry in zip(self.columns, row.entries, strict=True)
            ],
        )

    @property
    def _names(self) -> list[str]:
        """Names of the columns of our errors, one for each of its columns."""
        return [
            f"{TITLES[cell.source]}, {cell.labels:,} labels{_WHOSE[cell.family]}: ours{_steps(cell, self.scale)}"
            for cell in self.columns
        ]


_WHICH, _BESIDE = ("row", "method"), ("n", "paper", "difference")
_WHOSE = {"paper": "", "authors": ", authors' code"}
_NOTHING = (None, None)


def paper_table(
    name: str,
    found: Iterable[Record],
    scale: Scale,
    *,
    family: str = "paper",
    methods: Sequence[str] = (),
    shown: Sequence[str] = (),
) -> PaperTable:
    """Put finished runs into a table of the paper. Runs of other experiments and scales are left out.

    Args:
        name: "table1", ...
        found: Finished runs.
        scale: The scale to show.
        family: The family to show.
        methods: Methods that get a row even if the paper has none for them; those that were run get one anyway.
        shown: Presets of the columns to show; all if none is given.

    Raises:
        InvalidValueError: the settings of runs are not those of their presets, or runs saw different data; the message
            says which.
        RecordError: two records of one run disagree.
    """
    places = [(place, cell) for place, cell in enumerate(columns(name, family)) if not shown or cell.preset in shown]
    cells = tuple(cell for _, cell in places)
    own = [
        record
        for record in found
        if record.config.scale == scale
        and record.config.preset in {cell.preset for cell in cells}
        and record.final["evaluated_on"] == "test"
    ]
    check_settings((record.folder, record.config.to_dict()) for record in own)
    runs: dict[tuple[str, str], dict[int, Record]] = {}
    for record in distinct(own):
        runs.setdefault((record.config.preset, record.config.method), {})[record.config.seed] = record
    for cell in cells:
        _check_data(
            [record for (preset, _), seeds in runs.items() if preset == cell.preset for record in seeds.values()]
        )

    def entry(row: PrintedRow, place: int, cell: Column) -> Entry:
        seeds = runs.get((cell.preset, row.method or ""), {})
        paper = row.figures[place] if row.figures else None
        printed = str(paper or DASH) if row.figures else ""
        return Entry(tuple(record.error for _, record in sorted(seeds.items())), paper, printed)

    rows = (*PRINTED[name].rows, *_others(name, {*methods, *(method for _, method in runs)}))
    body = tuple(TableRow(row.name, row.method, tuple(entry(row, *where) for where in places)) for row in rows)
    return PaperTable(name, scale, cells, body)


def _others(name: str, methods: set[str]) -> tuple[PrintedRow, ...]:
    """Rows for methods that the paper's table does not have."""
    methods -= {row.method for row in PRINTED[name].rows if row.method is not None}
    return tuple(
        PrintedRow(f"{NAMES[method]}, not in Table {name[5:]}", method, ()) for method in METHODS if method in methods
    )


def _check_data(column: Sequence[Record]) -> None:
    digests = {record.final.get("data", {}).get("sha256"): record.folder for record in column}
    if len(digests) > 1:
        raise InvalidValueError(
            f"expected runs on the same data, got other images or labels in "
            f"{' than in '.join(map(str, digests.values()))}; "
            f"take one of them away, or give another --out"
        )


def _steps(cell: Column, scale: Scale) -> str:
    training = presets.get(cell.preset, "plain", scale).training
    if scale == "paper" or training.steps_per_epoch is None:
        return ""
    return f" after {training.epochs * training.steps_per_epoch:,} steps"

"""The paper's tables with our errors beside its own, from records only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import ExperimentConfig, Scale, differences
from adversarial_dropout.experiments.presets.paper import COLUMNS, METHODS, Column
from adversarial_dropout.experiments.presets.stated import STATED, TITLES
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.results.published import DASH, NAMES, PRINTED, MeanStd, PrintedRow
from adversarial_dropout.experiments.results.summary import distinct
from adversarial_dropout.experiments.show.table import Table

_WHICH, _BESIDE = ("row", "method"), ("n", "paper", "difference")
_NOTHING = (None, None)


def columns(table: str, family: str = "paper") -> tuple[Column, ...]:
    """The columns of a table, in the paper's order; an error if there is no such table, or none in the family."""
    check_choice("table", table, tuple(PRINTED))
    by_preset = {column.preset: column for column in COLUMNS}
    names = [f"{family}/{name}" for name in PRINTED[table].columns]
    found = tuple(by_preset[name] for name in names if name in by_preset)
    if not found:
        raise InvalidValueError(f"expected a family that has {table}, got {family!r}; the authors' code has no MNIST")
    return found


def trained(table: str, family: str = "paper") -> tuple[tuple[Column, str], ...]:
    """Column and method of each run that `reproduce` makes by default: where the paper has a figure of its own."""
    return tuple(
        (column, row.method)
        for index, column in enumerate(columns(table, family))
        for row in PRINTED[table].rows
        if row.method is not None and row.figures[index] is not None
    )


@dataclass(frozen=True)
class Entry:
    """One row in one column."""

    errors: tuple[float, ...]  # Ours in percent, one per seed; empty if nothing has been run.
    paper: MeanStd | None
    printed: str  # What the paper prints: the figure, a dash, or nothing if its table has no such row.

    @property
    def ours(self) -> MeanStd | None:
        """Mean and standard deviation (n - 1) of our errors."""
        return MeanStd.of(self.errors) if self.errors else None

    @property
    def cells(self) -> tuple[object, ...]:
        """Our error, n, the paper's error, the difference of the means."""
        ours, paper = self.ours, self.paper
        difference = None if ours is None or paper is None else f"{ours.mean - paper.mean:+.2f}"
        return ours, len(self.errors) or None, self.printed, difference


@dataclass(frozen=True)
class PaperTable:
    """One table."""

    name: str
    scale: Scale  # Of our runs.
    columns: tuple[Column, ...]
    body: dict[PrintedRow, list[Entry]]  # The paper's rows in their order, then those of methods that it lacks.

    @property
    def table(self) -> Table:
        """The table as in the paper, its columns side by side."""
        full = "the full schedule" if self.scale == "paper" else f"scale {self.scale}, NOT the paper's schedule"
        repeats = STATED[self.columns[0].source].repeats
        return Table(
            (*_WHICH, *(text for column in self.columns for text in (_title(column, self.scale), *_BESIDE))),
            [
                (row.name, row.method, *(cell for e in entries for cell in e.cells))
                for row, entries in self.body.items()
            ],
            f"Table {self.name[5:]}, {full}: test error in %, mean ± std over n seeds, last epoch",
            (
                f"Paper: Park, Park, Shin, Moon, AAAI 2018. Its own figures are over {repeats} runs; it quotes those "
                f'without ± from other papers, and prints "{DASH}" for a missing figure. Difference: ours minus the '
                f"paper's, in percentage points.",
                *PRINTED[self.name].notes,
            ),
        )

    @property
    def by_column(self) -> list[Table]:
        """The same for the terminal: one table per column, with the notes below the last one."""
        table, width = self.table, 1 + len(_BESIDE)
        starts = range(len(_WHICH), len(table.header), width)
        return [
            Table(
                (*_WHICH, "ours", *_BESIDE),
                [(*row[: len(_WHICH)], *row[start : start + width]) for row in table.rows],
                table.header[start],
                table.notes if start == starts[-1] else (),
            )
            for start in starts
        ]

    @property
    def figures(self) -> Table:
        """The same for a program: one line per row and column, with numbers in full precision.

        ``printed`` is what the paper prints, ``n`` is empty for rows that are not trained.
        """
        return Table(
            (
                *("table", "scale", "family", "data", "labels", "row", "method"),
                *("mean", "std", "n", "printed", "paper_mean", "paper_std"),
            ),
            [
                (
                    *(self.name, self.scale, column.family, column.source, column.labels, row.name, row.method),
                    *(entry.ours or _NOTHING),
                    *(len(entry.errors) if row.method else None, entry.printed),
                    *(entry.paper or _NOTHING),
                )
                for row, entries in self.body.items()
                for column, entry in zip(self.columns, entries, strict=True)
            ],
        )


def _title(column: Column, scale: Scale) -> str:
    training = presets.get(column.preset, "plain", scale).training
    steps = None if scale == "paper" else training.steps_per_epoch
    family = "" if column.family == "paper" else ", authors' code"
    schedule = "" if steps is None else f" after {training.epochs * steps:,} steps"
    return f"{TITLES[column.source]}, {column.labels:,} labels{family}: ours{schedule}"


def paper_table(
    name: str,
    records: Iterable[Record],
    scale: Scale,
    *,
    family: str = "paper",
    methods: Sequence[str] = (),
    shown: Sequence[str] = (),
) -> PaperTable:
    """Put finished runs into a table of the paper. Runs of other experiments and scales are left out.

    Methods that were run, and those in ``methods``, get a row even if the paper has none for them. ``shown`` has the
    presets of the columns to show; all of them, if it is empty.

    Raises:
        InvalidValueError: the settings of runs are not those of their presets, or runs saw different data.
        RecordError: two records of one run disagree.
    """
    chosen = [(i, column) for i, column in enumerate(columns(name, family)) if not shown or column.preset in shown]
    runs = [
        record
        for record in records
        if record.config.scale == scale
        and record.config.preset in {column.preset for _, column in chosen}
        and record.final["evaluated_on"] == "test"
    ]
    check_settings(((record.folder, record.config.to_dict()) for record in runs), {})
    runs = sorted(distinct(runs), key=lambda record: record.config.seed)
    for _, column in chosen:
        _check_data(record for record in runs if record.config.preset == column.preset)

    def entry(row: PrintedRow, index: int, column: Column) -> Entry:
        cell = (column.preset, row.method)
        errors = tuple(record.error for record in runs if (record.config.preset, record.config.method) == cell)
        paper = row.figures[index] if row.figures else None
        return Entry(errors, paper, str(paper or DASH) if row.figures else "")

    rows = PRINTED[name].rows
    added = {*methods, *(record.config.method for record in runs)} - {row.method for row in rows}
    rows += tuple(
        PrintedRow(f"{NAMES[method]}, not in Table {name[5:]}", method, ()) for method in METHODS if method in added
    )
    body = {row: [entry(row, *where) for where in chosen] for row in rows}
    return PaperTable(name, scale, tuple(column for _, column in chosen), body)


def _check_data(records: Iterable[Record]) -> None:
    digests = {record.final.get("data", {}).get("sha256"): record.folder for record in records}
    if len(digests) > 1:
        raise InvalidValueError(
            f"expected runs on the same data, got other images or labels in "
            f"{' than in '.join(map(str, digests.values()))}; take one of them away, or give another --out"
        )


def check_settings(
    runs: Iterable[tuple[Path, dict[str, Any]]],
    asked: dict[Path, ExperimentConfig],
    *,
    overridden: bool = False,
) -> None:
    """Raise unless the settings of all runs, given as folder and config, are those of their presets.

    ``asked`` holds what a folder must contain; other folders must contain the preset, method, scale and seed that the
    run names. The error lists the differences, the folders of the runs that have them, and the folders of the others;
    with ``overridden`` it does not say that the settings are those of presets.
    """
    current: list[Path] = []
    refused: dict[tuple[str, ...], list[Path]] = {}
    for folder, recorded in runs:
        changed = _changed(recorded, asked.get(folder))
        (refused.setdefault(changed, []) if changed else current).append(folder)
    if not refused:
        return
    count = sum(len(folders) for folders in refused.values())
    whose, short, left = ("of their presets", "preset", "their presets say")
    if overridden:
        whose, short, left = ("that are asked for", "asked for", "is asked for")
    lines = [
        f"expected runs with the settings {whose}, got others in {count} of {count + len(current)} folders "
        f"({short} → run)"
    ]
    common = set.intersection(*map(set, refused)) if len(refused) > 1 else set()
    if common:
        lines.append(f"In all {count}: {'; '.join(sorted(common))}")
    for changed, folders in refused.items():
        rest = "; ".join(line for line in changed if line not in common) or "nothing else"
        lines.append(_listed(f"and {rest}" if common else rest, folders))
    if current:
        lines.append(_listed(f"As {left}, and left as they are", current))
    lines.append(f"Take the {count} away, or choose another folder (--out): runs of different settings share no table")
    raise InvalidValueError("\n".join(lines))


def _changed(recorded: dict[str, Any], expected: ExperimentConfig | None) -> tuple[str, ...]:
    if expected is None:
        name, method, scale, seed = (recorded.get(field) for field in ("preset", "method", "scale", "seed"))
        try:
            expected = presets.get(str(name), str(method), scale, seed)  # type: ignore[arg-type]
        except InvalidValueError as error:
            return (str(error),)
    return tuple(differences(expected.to_dict(), recorded))


def _listed(title: str, folders: Iterable[Path]) -> str:
    """A title and a list of run folders; those that differ only in seed or method share a line with shell braces."""
    seeds: dict[Path, list[str]] = {}
    for folder in sorted(set(folders), key=lambda folder: (folder.parent, len(folder.name), folder.name)):
        seeds.setdefault(folder.parent, []).append(folder.name)
    methods: dict[tuple[Path, str], list[str]] = {}
    for folder, names in seeds.items():
        methods.setdefault((folder.parent, _braced(names)), []).append(folder.name)
    return "\n".join([f"{title}:", *(f"  {root / _braced(names) / end}" for (root, end), names in methods.items())])


def _braced(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{','.join(names)}}}"

"""The figures that the paper prints in Tables 1, 2, 6 and 7: test errors in percent, read from ``published.json``."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

DASH = "-"
"""What the paper prints where it has no figure."""


class MeanStd(NamedTuple):
    """An error in percent: mean, and standard deviation where there is one."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, errors: Sequence[float]) -> "MeanStd":
        """Mean and sample standard deviation (n - 1) of one or more errors; a single error has no deviation."""
        return cls(statistics.fmean(errors), statistics.stdev(errors) if len(errors) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


@dataclass(frozen=True)
class PrintedRow:
    """A row of a table of the paper. Its "our implementation" is called "authors' implementation" here."""

    name: str
    method: str | None  # The method of this project; None for a row that the paper quotes from another paper.
    figures: tuple[MeanStd | None, ...]  # One per column; None for a dash.


@dataclass(frozen=True)
class PrintedTable:
    """A table of the paper."""

    columns: tuple[str, ...]  # Names of presets without the family.
    rows: tuple[PrintedRow, ...]
    notes: tuple[str, ...]  # A note on a row begins with the mark at the end of the row's name.


def _figure(text: str) -> MeanStd | None:
    mean, _, std = text.partition(" ± ")
    return None if text == DASH else MeanStd(float(mean), float(std) if std else None)


PRINTED = {
    name: PrintedTable(
        columns=tuple(table["columns"]),
        rows=tuple(PrintedRow(row, method, tuple(map(_figure, figures))) for row, method, *figures in table["rows"]),
        notes=tuple(table["notes"]),
    )
    for name, table in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")).items()
}
"""The tables of Park, Park, Shin, Moon (AAAI 2018) by name."""

NAMES = {row.method: row.name for name in ("table6", "table1") for row in PRINTED[name].rows if row.method}
"""What the paper calls the methods of this project: in Table 1, and the sums with VAT in Table 6."""

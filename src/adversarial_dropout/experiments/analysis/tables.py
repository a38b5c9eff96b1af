"""Tables of errors over seeds, from records only."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from adversarial_dropout.experiments.records import Record

BASELINES = ("pi", "vat")
"""Methods without adversarial dropout that a row with it is compared with, besides plain training."""


@dataclass(frozen=True)
class Row:
    """One method over its seeds.

    Attributes:
        method: Its name.
        errors: Error in percent of each seed, last epoch.
        seconds: Mean wall time of a run.
        change: Mean error over that of plain training, minus 1; ``None`` without plain runs.
        ahead: Baselines with a lower mean error, where the method contains adversarial dropout.
    """

    method: str
    errors: tuple[float, ...]
    seconds: float
    change: float | None
    ahead: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Mean error in percent."""
        return statistics.fmean(self.errors)

    @property
    def std(self) -> float:
        """Sample standard deviation of the errors (n - 1); NaN for one seed."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else math.nan

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The row as text: method, error, n, change against plain, seconds, remark."""
        spread = "" if math.isnan(self.std) else f" ± {self.std:.2f}"
        return (
            self.method,
            f"{self.mean:.2f}{spread}",
            str(len(self.errors)),
            "" if self.change is None or self.method == "plain" else f"{100 * self.change:+.0f} %",
            f"{self.seconds:.1f}",
            f"{' and '.join(self.ahead)} ahead" if self.ahead else "",
        )


HEADER = ("method", "error in %", "n", "against plain", "seconds per run", "remark")


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: one preset, one scale, one evaluation part.

    Attributes:
        preset: Name of the preset.
        scale: Scale of its runs.
        evaluated_on: "test" or "validation".
        rows: One per method, in the order of the records.
        records: The runs behind them.
    """

    preset: str
    scale: str
    evaluated_on: str
    rows: tuple[Row, ...]
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """What the table shows, in a line."""
        return f"{self.preset}, scale {self.scale}: {self.evaluated_on} error, mean ± std over n seeds"


def summarise(records: Iterable[Record], methods: Sequence[str] = ()) -> list[Group]:
    """Group records that may be compared and summarise each method.

    Args:
        records: Finished runs.
        methods: Methods that come first, in this order; others follow by name.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = (record.config.preset, record.config.scale, record.final["evaluated_on"])
        groups.setdefault(key, []).append(record)

    def rank(method: str) -> tuple[int, str]:
        return (methods.index(method) if method in methods else len(methods), method)

    summaries = []
    for (preset, scale, part), members in sorted(groups.items(), key=lambda item: item[0]):
        names = sorted({record.config.method for record in members}, key=rank)
        by_method = {name: [record for record in members if record.config.method == name] for name in names}
        means = {name: statistics.fmean(record.error for record in runs) for name, runs in by_method.items()}
        rows = tuple(_row(name, runs, means) for name, runs in by_method.items())
        summaries.append(Group(preset, scale, part, rows, tuple(members)))
    return summaries


def _row(method: str, runs: Sequence[Record], means: dict[str, float]) -> Row:
    plain = means.get("plain")
    return Row(
        method=method,
        errors=tuple(run.error for run in runs),
        seconds=statistics.fmean(run.seconds for run in runs),
        change=means[method] / plain - 1 if plain else None,
        ahead=tuple(b for b in BASELINES if "add" in method and b in means and means[b] < means[method]),
    )


def as_terminal(group: Group) -> Table:
    """The table for the terminal."""
    table = Table(*HEADER, title=group.title, title_justify="left")
    for row in group.rows:
        table.add_row(*row.cells)
    return table


def as_markdown(group: Group) -> str:
    """The table as Markdown."""
    lines = [" | ".join(HEADER), " | ".join("---" for _ in HEADER), *(" | ".join(row.cells) for row in group.rows)]
    return "\n".join(f"| {line} |" for line in lines)

"""Tables of errors over seeds, from records only."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import differences
from adversarial_dropout.experiments.records import Record, RecordError
from adversarial_dropout.experiments.results.published import Published
from adversarial_dropout.experiments.show.table import Table

BASELINES = ("pi", "vat")
"""Methods without adversarial dropout that a row with it is compared with, besides plain training."""


@dataclass(frozen=True)
class MethodSummary:
    """One method over its seeds.

    Attributes:
        method: Its name, and its settings where they are not the usual ones.
        records: Its runs, one per seed.
        errors: Error in percent of each seed, last epoch.
        seconds: Mean wall time of a run.
        change: Mean error over that of plain training, minus 1; ``None`` without plain runs.
        ahead: Baselines with a lower mean error, where the method contains adversarial dropout.
    """

    method: str
    records: tuple[Record, ...]
    errors: tuple[float, ...]
    seconds: float
    change: float | None
    ahead: tuple[str, ...]

    @property
    def error(self) -> Published:
        """Mean and standard deviation (n - 1) of the errors."""
        return Published.of(self.errors)

    @property
    def cells(self) -> tuple[object, ...]:
        """The row in the table: method, error, n, change against plain, seconds, remark."""
        return (
            self.method,
            self.error,
            len(self.errors),
            None if self.change is None or self.method == "plain" else f"{100 * self.change:+.0f} %",
            f"{self.seconds:.1f}",
            f"{' and '.join(self.ahead)} ahead" if self.ahead else None,
        )


_ROUNDING = 1e-9
_HEADER = ("method", "error in %", "n", "against plain", "seconds per run", "remark")


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: one preset, one scale, one evaluation part.

    Attributes:
        preset: Name of the preset.
        scale: Scale of its runs.
        evaluated_on: "test" or "validation".
        rows: One per method and settings.
    """

    preset: str
    scale: str
    evaluated_on: str
    rows: tuple[MethodSummary, ...]

    @property
    def title(self) -> str:
        """What the table shows, in a line."""
        share = any(record.config.model.task == "images" for row in self.rows for record in row.records)
        what = "variance unexplained by the reconstruction" if share else "error"
        return f"{self.preset}, scale {self.scale}: {self.evaluated_on} {what}, mean ± std over n seeds"

    @property
    def table(self) -> Table:
        """The rows as a table."""
        return Table(_HEADER, [row.cells for row in self.rows], self.title)


def summarise(records: Iterable[Record], methods: Sequence[str] = ()) -> list[Group]:
    """Group records that may be compared and summarise each method.

    Args:
        records: Finished runs.
        methods: Methods that come first, in this order; others follow by name.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in distinct(records):
        config = record.config
        preset = config.preset if config.preset != presets.OWN_IMAGES else f"{config.preset}, {config.data.name}"
        key = (preset, config.scale, record.final["evaluated_on"])
        groups.setdefault(key, []).append(record)

    def rank(label: str) -> tuple[int, str]:
        method = label.split(" ", 1)[0]
        return (methods.index(method) if method in methods else len(methods), label)

    summaries = []
    for (preset, scale, part), members in sorted(groups.items(), key=lambda item: item[0]):
        labels = _labels(members)
        by_label = {label: [record for record, own in labels if own == label] for _, label in labels}
        means = {label: statistics.fmean(record.error for record in runs) for label, runs in by_label.items()}
        rows = tuple(_method_summary(label, by_label[label], means) for label in sorted(by_label, key=rank))
        summaries.append(Group(preset, scale, part, rows))
    return summaries


def _labels(members: Sequence[Record]) -> list[tuple[Record, str]]:
    """Name each run's row: its method, and where its settings are not those of the preset, the difference.

    Runs with different settings are never averaged.
    """
    labels = []
    for record in members:
        own = {**record.config.to_dict(), "seed": None}
        try:
            config = presets.get(record.config.preset, record.config.method, record.config.scale)
            usual = {**config.to_dict(), "seed": None}
        except InvalidValueError:  # Not a preset of this version: the most frequent settings are the usual ones.
            rivals = [other.config for other in members if other.config.method == record.config.method]
            plain = [{**rival.to_dict(), "seed": None} for rival in rivals]
            usual = max(plain, key=plain.count)
        told = ("validation", "name") if record.config.preset == presets.OWN_IMAGES else ("validation",)
        usual["data"] = {**usual["data"], **{name: own["data"][name] for name in told}}  # The table's title says so.
        changed = differences(usual, own)
        labels.append((record, " ".join([record.config.method, *([f"({'; '.join(changed)})"] if changed else [])])))
    return labels


def distinct(found: Iterable[Record]) -> list[Record]:
    """Each run once, also where copies of its record lie in several folders.

    Raises:
        RecordError: two records of one run have different errors.
    """
    by_config: dict[str, Record] = {}
    for record in found:
        twin = by_config.setdefault(json.dumps(record.config.to_dict()), record)
        if twin.error != record.error:
            raise RecordError(
                f"two records of one run disagree: {twin.folder} has {twin.error:.2f} % error, {record.folder} "
                f"{record.error:.2f} %; take one away"
            )
    return list(by_config.values())


def _method_summary(method: str, runs: Sequence[Record], means: dict[str, float]) -> MethodSummary:
    plain = means.get("plain")
    return MethodSummary(
        method=method,
        records=tuple(runs),
        errors=tuple(run.error for run in runs),
        seconds=statistics.fmean(run.seconds for run in runs),
        change=means[method] / plain - 1 if plain else None,
        ahead=tuple(b for b in BASELINES if "add" in method and b in means and means[b] < means[method] - _ROUNDING),
    )


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile, interpolated between the values; of a single value three times itself."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3

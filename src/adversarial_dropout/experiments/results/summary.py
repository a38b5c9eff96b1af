"""Tables of errors over seeds, from records only."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import differences
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.records import Record, RecordError
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

BASELINES = ("pi", "vat")
"""Methods without adversarial dropout that methods with it are compared with, besides plain training."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class MethodSummary:
    """One method over its seeds."""

    method: str  # Its name, and the settings in which it differs from its preset.
    records: tuple[Record, ...]  # One per seed.
    change: float | None  # Mean error over that of plain training, minus 1; None without plain runs.
    ahead: tuple[str, ...]  # Baselines with a lower mean error, if the method contains adversarial dropout.

    @property
    def errors(self) -> tuple[float, ...]:
        """Error of each seed after the last epoch, in percent."""
        return tuple(record.error for record in self.records)

    @property
    def error(self) -> MeanStd:
        """Mean and standard deviation (n - 1) of the errors."""
        return MeanStd.of(self.errors)

    @property
    def cells(self) -> tuple[object, ...]:
        """The row in the table: method, error, n, change against plain, mean seconds of a run, remark."""
        return (
            self.method,
            self.error,
            len(self.records),
            None if self.change is None or self.method == "plain" else f"{100 * self.change:+.0f} %",
            f"{statistics.fmean(record.seconds for record in self.records):.1f}",
            f"{' and '.join(self.ahead)} ahead" if self.ahead else None,
        )


@dataclass(frozen=True)
class Group:
    """Methods that may be compared: same preset, same scale, same evaluation part ("test" or "validation")."""

    preset: str
    scale: str
    evaluated_on: str
    rows: tuple[MethodSummary, ...]

    @property
    def table(self) -> Table:
        """The rows as a table."""
        images = any(record.config.model.task == "images" for row in self.rows for record in row.records)
        what = "variance unexplained by the reconstruction" if images else "error"
        return Table(
            ("method", "error in %", "n", "against plain", "seconds per run", "remark"),
            [row.cells for row in self.rows],
            f"{self.preset}, scale {self.scale}: {self.evaluated_on} {what}, mean ± std over n seeds",
        )


def summarise(records: Iterable[Record], methods: Sequence[str] = ()) -> list[Group]:
    """Group finished runs that may be compared, and summarise each method: ``methods`` first, then others by name."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in distinct(records):
        config = record.config
        preset = config.preset if config.preset != presets.OWN_IMAGES else f"{config.preset}, {config.data.name}"
        if isinstance(config.model, Pretrained):
            preset += f", pretrained {config.model.source}"
        groups.setdefault((preset, config.scale, record.final["evaluated_on"]), []).append(record)
    return [Group(*key, _rows(members, methods)) for key, members in sorted(groups.items())]


def _rows(members: Sequence[Record], methods: Sequence[str]) -> tuple[MethodSummary, ...]:
    """A row per method and settings: runs with different settings are never averaged."""
    by_label: dict[str, list[Record]] = {}
    for record in members:
        by_label.setdefault(_label(record, members), []).append(record)
    means = {label: statistics.fmean(record.error for record in runs) for label, runs in by_label.items()}
    plain = means.get("plain")

    def rank(label: str) -> tuple[int, str]:
        method = label.split(" ", 1)[0]
        return (methods.index(method) if method in methods else len(methods), label)

    return tuple(
        MethodSummary(
            method=label,
            records=tuple(by_label[label]),
            change=means[label] / plain - 1 if plain else None,
            ahead=tuple(
                name
                for name in BASELINES
                if "add" in label and name in means and means[name] < means[label] - _ROUNDING
            ),
        )
        for label in sorted(by_label, key=rank)
    )


def _label(record: Record, members: Sequence[Record]) -> str:
    """The method of a run, and the settings in which it differs from its preset.

    If this version has no such preset, the most frequent settings among ``members`` are the usual ones.
    """
    config = record.config
    settings = {**config.to_dict(), "seed": None}
    try:
        network = config.model.name if isinstance(config.model, Pretrained) else None
        preset = presets.settings(config.preset, config.method, config.scale, network=network).used()
        usual = {**preset.to_dict(), "seed": None}
        if isinstance(config.model, Pretrained):  # It is in the title.
            usual["model"]["source"] = config.model.source
    except InvalidValueError:
        same_method = [
            {**member.config.to_dict(), "seed": None} for member in members if member.config.method == config.method
        ]
        usual = max(same_method, key=same_method.count)
    in_title = ("validation", "name") if config.preset == presets.OWN_IMAGES else ("validation",)
    usual["data"] = {**usual["data"], **{name: settings["data"][name] for name in in_title}}
    changed = differences(usual, settings)
    return f"{config.method} ({'; '.join(changed)})" if changed else config.method


def distinct(records: Iterable[Record]) -> list[Record]:
    """Each run once, even if copies of its record are in several folders.

    Raises:
        RecordError: two records of one run have different errors.
    """
    by_config: dict[str, Record] = {}
    for record in records:
        twin = by_config.setdefault(json.dumps(record.config.to_dict()), record)
        if twin.error != record.error:
            raise RecordError(
                f"two records of one run disagree: {twin.folder} has {twin.error:.2f} % error, {record.folder} "
                f"{record.error:.2f} %; take one away"
            )
    return list(by_config.values())

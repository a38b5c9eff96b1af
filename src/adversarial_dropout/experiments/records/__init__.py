"""The record of a run: a folder of plain files. Training writes it; analysis reads it and nothing else."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.records.environment import environment as environment
from adversarial_dropout.experiments.records.environment import versions as versions
from adversarial_dropout.experiments.records.environment import write_measured as write_measured
from adversarial_dropout.experiments.records.files import RecordError as RecordError
from adversarial_dropout.experiments.records.files import RecordWarning as RecordWarning
from adversarial_dropout.experiments.records.files import locked as locked
from adversarial_dropout.experiments.records.files import read_json as read_json
from adversarial_dropout.experiments.records.files import reading as reading
from adversarial_dropout.experiments.records.files import remove_leftovers as remove_leftovers
from adversarial_dropout.experiments.records.files import write_bytes as write_bytes
from adversarial_dropout.experiments.records.files import write_json as write_json
from adversarial_dropout.experiments.records.files import writing as writing

CONFIG = "config.json"
SPLIT = "split.json"
METRICS = "metrics.csv"
FINAL = "final.json"
WEIGHTS = "model.safetensors"
WHITENING = "whitening.safetensors"
LOCATION = "place.json"

Metrics = dict[str, float]
"""Metrics of one epoch, by name."""

_ENVIRONMENT = ("python", "packages", "system", "processor", "cores", "gpu", "commit")


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run: its folder, its config, the metrics of each epoch, and in ``final`` those of the epoch whose
    weights were kept, the seconds and the environment.
    """

    folder: Path
    config: ExperimentConfig
    metrics: list[Metrics]
    final: dict[str, Any]

    @property
    def error(self) -> float:
        """Error on the evaluation part in percent, under the weights that were kept: those of the last epoch, or of the
        one that held-out labels chose.
        """
        return float(self.final["metrics"]["error"])

    @property
    def epoch(self) -> int:
        """The epoch whose weights were kept, from 1."""
        return int(self.final.get("epoch", self.config.training.epochs))

    @property
    def seconds(self) -> float:
        """Wall time spent on training and evaluation, over all restarts."""
        return float(self.final["seconds"])


def run_folder(root: Path, config: ExperimentConfig) -> Path:
    """Where below ``root`` the run of ``config`` is."""
    return root / config.preset / config.scale / config.method / f"seed-{config.seed}"


def write_metrics(folder: Path, rows: Sequence[Metrics]) -> None:
    """Write the metrics of all epochs so far as CSV, numbers in full precision."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_bytes(folder / METRICS, text.getvalue().encode())


def read_metrics(folder: Path) -> list[Metrics]:
    """Read what :func:`write_metrics` wrote. A missing or damaged file is a :class:`RecordError`."""
    with reading(folder / METRICS), (folder / METRICS).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, strict=True)]


def epochs_done(folder: Path) -> int:
    """Epochs of the run in ``folder`` whose metrics are written. Another process may be writing them."""
    try:
        return max(0, (folder / METRICS).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` has the record of a finished run."""
    return (folder / FINAL).exists()


def read_record(folder: Path) -> Record:
    """Read the record of a finished run.

    Raises:
        RecordError: a file of it is missing or damaged.
        InvalidValueError: its config belongs to another version of the program.
    """
    final = read_json(folder / FINAL)
    try:
        config = ExperimentConfig.from_dict(read_json(folder / CONFIG))
    except InvalidValueError as error:
        raise InvalidValueError(f"{folder / CONFIG}: {error}") from error
    metrics = read_metrics(folder)
    with reading(folder / FINAL):
        record = Record(folder=folder, config=config, metrics=metrics, final=final)
        if not math.isfinite(record.error + record.seconds):
            raise ValueError("error and seconds must be finite")
        final["evaluated_on"], [final["environment"][name] for name in _ENVIRONMENT]
    with reading(folder / METRICS):
        kept = metrics[record.epoch - 1 : record.epoch]
        if len(metrics) != config.training.epochs or kept != [final["metrics"]]:
            raise ValueError(f"expected {config.training.epochs} rows, that of epoch {record.epoch} as in {FINAL}")
    return record


def find_records(folder: Path) -> list[Record]:
    """Read all finished runs below ``folder``, sorted by path.

    Raises:
        RecordError: there is none, or one is damaged.
    """
    folders = sorted(path.parent for path in folder.rglob(FINAL))
    if not folders:
        raise RecordError(
            f"no finished run below {folder}; train one with `adversarial-dropout train`, or name another folder"
        )
    return [read_record(path) for path in folders]


def environments(runs: Iterable[Record]) -> list[dict[str, Any]]:
    """The different environments of runs, in their order."""
    seen: list[dict[str, Any]] = []
    for run in runs:
        if run.final["environment"] not in seen:
            seen.append(run.final["environment"])
    return seen

"""What a run leaves behind: a folder of plain files. The one meeting point of training and analysis."""

import contextlib
import csv
import functools
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError

from adversarial_dropout.errors import AdversarialDropoutError, AdversarialDropoutWarning, InvalidValueError
from adversarial_dropout.experiments.config import ExperimentConfig

CONFIG = "config.json"
SPLIT = "split.json"
METRICS = "metrics.csv"
FINAL = "final.json"
WEIGHTS = "model.safetensors"
WHITENING = "whitening.safetensors"
PLACE = "place.json"

Row = dict[str, float]
"""Metrics of one epoch, by name."""


class RecordError(AdversarialDropoutError, OSError):
    """A file of a run cannot be written or read."""


class RecordWarning(AdversarialDropoutWarning):
    """A file of a run is damaged, and something else is used in its place."""


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run.

    Attributes:
        folder: Where it lies.
        config: What was run.
        metrics: One row per epoch.
        final: Metrics of the last epoch, seconds, environment.
    """

    folder: Path
    config: ExperimentConfig
    metrics: list[Row]
    final: dict[str, Any]

    @property
    def error(self) -> float:
        """Error of the last epoch on the evaluation part, in percent."""
        return float(self.final["metrics"]["error"])

    @property
    def seconds(self) -> float:
        """Wall time spent training and evaluating, over all restarts."""
        return float(self.final["seconds"])


def write_bytes(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write a file so that at every moment it is whole, or not there: beside, flushed to the disk, then renamed.

    Args:
        path: The file; its folder is made if it is missing.
        content: All of its content.
        previous: Name under which the file it replaces is kept.

    Raises:
        RecordError: it cannot be written. What stood there stays, there or as ``previous``.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a :class:`RecordError` that names ``path`` and the cause."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; free space there, make it writable, or choose another folder with "
            f"--out. What was recorded before is whole, and the same command goes on from it"
        ) from error


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write ``content`` as JSON; see :func:`write_bytes`."""
    write_bytes(path, (json.dumps(content, indent=indent) + "\n").encode())


def write_measured(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, with the environment in which it was measured; see :func:`write_bytes`."""
    write_json(path, {**content, "environment": environment()})


def write_metrics(folder: Path, rows: Sequence[Row]) -> None:
    """Write the metrics of all epochs so far as CSV, numbers in full precision."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_bytes(folder / METRICS, text.getvalue().encode())


def remove_leftovers(folder: Path) -> None:
    """Remove files that a killed process was writing; call it under the folder's lock."""
    for path in folder.glob("*.tmp"):
        with writing(path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Work on a run's folder, alone: a second process waits. The lock ends with its process, however that ends.

    Raises:
        RecordError: the folder cannot be made or written to.

    Warns:
        RecordWarning: another process works there.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            warnings.warn(f"another process works on {folder}; waiting for it", RecordWarning, stacklevel=2)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        RecordError: it is not there, not readable, or damaged.
    """
    with reading(path):
        content: object = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {type(content).__name__}")
    return content


def run_folder(root: Path, config: ExperimentConfig) -> Path:
    """Where below ``root`` the run of ``config`` is kept."""
    return root / config.preset / config.scale / config.method / f"seed-{config.seed}"


def epochs_done(folder: Path) -> int:
    """Epochs of the run in ``folder`` whose metrics are written; also while another process writes them."""
    try:
        return max(0, (folder / METRICS).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` holds the record of a finished run."""
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
    with reading(folder / METRICS), (folder / METRICS).open(newline="") as file:
        metrics = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, strict=True)]
    with reading(folder / FINAL):
        record = Record(folder=folder, config=config, metrics=metrics, final=final)
        if not math.isfinite(record.error + record.seconds):
            raise ValueError("error and seconds must be finite")
        final["evaluated_on"], [final["environment"][name] for name in _ENVIRONMENT]
    with reading(folder / METRICS):
        if len(metrics) != config.training.epochs or metrics[-1] != final["metrics"]:
            raise ValueError(f"expected {config.training.epochs} rows, the last one as in {FINAL}")
    return record


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what damaged content raises into a :class:`RecordError` that names ``path``."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error, SafetensorError) as error:
        raise RecordError(
            f"cannot read {path}: it is damaged or incomplete ({error!r}); delete this file and give the command "
            f"of the run again"
        ) from error


def find_records(folder: Path) -> list[Record]:
    """Read all finished runs below ``folder``, in the order of their paths.

    Raises:
        RecordError: there is none, or one is damaged.
    """
    folders = sorted(path.parent for path in folder.rglob(FINAL))
    if not folders:
        raise RecordError(
            f"no finished run below {folder}; train one with `adversarial-dropout train`, or name another folder"
        )
    return [read_record(path) for path in folders]


_ENVIRONMENT = ("python", "packages", "system", "processor", "cores", "gpu", "commit")


def environments(found: Iterable[Record]) -> list[dict[str, Any]]:
    """The different environments in which runs were made, in their order."""
    seen: list[dict[str, Any]] = []
    for record in found:
        if record.final["environment"] not in seen:
            seen.append(record.final["environment"])
    return seen


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, hardware and source commit of this process."""
    packages = ("adversarial-dropout", "torch", "accelerate", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = environment()
    return {"python": found["python"], **found["packages"]}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """Commit of the checkout that the package runs from, with "+" if the package was changed; ``None`` elsewhere."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "errors.py")  # A package that is installed inside another repository is not.
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None

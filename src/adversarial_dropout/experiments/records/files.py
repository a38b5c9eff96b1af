"""Files of a run, written and read safely: files are always whole, errors say which file."""

import contextlib
import csv
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError

from adversarial_dropout.errors import AdversarialDropoutError, AdversarialDropoutWarning


class RecordError(AdversarialDropoutError, OSError):
    """A file of a run cannot be written or read."""


class RecordWarning(AdversarialDropoutWarning):
    """A file of a run is damaged, and something else is used instead."""


def write_bytes(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write a file that at every moment is whole or missing: write a temporary file, flush it, rename it.

    Missing folders are made. The old file becomes ``previous``, if that is given. If the new one cannot be written, the
    old one is unchanged, there or as ``previous``, and a :class:`RecordError` says why.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a :class:`RecordError` with ``path`` and the cause."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; free space there, make it writable, or choose another folder with "
            f"--out. What was recorded before is whole, and the same command resumes from it"
        ) from error


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write ``content`` as JSON; see :func:`write_bytes`."""
    write_bytes(path, (json.dumps(content, indent=indent) + "\n").encode())


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what damaged content raises into a :class:`RecordError` with ``path``."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error, SafetensorError) as error:
        raise RecordError(
            f"cannot read {path}: it is damaged or incomplete ({error!r}); delete this file and give the command "
            f"of the run again"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the files that a killed process was writing. The caller holds the folder's lock."""
    for path in folder.glob("*.tmp"):
        with writing(path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Work alone on a run's folder. A second process warns and waits. The lock always ends with its process."""
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
    """Read a JSON file of a run. A missing or damaged one is a :class:`RecordError`."""
    with reading(path):
        content: object = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {type(content).__name__}")
    return content

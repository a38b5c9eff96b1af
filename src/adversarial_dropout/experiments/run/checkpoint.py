"""One file that holds all that a run needs to resume, and the file before it."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from adversarial_dropout.experiments.records import RecordError, RecordWarning, write_bytes, writing

_DIGEST = hashlib.sha256().digest_size
NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
DAMAGED = "checkpoint.damaged.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain containers) as the newest checkpoint of ``folder``.

    The file is what ``torch.save`` writes, followed by its SHA-256 digest. The file before it is renamed, so that a
    complete checkpoint exists at every moment, also after a :class:`RecordError`.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_bytes(folder / NAME, payload + hashlib.sha256(payload).digest(), previous=folder / PREVIOUS)


def exists(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint, damaged or not."""
    return (folder / NAME).exists() or (folder / PREVIOUS).exists()


def load(folder: Path) -> dict[str, Any] | None:
    """Read the newest complete checkpoint of ``folder``, or return ``None`` if it has none; execute no pickled code.

    Raises:
        RecordError: all checkpoints are damaged.

    Warns:
        RecordWarning: the newest checkpoint is damaged, and the one before it is used.
    """
    damaged: list[str] = []
    for path in (folder / NAME, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except ValueError as error:
            damaged.append(f"{path} ({error})")
            continue
        if damaged:
            with writing(folder / DAMAGED):
                (folder / NAME).replace(folder / DAMAGED)
            warnings.warn(
                f"the checkpoint {damaged[0]} is damaged, and renamed to {DAMAGED}; the run resumes from the one "
                f"before it, {path.name}, after epoch {state['epoch']}",
                RecordWarning,
                stacklevel=2,
            )
        return state
    if damaged:
        raise RecordError(f"all checkpoints are damaged: {' and '.join(damaged)}; delete them to start the run again")
    return None


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raise ``ValueError`` if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read the checkpoint {path}: {error.strerror}; check its permissions") from error
    payload, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its digest does not match its content")
    try:
        state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except Exception as error:  # What torch raises here depends on what the file holds.
        raise ValueError(f"it holds other objects than tensors and plain containers: {type(error).__name__}") from error
    if not isinstance(state, dict) or "epoch" not in state:
        raise ValueError("it does not hold the state of a run")
    return state

"""One file that holds all a run needs to go on; the one before it is kept."""

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

    The file is what ``torch.save`` writes, followed by its SHA-256 digest. It is written beside and renamed, and the
    checkpoint before it is kept, so that a whole one exists at every moment.

    Raises:
        RecordError: the file cannot be written; the checkpoints that exist stay.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_bytes(folder / NAME, payload + hashlib.sha256(payload).digest(), previous=folder / PREVIOUS)


def exists(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint, whole or not."""
    return (folder / NAME).exists() or (folder / PREVIOUS).exists()


def load(folder: Path) -> dict[str, Any] | None:
    """Read the newest whole checkpoint of ``folder``; ``None`` where there is no checkpoint at all.

    No pickled code is executed.

    Raises:
        RecordError: there are checkpoints, and all are damaged.

    Warns:
        RecordWarning: the newest is damaged, and the one before it is used.
    """
    damaged: list[str] = []
    for path in (folder / NAME, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except _DamagedError as error:
            damaged.append(f"{path} ({error})")
            continue
        if damaged:
            with writing(folder / DAMAGED):
                (folder / NAME).replace(folder / DAMAGED)
            warnings.warn(
                f"the checkpoint {damaged[0]} is damaged, and kept as {DAMAGED}; going on from the one before it, "
                f"{path.name}, after epoch {state['epoch']}",
                RecordWarning,
                stacklevel=2,
            )
        return state
    if damaged:
        raise RecordError(
            f"no whole checkpoint is left: damaged are {' and '.join(damaged)}; delete them to start the run again"
        )
    return None


class _DamagedError(Exception):
    pass


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read the checkpoint {path}: {error.strerror}; check its permissions") from error
    payload, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise _DamagedError("its digest does not match its content")
    try:
        state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except Exception as error:  # What torch raises here depends on what the file holds.
        raise _DamagedError(
            f"it holds something else than tensors and plain containers: {type(error).__name__}"
        ) from error
    if not isinstance(state, dict) or "epoch" not in state:
        raise _DamagedError("it does not hold the state of a run")
    return state

"""The grid on a Ray cluster, as the command sees it: what it asks for, and what it gets back.

Ray itself is spoken to in a process of its own (:mod:`cluster_driver`): where a cluster is lost Ray ends the process
that was connected to it, and prints what only its developers need.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import multiprocessing
import os
import re
import secrets
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import adversarial_dropout
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.grid.grid import Backend, Cell, GridError

_PATIENCE_SECONDS = 300.0
_SHUTDOWN_SECONDS = 15.0
_DRIVER = "import sys; from adversarial_dropout.experiments.grid import cluster_driver as driver; driver.main({})"


class GridWarning(AdversarialDropoutWarning):
    """Something happened to a cluster, and its grid goes on."""


@dataclass(frozen=True)
class Work:
    """What the process that speaks to Ray is given.

    Attributes:
        cells: To run; their paths are absolute.
        jobs: So many at a time; ``None``: as many as the cluster has room for.
        address: HOST:PORT of the cluster's head, "auto", or "local" to start one for this work.
        patience: Seconds to wait while no node has a CPU, or a GPU, for a cell.
        versions: That every node must have.
        files: That every node must see.
    """

    cells: list[Cell]
    jobs: int | None
    address: str
    patience: float
    versions: dict[str, str]
    files: list[Path]

    @property
    def threads(self) -> int:
        """CPU threads of a cell, at most."""
        return max(cell.config.threads for cell in self.cells)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of packages, and of the source of this one: what results depend on."""
    source = hashlib.sha256()
    for path in sorted(Path(adversarial_dropout.__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    return {**records.versions(), "adversarial-dropout's source": source.hexdigest()[:8]}


def ray_tasks(address: str | None = None) -> Backend:
    """The backend of a Ray cluster: a task a cell, on any node; the cells of a node that dies go on elsewhere.

    Args:
        address: HOST:PORT of the cluster's head; "auto": a cluster that this machine belongs to; "local": start one
            for the time of the grid; ``None``: $RAY_ADDRESS, or "local".

    Raises:
        InvalidValueError: Ray is not installed, or ``address`` is none.
    """
    if importlib.util.find_spec("ray") is None:
        raise InvalidValueError("--backend ray needs ray; pip install 'adversarial-dropout[ray]'")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if not re.fullmatch(r"auto|local|[^/]+:[0-9]+", address):
        raise InvalidValueError(
            f'expected the address of a Ray cluster as HOST:PORT, "auto" or "local", got {address!r}; `ray start '
            f"--head` shows it"
        )
    return functools.partial(_run_cells, address=address)


def _run_cells(cells: Sequence[Cell], root: Path, jobs: int | None, *, address: str) -> list[str | None]:
    failures = {cell: cell.run() for cell in cells if records.is_finished(cell.folder)}
    todo = [cell for cell in cells if cell not in failures]
    if todo:
        # By this file nodes know the folder. Its name is new, so that no file system remembers that it is missing.
        token = root.absolute() / f".cluster-{secrets.token_hex(8)}"
        records.write_bytes(token, b"")
        try:
            absolute = [_anywhere(cell) for cell in todo]
            data = absolute[0].location.folder
            files = [token] if data is None else [token, data]
            found = _driven(Work(absolute, jobs, address, _PATIENCE_SECONDS, versions(), files))
        finally:
            token.unlink(missing_ok=True)
        failures.update(zip(todo, found, strict=True))
    return [failures[cell] for cell in cells]


def _anywhere(cell: Cell) -> Cell:
    """The same cell in a process that has another working folder."""
    location = cell.location
    if location.folder is not None:
        location = dataclasses.replace(location, folder=location.folder.expanduser().absolute())
    return dataclasses.replace(cell, folder=cell.folder.absolute(), location=location)


def _driven(work: Work) -> list[str | None]:
    """Give ``work`` to a process that speaks to Ray, and wait for what it finds. It ends when this function does."""
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER.format(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,  # Ctrl-C is for this process, which then closes the connection.
            env={"RAY_USAGE_STATS_ENABLED": "0", **os.environ},
        )
        theirs.close()
        try:
            with ours:
                ours.send(work)
                while isinstance(answer := ours.recv(), str):
                    warnings.warn(answer, GridWarning, stacklevel=2)
        except (EOFError, ConnectionError) as error:
            printed.seek(0)
            last_line = printed.read().strip().rpartition("\n")[2][:500]
            raise GridError(
                f"the connection to the Ray cluster at {work.address} was lost ({last_line or 'it said nothing'}); "
                f"what is recorded is kept: start the cluster again, and give the same command"
            ) from error
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SHUTDOWN_SECONDS)
            process.kill()
            process.wait()
    if isinstance(answer, Exception):
        raise answer
    failures: list[str | None] = answer
    return failures

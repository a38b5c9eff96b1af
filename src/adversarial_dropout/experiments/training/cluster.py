"""The grid on a Ray cluster: what leaves this process, and what a node checks before it trains.

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
import secrets
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import adversarial_dropout
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.training.grid import Backend, Cell, GridError

_PATIENCE_SECONDS = 300.0
_SHUTDOWN_SECONDS = 15.0
_DRIVER = "import sys; from adversarial_dropout.experiments.training import cluster_driver as driver; driver.main({})"


class GridWarning(AdversarialDropoutWarning):
    """Something happened to a cluster, and its grid goes on."""


@dataclass(frozen=True)
class Demands:
    """What a node must have to run cells.

    Attributes:
        versions: Of what decides over the bits of a result; see :func:`versions`.
        token: A file below the folder of the runs.
        data: Folder of the data, if they come from one.
    """

    versions: dict[str, str]
    token: Path
    data: Path | None

    def check(self, node: str) -> None:
        """Raise :class:`GridError` unless they are met in this process, which is on ``node``."""
        here = versions()
        other = [
            f"{name} {here.get(name, 'none')} instead of {wanted}"
            for name, wanted in self.versions.items()
            if here.get(name) != wanted
        ]
        if other:
            raise GridError(
                f"expected the same versions on all nodes, got on {node} {', '.join(other)} as where the command was "
                f"given; install the same there"
            )
        if not self.token.exists():
            raise GridError(
                f"{node} does not see the folder {self.token.parent} of this command; give an --out that all nodes "
                f"share under the same path"
            )
        if self.data is not None and not self.data.exists():
            raise GridError(
                f"{node} has no data in {self.data}; copy them there, or give a --data that all nodes share under the "
                f"same path"
            )


@dataclass(frozen=True)
class Work:
    """What the process that speaks to Ray is given.

    Attributes:
        cells: To run; their paths are absolute.
        jobs: So many at a time; ``None``: as many as the cluster has room for.
        address: HOST:PORT of the cluster's head, "auto", or "local" to start one for this work.
        demands: On every node.
        patience: Seconds to wait while no node has a CPU, or a GPU, for a cell.
    """

    cells: list[Cell]
    jobs: int | None
    address: str
    demands: Demands
    patience: float

    @property
    def threads(self) -> int:
        """CPU threads of a cell, at most."""
        return max(cell.config.threads for cell in self.cells)


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
    _, colon, port = address.rpartition(":")
    if address not in ("auto", "local") and ("://" in address or not (colon and port.isdecimal())):
        raise InvalidValueError(
            f'expected the address of a Ray cluster as HOST:PORT, "auto" or "local", got {address!r}; `ray start '
            f"--head` shows it"
        )
    return functools.partial(_run_cells, address=address)


def _run_cells(cells: Sequence[Cell], root: Path, jobs: int | None, *, address: str) -> list[str | None]:
    finished = [records.is_finished(cell.folder) for cell in cells]
    failures = [cell.run() if done else None for cell, done in zip(cells, finished, strict=True)]
    places = [place for place, done in enumerate(finished) if not done]
    if places:
        with _token(root.absolute()) as token:
            todo = [_anywhere(cells[place]) for place in places]
            demands = Demands(versions(), token, todo[0].place.folder)
            found = _driven(Work(todo, jobs, address, demands, _PATIENCE_SECONDS))
        for place, why in zip(places, found, strict=True):
            failures[place] = why
    return failures


def _anywhere(cell: Cell) -> Cell:
    """The same cell in a process that has another working folder."""
    place = cell.place
    if place.folder is not None:
        place = dataclasses.replace(place, folder=place.folder.expanduser().absolute())
    return dataclasses.replace(cell, folder=cell.folder.absolute(), place=place)


@contextlib.contextmanager
def _token(root: Path) -> Iterator[Path]:
    """A file by which nodes know the folder; its name is new, so that no file system remembers that it is missing."""
    token = root / f".cluster-{secrets.token_hex(8)}"
    records.write_bytes(token, b"")
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of packages, and of the source of this one: what results depend on."""
    package = Path(adversarial_dropout.__file__).parent
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {**records.versions(), "adversarial-dropout's source": source.hexdigest()[:8]}


def _driven(work: Work) -> list[str | None]:
    """Give ``work`` to a process that speaks to Ray, and wait for what it finds. It ends when this function does."""
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryFile() as printed:
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
                return _answer(ours, work)
        except (EOFError, ConnectionError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SHUTDOWN_SECONDS)
            raise GridError(
                f"the connection to the Ray cluster at {work.address} was lost ({_last_line(printed)}); what is "
                f"recorded is kept: start the cluster again, and give the same command"
            ) from error
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SHUTDOWN_SECONDS)
            process.kill()
            process.wait()


def _answer(connection: Any, work: Work) -> list[str | None]:
    connection.send(work)
    while True:
        match connection.recv():
            case str(happened):
                warnings.warn(happened, GridWarning, stacklevel=2)
            case Exception() as error:
                raise error
            case list(failures):
                return failures


def _last_line(printed: IO[bytes]) -> str:
    printed.seek(0)
    lines = printed.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"

"""The grid on a Ray cluster: each cell is a task, which Ray restarts if its node or its process dies.

A separate process, the driver, speaks to Ray: when a cluster is lost, Ray ends the process that is connected to it.
"""

import contextlib
import functools
import itertools
import logging
import math
import multiprocessing
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import differences
from adversarial_dropout.experiments.grid.grid import Backend, Cell, GridError, GridWarning, end_with

try:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise InvalidValueError("--backend ray needs ray; pip install 'adversarial-dropout[ray]'") from error

_PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 0.25
_OBJECT_STORE_BYTES = 80 << 20  # Close to the minimum that Ray accepts: only configs pass through it.


def ray_tasks(address: str | None = None) -> Backend:
    """The backend of the Ray cluster at HOST:PORT, of the one that this machine belongs to ("auto"), or of a new one.

    "local" starts a cluster on this machine, which ends with the grid; ``None`` stands for $RAY_ADDRESS, or "local".
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if not re.fullmatch(r"auto|local|[^/]+:[0-9]+", address):
        raise InvalidValueError(
            f'expected a Ray address HOST:PORT, "auto" or "local", got {address!r}; `ray start --head` shows it'
        )
    return functools.partial(_run_cells, address=address)


def _run_cells(cells: Sequence[Cell], root: Path, jobs: int | None, *, address: str) -> list[str | None]:
    """Have a driver run the cells. It ends when this function does."""
    # Nodes must see this file. Its name is new, so that no network file system has cached that it is missing.
    token = root.absolute() / f".cluster-{secrets.token_hex(8)}"
    records.write_bytes(token, b"")
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import drive; drive({theirs.fileno()})"],
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
                files = [token, *cells[0].location.paths]
                ours.send((address, cells, jobs, records.versions(), files, _PATIENCE_SECONDS))
                while isinstance(answer := ours.recv(), str):
                    warnings.warn(answer, GridWarning, stacklevel=2)
        except (EOFError, ConnectionError) as error:
            printed.seek(0)
            last_line = printed.read().strip().rpartition("\n")[2][:500]
            raise GridError(
                f"the connection to the Ray cluster at {address} was lost ({last_line or 'it printed nothing'}); "
                f"what is recorded is safe: start the cluster again, and give the same command"
            ) from error
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()
            process.wait()
            token.unlink(missing_ok=True)
    if isinstance(answer, Exception):
        raise answer
    return list(answer)


def drive(descriptor: int) -> None:
    """In the driver: run the cells that a connection brings; send back warnings, then the failures or an error."""
    connection = Connection(descriptor)
    address, cells, jobs, versions, files, patience = connection.recv()
    needs = {"CPU": max(cell.config.threads for cell in cells), "GPU": 0.0}
    try:
        _connect(address, None if jobs is None else jobs * needs["CPU"])
        if cells[0].device != "cpu":
            needs["GPU"] = share_of_gpu(ray.cluster_resources().get("GPU", 0.0), jobs)
        watch = _watch(connection, address, needs, patience)
        nodes = [node for node in ray.nodes() if _has_room(node, needs)]
        # Soft: if a node dies before it is checked, its check moves to another node instead of failing.
        pins = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in nodes]
        checks = (_on_node.options(num_cpus=0, scheduling_strategy=pin).remote(versions, files, None) for pin in pins)
        checked = zip(nodes, _failures(checks, len(nodes), watch), strict=True)
        if wrong := [f"{_name(node)}: {why}" for node, why in checked if why is not None]:
            raise GridError("\n".join(wrong))
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "scheduling_strategy": "SPREAD"}
        task = _on_node.options(**options, retry_exceptions=True)
        answer: object = _failures((task.remote(versions, files, cell) for cell in cells), jobs or len(cells), watch)
    except AdversarialDropoutError as error:
        answer = error
    connection.send(answer)


def _connect(address: str, cpus: int | None) -> None:
    local = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    options: dict[str, Any] = local if address == "local" else {}
    host, colon, port = address.rpartition(":")
    try:
        if colon:  # Ray itself would take minutes to find that nothing answers.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, RuntimeError, RayError) as error:
        raise GridError(
            f"cannot connect to a Ray cluster at {address}: {error}; start one with `ray start --head`, join it on "
            f"this machine with `ray start --address HOST:PORT`, and give --ray-address HOST:PORT"
        ) from error


@ray.remote(max_retries=10)
def _on_node(versions: dict[str, str], files: list[Path], cell: Cell | None) -> str | None:
    """On a node: check that it has these versions and sees these files, and run ``cell``; return why that failed."""
    end_with(os.getppid())  # A worker that outlives its node would write where its successor writes.
    wrong = differences(versions, records.versions()) + [f"no {file}" for file in files if not file.exists()]
    if wrong:
        raise GridError(
            f"expected the versions, the --out and the --data of this command, got (command → node) "
            f"{'; '.join(wrong)}: install the same versions, and give folders that all nodes share"
        )
    return None if cell is None else cell.run()


def share_of_gpu(gpus: float, jobs: int | None) -> float:
    """The part of a GPU that a cell asks for, so that ``jobs`` cells share ``gpus``; rounded as Ray counts."""
    return gpus and math.floor(1e4 / math.ceil(max(jobs or 0, gpus) / gpus)) / 1e4


def _failures(tasks: Iterator[Any], at_once: int, watch: Iterator[None]) -> list[str | None]:
    """Start tasks, ``at_once`` at a time, and wait for all; return why each failed, or ``None``."""
    failures: dict[Any, str | None] = {}
    running: list[Any] = []
    while running := [*running, *itertools.islice(tasks, at_once - len(running))]:
        failures |= dict.fromkeys(running)
        done, running = ray.wait(running, timeout=_POLL_SECONDS)
        for task in done:
            try:
                failures[task] = ray.get(task)
            except RayError as error:  # If the task itself raised an error, that one is the cause.
                failures[task] = str(getattr(error, "cause", error)).strip().partition("\n")[0]
        next(watch)
    return list(failures.values())


def _watch(connection: Connection, address: str, needs: dict[str, float], patience: float) -> Iterator[None]:
    """In each step: end with the command; warn of nodes that died; raise if none has had room for too long."""
    alive: set[str] = set()
    had_room = time.monotonic()
    while True:
        if connection.poll():
            sys.exit()
        nodes = ray.nodes()
        for node in nodes:
            if not node["Alive"] and node["NodeID"] in alive:
                connection.send(f"{_name(node)} has died; its runs continue elsewhere from their last epoch")
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        if any(_has_room(node, needs) for node in nodes):
            had_room = time.monotonic()
        elif time.monotonic() - had_room > patience:
            required = " and ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount)
            raise GridError(
                f"no node of the Ray cluster at {address} has had {required} for {patience:.0f} s; what is recorded is "
                f"safe: start nodes with `ray start --address HOST:PORT`, and give the same command"
            )
        yield


def _has_room(node: dict[str, Any], needs: dict[str, float]) -> bool:
    return node["Alive"] and all(node["Resources"].get(name, 0) >= need for name, need in needs.items())


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"

"""The process that speaks to a Ray cluster: a task a cell, which Ray starts again where a node or a process dies."""

import functools
import logging
import math
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.config import Device
from adversarial_dropout.experiments.grid.cluster import Work, versions
from adversarial_dropout.experiments.grid.grid import Cell, GridError, end_with

_POLL_SECONDS = 0.25
_CONNECT_SECONDS = 10.0
_RETRIES = 10
_OBJECT_STORE_BYTES = 80 << 20  # Nearly the least that Ray accepts: configs travel, nothing else.


def main(descriptor: int) -> None:
    """Do the :class:`Work` that comes over a connection, and send back warnings and then the failures or an error.

    The end of the connection ends the work.
    """
    connection = Connection(descriptor)
    work: Work = connection.recv()
    try:
        _connect(work)
        answer: object = _Cluster(work, connection).run()
    except AdversarialDropoutError as error:
        answer = error
    connection.send(answer)


def _connect(work: Work) -> None:
    options: dict[str, Any] = {"address": work.address, "log_to_driver": False, "logging_level": logging.CRITICAL}
    if work.address == "local":
        options |= {
            "num_cpus": None if work.jobs is None else work.jobs * work.threads,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    host, colon, port = work.address.rpartition(":")
    try:
        if colon:  # Ray itself takes minutes to find that nobody is there.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(**options)
    except (OSError, RuntimeError, RayError) as error:
        raise GridError(
            f"cannot connect to a Ray cluster at {work.address}: {_first_line(error)}; start one with `ray start "
            f"--head`, join it on this machine with `ray start --address HOST:PORT`, and give --ray-address HOST:PORT; "
            f"if it wants a token, set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from its head"
        ) from error


@ray.remote(max_retries=_RETRIES)
def _on_node(wanted: dict[str, str], files: Sequence[Path], cell: Cell | None) -> str | None:
    """On a node: check that it can run cells, and run one; return why that failed, or ``None``."""
    end_with(os.getppid())  # Otherwise a worker may outlive its node, and write where the next one writes.
    check_node(wanted, files, f"node {ray.util.get_node_ip_address()} ({platform.node()})")
    return None if cell is None else cell.run()


def check_node(wanted: dict[str, str], files: Sequence[Path], node: str) -> None:
    """Raise :class:`GridError` unless this process, which is on ``node``, has these versions and sees these files."""
    here = versions()
    wrong = [
        f"{name} {here.get(name, 'none')} instead of {wanted[name]}"
        for name in wanted
        if here.get(name) != wanted[name]
    ]
    wrong += [f"no {file}" for file in files if not file.exists()]
    if wrong:
        raise GridError(
            f"expected on all nodes the versions, the --out and the --data of this command, got on {node} "
            f"{', '.join(wrong)}; install the same versions, and give folders that all nodes share under one path"
        )


class _Cluster:
    """The cluster that this process is connected to, and what it does for ``work``."""

    def __init__(self, work: Work, connection: Connection) -> None:
        self._work = work
        self._connection = connection
        self._alive: set[str] = set()
        self._had_room = time.monotonic()
        gpus = ray.cluster_resources().get("GPU", 0.0)
        self._needs = {"CPU": work.threads, "GPU": share_of_gpu(gpus, work.jobs, work.cells[0].device)}

    def run(self) -> list[str | None]:
        """Run the cells, if every node can; return why each failed, or ``None``."""
        work = self._work

        def task(cell: Cell | None, **options: Any) -> Callable[[], Any]:
            return functools.partial(_on_node.options(**options).remote, work.versions, work.files, cell)

        checks = [
            # Soft: the check of a node that dies meanwhile moves to another one, and says nothing against it.
            task(None, num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True))
            for node in ray.nodes()
            if self._has_room(node)
        ]
        wrong = [why for why in self._failures(checks, len(checks)) if why is not None]
        if wrong:
            raise GridError("\n".join(wrong))
        needs = {"num_cpus": self._needs["CPU"], "num_gpus": self._needs["GPU"]}
        cells = [task(cell, **needs, retry_exceptions=True, scheduling_strategy="SPREAD") for cell in work.cells]
        return self._failures(cells, work.jobs or len(cells))

    def _failures(self, tasks: Sequence[Callable[[], Any]], at_once: int) -> list[str | None]:
        """Start tasks, so many at a time, and wait for all; return why each failed, or ``None``."""
        failures: list[str | None] = [None] * len(tasks)
        waiting = list(enumerate(tasks))
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < at_once:
                index, start = waiting.pop(0)
                running[start()] = index
            for done in ray.wait(list(running), timeout=_POLL_SECONDS)[0]:
                failures[running.pop(done)] = _outcome(done)
            self._look()
        return failures

    def _look(self) -> None:
        """Whether somebody waits for the result, and what has become of the nodes."""
        if self._connection.poll():
            sys.exit()
        nodes = ray.nodes()
        for node in nodes:
            if not node["Alive"] and node["NodeID"] in self._alive:
                name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
                self._connection.send(f"node {name} has died; what it ran goes on elsewhere from the last epoch")
        self._alive = {node["NodeID"] for node in nodes if node["Alive"]}
        if any(self._has_room(node) for node in nodes):
            self._had_room = time.monotonic()
        elif time.monotonic() - self._had_room > self._work.patience:
            needs = " and ".join(f"{amount:g} {name}" for name, amount in self._needs.items() if amount)
            raise GridError(
                f"no node of the Ray cluster at {self._work.address} has had {needs} for {self._work.patience:.0f} s; "
                f"what is recorded is kept: start nodes with `ray start --address HOST:PORT`, and give the same command"
            )

    def _has_room(self, node: dict[str, Any]) -> bool:
        return node["Alive"] and all(node["Resources"].get(name, 0) >= need for name, need in self._needs.items())


def share_of_gpu(gpus: float, jobs: int | None, device: Device) -> float:
    """What a cell asks for: ``jobs`` cells share the GPUs; if ``None``, each has one for itself.

    Raises:
        GridError: ``device`` is "cuda", and there are none.
    """
    if device == "cuda" and not gpus:
        raise GridError(
            "expected GPUs in the Ray cluster for --device cuda, got none; start nodes that have some, or leave "
            "--device out"
        )
    if device == "cpu" or not gpus:
        return 0.0
    return int(1e4 / math.ceil(max(jobs or 0, gpus) / gpus)) / 1e4  # So finely does Ray divide.


def _outcome(done: Any) -> str | None:
    """Why a task failed, or ``None``."""
    try:
        failure: str | None = ray.get(done)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GridError):
            return str(cause)
        return f"node {error.ip} cannot run this program: {type(cause).__name__}: {_first_line(cause)}"
    except RayError as error:
        return f"was lost, and Ray has given it up: {type(error).__name__}: {_first_line(error)}"
    return failure


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""The process that speaks to a Ray cluster: a task a cell, and again where the node it ran on has died."""

import contextlib
import logging
import math
import os
import platform
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.training.cluster import Demands, Work
from adversarial_dropout.experiments.training.grid import Cell, GridError, end_with

_POLL_SECONDS = 0.25
_CONNECT_SECONDS = 10.0
_ATTEMPTS = 5
_OBJECT_STORE_BYTES = 80 << 20  # Nearly the least that Ray accepts: configs travel, nothing else.
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}


class _StoppedError(Exception):
    """Nobody waits for the result any more."""


def main(descriptor: int) -> None:
    """Do the :class:`Work` that comes over a connection, and send back warnings and then the failures or an error.

    The end of the connection ends the work.
    """
    connection = Connection(descriptor)
    work: Work = connection.recv()
    try:
        _connect(work)
        cells = _Cells(work, connection)
        cells.check_nodes()
        answer: object = cells.run()
    except AdversarialDropoutError as error:
        answer = error
    except _StoppedError:
        answer = None
    with contextlib.suppress(OSError):  # Nobody may be there.
        connection.send(answer)
    ray.shutdown()


def _connect(work: Work) -> None:
    if work.address == "local":
        ray.init(
            address="local",
            num_cpus=None if work.jobs is None else work.jobs * work.threads,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **_QUIET,
        )
        return
    host, _, port = work.address.rpartition(":")
    try:
        if work.address != "auto":  # Ray itself takes minutes to find that nobody is there.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=work.address, **_QUIET)
    except (OSError, RuntimeError, RayError) as error:
        if "AuthToken" in f"{error} {error.__cause__}":
            raise GridError(
                f"the Ray cluster at {work.address} wants its token: set RAY_AUTH_MODE=token, and copy "
                f"~/.ray/auth_token from its head to here"
            ) from error
        raise GridError(
            f"cannot connect to a Ray cluster at {work.address}: {_first_line(error)}; start one with `ray start "
            f"--head`, join it on this machine with `ray start --address HOST:PORT`, and give --ray-address HOST:PORT"
        ) from error


def _train(cell: Cell, demands: Demands) -> str | None:
    """On a node: run a cell; return why it failed, or ``None``."""
    _check(demands)
    return cell.run()


def _check(demands: Demands) -> None:
    """On a node: whether it can run cells."""
    end_with(os.getppid())  # Otherwise a worker may outlive its node, and write where the next one writes.
    demands.check(f"node {ray.util.get_node_ip_address()} ({platform.node()})")


class _Cells:
    """The cells of a grid, each waiting, running or done."""

    def __init__(self, work: Work, connection: Connection) -> None:
        self._work = work
        self._connection = connection
        self._own_node = ray.get_runtime_context().get_node_id()
        self._failures: list[str | None] = [None] * len(work.cells)
        self._waiting = dict.fromkeys(range(len(work.cells)), 0.0)
        """Cells to start, and from when on."""
        self._running: dict[Any, int] = {}
        self._attempts = [0] * len(work.cells)
        """How often each was lost since it last recorded an epoch."""
        self._epochs = [records.epochs_done(cell.folder) for cell in work.cells]
        self._jobs = work.jobs or len(work.cells)
        self._cpus = work.threads
        self._gpus = self._share_of_gpu()
        self._task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(_train)
        self._no_room_since: float | None = None

    def _share_of_gpu(self) -> float:
        device = self._work.cells[0].device
        gpus = ray.cluster_resources().get("GPU", 0.0)
        if device == "cuda" and not gpus:
            raise GridError(
                f"expected GPUs in the Ray cluster at {self._work.address} for --device cuda, got none; start nodes "
                f"that have some, or leave --device out"
            )
        return share_of_gpu(0.0 if device == "cpu" else gpus, self._work.jobs)

    def check_nodes(self) -> None:
        """Raise :class:`GridError` if a node that can be reached cannot run cells: it would fail one after another."""
        check = ray.remote(max_retries=0)(_check)
        checks = {
            check.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(self._work.demands): f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            for node in ray.nodes()
            if self._has_room(node)
        }
        while checks and len(ray.wait(list(checks), num_returns=len(checks), timeout=_POLL_SECONDS)[1]):
            self._check_cluster()
        wrong = []
        for done, node in checks.items():
            try:
                ray.get(done)
            except RayTaskError as error:
                refused = isinstance(error.cause, GridError)
                wrong.append(_reason(error) if refused else f"{node} cannot run this program: {_reason(error)}")
            except RayError:
                continue  # It has died: what it has does not matter.
        if wrong:
            raise GridError("\n".join(wrong))

    def run(self) -> list[str | None]:
        """Run them all; return why each failed, or ``None``."""
        while self._waiting or self._running:
            self._start()
            done, _ = ray.wait(list(self._running), timeout=_POLL_SECONDS) if self._running else ([], None)
            for reference in done:
                self._end(reference)
            if not done:
                self._check_cluster()
                if not self._running:
                    time.sleep(_POLL_SECONDS)
        return self._failures

    def _start(self) -> None:
        now = time.monotonic()
        ready = [place for place, earliest in self._waiting.items() if earliest <= now]
        for place in ready[: self._jobs - len(self._running)]:
            del self._waiting[place]
            self._running[self._task.remote(self._work.cells[place], self._work.demands)] = place

    def _end(self, reference: Any) -> None:
        place = self._running.pop(reference)
        try:
            self._failures[place] = ray.get(reference)
        except RayError as error:
            self._lost(place, _reason(error))

    def _lost(self, place: int, reason: str) -> None:
        """A cell did not come to an end, whatever end: again, unless that was in vain too often."""
        folder = self._work.cells[place].folder
        epochs = records.epochs_done(folder)
        self._attempts[place] = self._attempts[place] + 1 if epochs <= self._epochs[place] else 1
        self._epochs[place] = epochs
        if self._attempts[place] >= _ATTEMPTS:
            self._failures[place] = (
                f"was lost {_ATTEMPTS} times without a new epoch, perhaps for lack of memory: {reason}"
            )
            return
        # Ray may go on for some seconds to give tasks to a node that has died.
        self._waiting[place] = time.monotonic() + 2.0 ** self._attempts[place]
        with contextlib.suppress(OSError):
            self._connection.send(f"{folder} was stopped after epoch {epochs}, and will go on from there: {reason}")

    def _check_cluster(self) -> None:
        if self._connection.poll():
            raise _StoppedError
        nodes = ray.nodes()
        if not any(node["Alive"] for node in nodes if node["NodeID"] == self._own_node):
            raise GridError(
                f"the Ray node of this machine has died, and with it the connection to the cluster at "
                f"{self._work.address}; what is recorded is kept: start it again, and give the same command"
            )
        now = time.monotonic()
        if any(self._has_room(node) for node in nodes):
            self._no_room_since = None
        elif self._no_room_since is None:
            self._no_room_since = now
        elif now - self._no_room_since > self._work.patience:
            raise GridError(
                f"no node of the Ray cluster at {self._work.address} has had {self._needs} for "
                f"{self._work.patience:.0f} s; what is recorded is kept: start nodes with `ray start --address "
                f"HOST:PORT`, and give the same command"
            )

    def _has_room(self, node: dict[str, Any]) -> bool:
        resources = node["Resources"]
        return bool(node["Alive"] and resources.get("CPU", 0) >= self._cpus and resources.get("GPU", 0) >= self._gpus)

    @property
    def _needs(self) -> str:
        return f"{self._cpus} CPU" + (f" and {self._gpus:g} GPU" if self._gpus else "")


def share_of_gpu(gpus: float, jobs: int | None) -> float:
    """What a cell asks for: ``jobs`` cells share the GPUs; if ``None``, each has one for itself."""
    if not gpus:
        return 0.0
    return int(1e4 / math.ceil(max(jobs or 0, gpus) / gpus)) / 1e4  # So finely does Ray divide.


def _reason(error: RayError) -> str:
    if isinstance(error, RayTaskError):
        cause = error.cause
        return str(cause) if isinstance(cause, GridError) else f"{type(cause).__name__}: {_first_line(cause)}"
    return f"{type(error).__name__}: {'. '.join(_first_line(error).split('. ')[:2])}"  # Then comes general advice.


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

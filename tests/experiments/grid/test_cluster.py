"""The grid on a Ray cluster of several nodes: nothing recorded is lost, and the bits are those of one machine."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.grid import cluster
from adversarial_dropout.experiments.grid.cluster import ray_tasks
from adversarial_dropout.experiments.grid.grid import GridError, GridWarning, run_grid
from adversarial_dropout.experiments.run import loop

from ..calling import fails
from ..runs import result, small

LONG = [small("vadd-qe", epochs=50), small("plain", epochs=50)]
SHORT = [small("plain", seed=1, epochs=2), small("pi", seed=1, epochs=2)]
CONFIGS = [*SHORT, *LONG]
DIVERGING = small("plain", seed=2, epochs=3, steps=1, learning_rate=1e30)
GIVE_UP_SECONDS = 120.0
COMMAND = (sys.executable, "-m", "adversarial_dropout.experiments")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[ExperimentConfig, dict[str, bytes]]:
    """What each run leaves when it runs here, by itself."""
    root = tmp_path_factory.mktemp("alone")
    for config in CONFIGS:
        loop.run(config, records.run_folder(root, config))
    return results(root)


def results(root: Path) -> dict[ExperimentConfig, dict[str, bytes]]:
    return {config: result(records.run_folder(root, config)) for config in CONFIGS}


def state(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def epochs(root: Path, config: ExperimentConfig) -> int:
    return records.epochs_done(records.run_folder(root, config))


def recorded(root: Path) -> int:
    """Epochs of all runs below ``root``."""
    return sum(records.epochs_done(path.parent) for path in root.rglob(records.METRICS))


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"not within {GIVE_UP_SECONDS} seconds"
        time.sleep(0.01)


def of_ray(title: bytes = b"") -> list[int]:
    """Processes of the clusters of this module, with a title that begins so."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = any(os.readlink(file).startswith(os.environ["RAY_TMPDIR"]) for file in (process / "fd").iterdir())
            if ours and (process / "cmdline").read_bytes().startswith(title):
                pids.append(int(process.name))
    return pids


class Nodes:
    """A Ray cluster on this machine: a head without a core for tasks, and two nodes of one core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": 80 << 20,
                # A node that does not answer counts as dead after two seconds instead of fifteen.
                "_system_config": {"health_check_period_ms": 400, "health_check_failure_threshold": 5},
            },
        )
        self._nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def fill(self) -> None:
        while len(self._nodes) < 2:
            self._nodes.append(self._cluster.add_node(wait=False, num_cpus=1, object_store_memory=80 << 20))

    def kill_one(self) -> None:
        """All processes of a node at once, but not those that train."""
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)

    def kill_raylets(self) -> None:
        """Of every node the one process that the others hear of."""
        for node in self._nodes:
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        for node in self._nodes:
            self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.clear()

    def kill_head(self) -> None:
        assert self._cluster.head_node is not None
        os.kill(self._cluster.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module", autouse=True)
def _no_ray_of_the_users() -> Iterator[None]:
    """The user's own cluster is not found, and nothing of the user's is written."""
    with (
        pytest.MonkeyPatch.context() as environment,
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
    ):
        environment.setenv("RAY_TMPDIR", folder)  # The names of Ray's sockets are too long for pytest's folder.
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_MODE", "disabled")  # Or Ray writes a token to the home folder.
        environment.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")
        environment.delenv("RAY_ADDRESS", raising=False)
        yield
        for process in of_ray():  # Where the head was killed, Ray leaves some for minutes.
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes_of_the_module(_no_ray_of_the_users: None) -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def nodes(nodes_of_the_module: Nodes) -> Nodes:
    nodes_of_the_module.fill()
    return nodes_of_the_module


def on_ray(nodes: Nodes, root: Path, configs: list[ExperimentConfig] = CONFIGS) -> None:
    run_grid(configs, root, backend=ray_tasks(nodes.address))


@contextlib.contextmanager
def during(action: Callable[[], None]) -> Iterator[None]:
    """Do ``action``, which waits for its moment, at the same time as what is inside."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    yield
    thread.join(GIVE_UP_SECONDS)


def test_a_node_dies(nodes: Nodes, alone: dict[ExperimentConfig, dict[str, bytes]], tmp_path: Path) -> None:
    loop.run(SHORT[0], records.run_folder(tmp_path, SHORT[0]))
    finished: dict[Path, tuple[int, bytes]] = {}

    def kill() -> None:
        until(lambda: min(epochs(tmp_path, config) for config in LONG) > 3)
        for config in SHORT:
            finished.update(state(records.run_folder(tmp_path, config)))
        nodes.kill_one()

    with (
        during(kill),
        pytest.warns(GridWarning, match=r"node [\d.]+ \(.+\) has died; its runs continue elsewhere from"),
    ):
        on_ray(nodes, tmp_path)
    assert results(tmp_path) == alone
    assert sum(path.name == records.FINAL for path in finished) == 2
    assert finished.items() <= state(tmp_path).items(), "what is finished is not repeated"
    assert not list(tmp_path.glob(".cluster-*"))


def test_all_nodes_die(
    nodes: Nodes,
    alone: dict[ExperimentConfig, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE_SECONDS", 1.0)

    def kill() -> None:
        until(lambda: min(epochs(tmp_path, config) for config in LONG) > 3)
        nodes.kill_raylets()

    with (
        during(kill),
        pytest.warns(GridWarning, match="has died; its runs continue elsewhere"),
        pytest.raises(
            GridError, match=rf"no node of the Ray cluster at {nodes.address} has had 1 CPU for 1 s; .* safe"
        ),
    ):
        on_ray(nodes, tmp_path)
    before = state(tmp_path)
    time.sleep(0.5)
    assert state(tmp_path) == before, "nobody writes any more"
    assert all(3 < epochs(tmp_path, config) < 50 for config in LONG)
    nodes.fill()
    already = recorded(tmp_path)

    def kill_a_process() -> None:
        until(lambda: recorded(tmp_path) > already and bool(of_ray(b"ray::_on_node")))
        os.kill(of_ray(b"ray::_on_node")[0], signal.SIGKILL)

    with during(kill_a_process), pytest.raises(GridError, match=r"1 of 5 runs failed(.|\n)*expected a finite loss"):
        on_ray(nodes, tmp_path, [DIVERGING, *CONFIGS])
    assert results(tmp_path) == alone


def test_nodes_that_are_other(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = records.versions()
    monkeypatch.setattr(records, "versions", lambda: {**here, "torch": "1.0"})
    monkeypatch.setattr(records, "write_bytes", lambda *_: None)
    wrong = rf"node [\d.]+ \(.+\): .* torch: 1.0 → {re.escape(here['torch'])}; no {tmp_path}/.cluster-"
    with pytest.raises(GridError, match=rf"{wrong}(.|\n)*{wrong}"):
        on_ray(nodes, tmp_path, SHORT)
    assert not list(tmp_path.rglob("*"))


def test_the_command_ends(nodes: Nodes, tmp_path: Path) -> None:
    """After Ctrl-C, or killed: nobody trains for it any more."""
    ends = {signal.SIGINT: tmp_path / "stopped", signal.SIGKILL: tmp_path / "killed"}
    with contextlib.ExitStack() as started:
        processes = {
            end: started.enter_context(
                subprocess.Popen(
                    [*COMMAND, "demo", "--out", out, "--backend", "ray", "--ray-address", nodes.address, "--jobs", "1"],
                    start_new_session=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    # Where the tests run in the background they ignore Ctrl-C, and would hand that down.
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                )
            )
            for end, out in ends.items()
        }
        until(lambda: all(recorded(out) >= 2 for out in ends.values()))
        printed = {}
        for end, process in processes.items():
            os.killpg(process.pid, end)
            printed[end], _ = process.communicate(timeout=GIVE_UP_SECONDS)
    assert processes[signal.SIGINT].returncode == 130
    assert "stopped; the same command resumes" in printed[signal.SIGINT]
    assert "Traceback" not in printed[signal.SIGINT]

    def quiet() -> bool:
        before = state(tmp_path)
        time.sleep(0.5)
        return state(tmp_path) == before

    until(quiet)
    assert not list(tmp_path.rglob(records.FINAL)), "it was in the middle"


def test_the_head_dies(nodes: Nodes, tmp_path: Path) -> None:
    """The last test that needs the cluster."""

    def kill() -> None:
        until(lambda: min(epochs(tmp_path, config) for config in LONG) > 3)
        nodes.kill_head()

    message = f"the connection to the Ray cluster at {nodes.address} was lost .*; what is recorded is safe: start"
    with during(kill), pytest.raises(GridError, match=message):
        on_ray(nodes, tmp_path, LONG)
    assert not list(tmp_path.glob(".cluster-*"))


def test_no_node_is_started_for_what_is_finished(tmp_path: Path) -> None:
    loop.run(SHORT[0], records.run_folder(tmp_path, SHORT[0]))
    before = state(tmp_path)
    run_grid(SHORT[:1], tmp_path, backend=ray_tasks("127.0.0.1:1"))
    assert state(tmp_path) == before


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ("demo", "--scale", "tiny", "--seeds", 1, "--out", tmp_path, "--backend", "ray", "--ray-address")
    code, message = fails(capsys, *command, "127.0.0.1:1")
    assert code == 1
    assert "cannot connect to a Ray cluster at 127.0.0.1:1: [Errno 111] Connection refused; start one with" in message
    assert not list(tmp_path.rglob(".cluster-*"))


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", "head:port", ":6379x"])
def test_no_address(address: str) -> None:
    with pytest.raises(InvalidValueError, match=rf'HOST:PORT, "auto" or "local", got {re.escape(repr(address))}'):
        ray_tasks(address)


def test_ray_is_not_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "adversarial_dropout.experiments.grid.cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    code, message = fails(capsys, "demo", "--scale", "tiny", "--out", tmp_path, "--backend", "ray")
    assert code == 2
    assert "--backend ray needs ray; pip install 'adversarial-dropout[ray]'" in message


@pytest.mark.parametrize("command", [("demo",), ("reproduce", "table1"), ("reproduce", "figure2")])
def test_an_address_is_for_ray(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, message = fails(capsys, *command, "--ray-address", "head:6379")
    assert code == 2
    assert "expected --ray-address only with --backend ray" in message


def test_a_node_that_is_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "end_with", lambda _: None)
    on_node = cluster._on_node._function  # type: ignore[attr-defined]
    assert on_node(records.versions(), [tmp_path], None) is None
    here = records.versions()
    message = (
        f"this command, got (command → node) python: 2.7 → {here['python']}; ray's: 3 → None; torch: 1.0 → "
        f"{here['torch']}; no {tmp_path / 'data'}: install the same versions, and give folders that all nodes share"
    )
    with pytest.raises(GridError, match=re.escape(message)):
        on_node({**here, "torch": "1.0", "python": "2.7", "ray's": "3"}, [tmp_path, tmp_path / "data"], None)


def test_versions_tell_sources_apart() -> None:
    assert re.fullmatch("[0-9a-f]{8}", records.versions()["adversarial-dropout's source"])


def test_jobs_share_gpus() -> None:
    assert [cluster.share_of_gpu(0.0, jobs) for jobs in (None, 1, 8)] == [0, 0, 0]
    assert [cluster.share_of_gpu(2.0, jobs) for jobs in (None, 1, 2, 3, 4, 8)] == [1, 1, 1, 0.5, 0.5, 0.25]
    assert 0.33 < cluster.share_of_gpu(8.0, 24) <= 1 / 3


@pytest.fixture
def with_shared_memory() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command where /dev/shm has 64 KiB and ``free`` of them are free; the other processes keep theirs."""

    def run(free: int, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = (
            f"mount -t tmpfs -o size=64k tmpfs /dev/shm && "
            f'head -c {64 - free}k /dev/zero > /dev/shm/others && echo mounted && exec "$@"'
        )
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *COMMAND, *(str(argument) for argument in arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_SECONDS, check=False)
        except FileNotFoundError:
            pytest.skip("there is no unshare command here")
        if "mounted" not in done.stdout:
            pytest.skip(f"a small /dev/shm cannot be mounted here: {done.stderr.strip()}")
        return done

    return run


def test_full_shared_memory(
    with_shared_memory: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    command = ("demo", "--scale", "tiny", "--seeds", 1, "--out", tmp_path)
    done = with_shared_memory(24, *command, "--jobs", 2)
    assert done.returncode == 1
    message = "error: expected 1024 KiB free in /dev/shm for the processes to synchronise, got 24 KiB; remove"
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(records.CONFIG))
    done = with_shared_memory(0, *command, "--backend", "ray", "--ray-address", "local", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob(records.FINAL))) == 7
    assert "rror" not in done.stderr
    assert "aylet" not in done.stderr + done.stdout

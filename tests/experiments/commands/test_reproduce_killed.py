"""A table whose grid is stopped or killed at any moment, or made by two processes at once, has the same records."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adversarial_dropout.experiments import records

from .. import small_data
from ..calling import printed_by
from ..children import Children, Command
from ..runs import result

COMMAND = ("reproduce", "table1", "--scale", "tiny", "--methods", "plain", "vadd-kl", "--seeds", "2")
RUNS = 8
MOMENTS = random.Random(6)
PROCESSES = Path("/proc")
GIVE_UP_SECONDS = 120.0
NEEDS_PROC = pytest.mark.skipif(
    not (PROCESSES / "self" / "environ").exists(), reason="what processes are left is read from /proc"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data.hub_files(tmp_path_factory.mktemp("data") / "mnist", "mnist")


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a grid that is left alone makes."""
    out = tmp_path_factory.mktemp("alone")
    printed_by(*COMMAND, "--jobs", 1, "--data", data, "--out", out)
    return results(out)


def results(out: Path) -> dict[str, dict[str, bytes]]:
    """Weights, metrics, split and config of each run, by its place."""
    return {str(path.parent.relative_to(out)): result(path.parent) for path in out.rglob(records.FINAL)}


class Grid:
    """The command with two workers, as a process group of its own."""

    def __init__(self, data: Path, out: Path) -> None:
        arguments = [*COMMAND, "--jobs", "2", "--data", str(data), "--out", str(out)]
        self._out = out
        self._process = subprocess.Popen(
            [sys.executable, "-m", "adversarial_dropout.experiments", *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GRID_OF": str(out)},
            # Where the tests run in the background they ignore Ctrl-C, and would hand that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def processes(self) -> set[int]:
        """All that it started and that is not over: they have its environment."""
        found = set()
        for folder in PROCESSES.iterdir():
            try:
                own = f"GRID_OF={self._out}\0".encode() in (folder / "environ").read_bytes()
                if own and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.add(int(folder.name))
            except OSError:
                continue
        return found

    def wait_until_it_trains(self) -> None:
        """Wait until its workers have written an epoch more than there was, and a moment longer."""
        before = self._epochs()
        until(lambda: self._epochs() > before)
        time.sleep(MOMENTS.uniform(0, 0.1))
        assert len(self.processes()) >= 3, "the command and two workers"

    def _epochs(self) -> int:
        return sum(records.epochs_done(path.parent) for path in self._out.rglob(records.METRICS))

    def ended(self) -> tuple[int, str]:
        """Its exit code and what it printed, when all of its processes are over."""
        until(lambda: not self.processes(), seconds=30)
        printed, _ = self._process.communicate(timeout=GIVE_UP_SECONDS)
        return self._process.returncode, printed

    def close(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._process.communicate(timeout=GIVE_UP_SECONDS)


def until(condition: Callable[[], bool], *, seconds: float = GIVE_UP_SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds} seconds"
        time.sleep(0.005)


@pytest.fixture
def grid(data: Path, tmp_path: Path) -> Iterator[Callable[[], Grid]]:
    """Starts the same grid again and again; none survives the test."""
    started: list[Grid] = []

    def start() -> Grid:
        started.append(Grid(data, tmp_path / "runs"))
        return started[-1]

    yield start
    for one in started:
        one.close()


@NEEDS_PROC
def test_stopped_and_killed_at_random_moments(
    grid: Callable[[], Grid], alone: dict[str, dict[str, bytes]], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"

    stopped = grid()
    stopped.wait_until_it_trains()
    os.killpg(stopped.pid, signal.SIGINT)
    code, printed = stopped.ended()
    assert code == 130, printed
    assert "stopped; the same command resumes" in printed
    assert "Traceback" not in printed

    orphaned = grid()
    orphaned.wait_until_it_trains()
    os.kill(orphaned.pid, signal.SIGKILL)
    assert orphaned.ended()[0] == -signal.SIGKILL
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    time.sleep(0.3)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == after, "nobody writes any more"

    killed = grid()
    killed.wait_until_it_trains()
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.ended()[0] == -signal.SIGKILL

    assert len(list(out.rglob(records.FINAL))) < RUNS, "each death was in the middle"
    printed_by(*COMMAND, "--jobs", 1, "--data", data, "--out", out)
    assert len(alone) == RUNS
    assert results(out) == alone
    assert not list(out.rglob("*.tmp"))


def test_two_processes_at_once(
    alone: dict[str, dict[str, bytes]], data: Path, tmp_path: Path, children: Children
) -> None:
    command = Command(arguments=[*COMMAND, "--jobs", "1", "--data", str(data), "--out", str(tmp_path)])
    ends = children.run(command, command)
    for end in ends:
        assert end.code == 0, end.output
        assert f"table: {tmp_path / 'table1-tiny'}.md" in end.output
    assert results(tmp_path) == alone
    assert not list(tmp_path.rglob("*.tmp"))
    assert any("another process works on" in end.output for end in ends), "one waits for the other"

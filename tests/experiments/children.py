"""Processes to be killed: one parent imports everything once and forks a child for each command.

Run as a script this file is that parent; :class:`Children` talks to it, one line of JSON a request.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Command:
    """One call of the command line, and the moment of its death, if it is to die."""

    arguments: Sequence[str]
    die_at: int | None = None
    """Number of the file operation (fsync or rename) before which it dies."""
    watched: str | None = None
    """Folder in which epochs are counted."""
    epochs: int = 0
    """It is killed when so many epochs are written below ``watched``,"""
    delay: float = 0.0
    """and so many seconds have gone by after that."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that it sees besides those of the tests."""


@dataclass(frozen=True)
class End:
    """How it ended: exit code (negative: the signal) and what it printed."""

    code: int
    output: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Children:
    """The parent process, as the tests see it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *commands: Command) -> list[End]:
        """Run the commands, all at the same time, until each has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([asdict(command) for command in commands]), file=self._process.stdin, flush=True)
        return [End(**end) for end in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        self._process.communicate(timeout=GIVE_UP_SECONDS)


def _serve() -> None:
    import torch

    from adversarial_dropout.experiments import cli, records

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, _stdout_to(os.devnull):
        cli.main(["train", "--scale", "tiny", "--out", folder])  # What is imported late is imported now.
    records.environment()
    for line in sys.stdin:
        print(json.dumps(_run([Command(**command) for command in json.loads(line)])), flush=True)


def _run(commands: list[Command]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(index)) for index in range(len(commands))]
        started = [_start(command, output) for command, output in zip(commands, outputs, strict=True)]
        codes: list[int | None] = [None] * len(commands)
        kill_at = [time.monotonic() + GIVE_UP_SECONDS] * len(commands)
        while None in codes:
            for index, command in enumerate(commands):
                if codes[index] is not None:
                    continue
                ended, status = os.waitpid(started[index], os.WNOHANG)
                if ended:
                    codes[index] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() >= kill_at[index]:
                    os.kill(started[index], signal.SIGKILL)
                elif command.watched and _epochs(Path(command.watched)) >= command.epochs:
                    kill_at[index] = min(kill_at[index], time.monotonic() + command.delay)
            time.sleep(0.001)
        return [
            {"code": code, "output": output.read_text() if output.exists() else ""}
            for code, output in zip(codes, outputs, strict=True)
        ]


def _start(command: Command, output: Path) -> int:
    child = os.fork()
    return child or _be_child(command, output)


def _be_child(command: Command, output: Path) -> NoReturn:
    from adversarial_dropout.experiments import cli

    code = 70
    try:
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(command.environment)
        if command.die_at is not None:
            _die_at(command.die_at)
        cli.main(command.arguments)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_at(operation: int) -> None:
    count = itertools.count(1)

    def fatal(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            if next(count) == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)

        return call

    os.fsync = fatal(os.fsync)
    os.replace = fatal(os.replace)


def _epochs(folder: Path) -> int:
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in folder.rglob("metrics.csv"))


class _stdout_to:  # noqa: N801
    """Send file descriptor 1 elsewhere: it carries the answers."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._kept = os.dup(1)
        file = os.open(self._path, os.O_WRONLY)
        os.dup2(file, 1)
        os.close(file)

    def __exit__(self, *exception: object) -> None:
        sys.stdout.flush()
        os.dup2(self._kept, 1)
        os.close(self._kept)


if __name__ == "__main__":
    _serve()

"""A full disk, a read-only folder: the cause is named, nothing is lost, and the same call resumes the run."""

import errno
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.records import RecordError
from adversarial_dropout.experiments.run import checkpoint, loop

from ..runs import interrupt, result, small, trained

CONFIG = small("vadd-qe", epochs=3)
WRITES = 11
"""Config, split, three times checkpoint and metrics, weights, metrics, final."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return trained(CONFIG, tmp_path_factory.mktemp("whole"))


def break_from(monkeypatch: pytest.MonkeyPatch, operation: str, call: int, code: int) -> None:
    """Let every call of an operation that writes fail with ``code``, from number ``call`` on."""
    owner = {"fsync": os, "open": Path, "replace": Path, "mkdir": Path}[operation]
    real = getattr(owner, operation)
    count = itertools.count()

    def broken(*arguments: Any, **options: Any) -> Any:
        writes = operation != "open" or "wb" in arguments
        if writes and next(count) >= call:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(owner, operation, broken)


def check_whole(folder: Path) -> None:
    """What is there is complete, and there are no half-written files."""
    assert not list(folder.rglob("*.tmp"))
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    state = checkpoint.load(folder)
    rows = 0 if state is None else len(state["rows"])
    assert records.epochs_done(folder) in (rows, rows - 1)


@pytest.mark.parametrize("call", range(WRITES))
def test_no_space_at_each_write(
    call: int, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        break_from(broken, "fsync", call, errno.ENOSPC)
        message = f"cannot write {tmp_path}/.*: No space left on device; free space there.*--out.*resumes from it"
        with pytest.raises(RecordError, match=message):
            loop.run(CONFIG, tmp_path)
    check_whole(tmp_path)
    # The checkpoints are writes 2, 4 and 6.
    state = checkpoint.load(tmp_path)
    assert (0 if state is None else state["epoch"]) == min(3, max(0, (call - 1) // 2))
    loop.run(CONFIG, tmp_path)
    assert result(tmp_path) == expected


def test_that_were_all_the_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_from(monkeypatch, "fsync", WRITES, errno.ENOSPC)
    loop.run(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("operation", "code", "cause"),
    [
        ("open", errno.EACCES, "Permission denied"),
        ("open", errno.EROFS, "Read-only file system"),
        ("open", errno.EDQUOT, "Disk quota exceeded"),
        ("replace", errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", [0, 2, 5])
def test_other_causes(
    operation: str,
    code: int,
    cause: str,
    call: int,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as broken:
        break_from(broken, operation, call, code)
        with pytest.raises(RecordError, match=f"cannot write {tmp_path}/.*: {cause}; .*make it writable"):
            loop.run(CONFIG, tmp_path)
    check_whole(tmp_path)
    loop.run(CONFIG, tmp_path)
    assert result(tmp_path) == expected


@pytest.mark.parametrize("call", range(6))
def test_a_checkpoint_survives_a_failed_rename(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []

    def save_all() -> None:
        for epoch in range(1, 5):
            checkpoint.save(tmp_path, {"epoch": epoch, "rows": []})
            saved.append(epoch)

    with monkeypatch.context() as broken:
        break_from(broken, "replace", call, errno.EIO)
        with pytest.raises(RecordError, match="Input/output error"):
            save_all()
    state = checkpoint.load(tmp_path)
    assert (0 if state is None else state["epoch"]) == len(saved)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_from(monkeypatch, "mkdir", 0, errno.EACCES)
    with pytest.raises(RecordError, match=f"cannot write {tmp_path / 'run'}: Permission denied"):
        loop.run(CONFIG, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_where_the_folder_should_be(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecordError, match=f"cannot write {tmp_path / 'file'}.*(Not a directory|File exists)"):
        loop.run(CONFIG, tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def unmount(self) -> None:
        if self.folder.is_mount():
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()


@pytest.mark.parametrize("kilobytes", [8, 40, 340, 500, 680, 900])
def test_a_disk_that_is_really_full(kilobytes: int, disk: Disk, expected: dict[str, bytes]) -> None:
    disk.mount(f"size={kilobytes}k")
    folder = disk.folder / "run"
    for _ in range(2):
        with pytest.raises(RecordError, match=f"cannot write {folder}.*: No space left on device"):
            loop.run(CONFIG, folder)
        check_whole(folder)
    disk.remount("size=4m")
    loop.run(CONFIG, folder)
    assert result(folder) == expected


def test_a_disk_that_is_really_read_only(disk: Disk, expected: dict[str, bytes]) -> None:
    disk.mount("size=4m")
    folder = disk.folder / "run"
    interrupt(CONFIG, folder, after=2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    disk.remount("ro")
    for where in (folder, disk.folder / "another"):
        with pytest.raises(RecordError, match=f"cannot write {where}.*: Read-only file system"):
            loop.run(CONFIG, where)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    disk.remount("rw")
    loop.run(CONFIG, folder)
    assert result(folder) == expected

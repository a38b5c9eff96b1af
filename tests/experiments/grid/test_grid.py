"""Many runs: all finish, none twice, and a failure stops no other run."""

import dataclasses
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

import joblib
import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.grid import grid
from adversarial_dropout.experiments.grid.grid import Cell, GridError, run_grid
from adversarial_dropout.experiments.run import loop

from ..runs import interrupt, result, small

CONFIGS = [small("vadd-qe", epochs=2), small("plain", epochs=2), small("plain", seed=1, epochs=2)]
DIVERGING = small("plain", seed=2, epochs=3, steps=1, learning_rate=1e30)


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.json")}


def results(configs: list[ExperimentConfig], root: Path) -> list[dict[str, bytes]]:
    return [result(records.run_folder(root, config)) for config in configs]


@pytest.fixture
def alone(tmp_path: Path) -> list[dict[str, bytes]]:
    """Results of the same runs, each by itself."""
    for config in CONFIGS:
        loop.run(config, records.run_folder(tmp_path / "alone", config))
    return results(CONFIGS, tmp_path / "alone")


def test_a_grid_is_its_runs(alone: list[dict[str, bytes]], tmp_path: Path) -> None:
    finished = run_grid(CONFIGS, tmp_path / "grid", jobs=1)
    assert [record.config for record in finished] == CONFIGS
    assert results(CONFIGS, tmp_path / "grid") == alone


def test_in_two_processes(alone: list[dict[str, bytes]], tmp_path: Path) -> None:
    told: list[tuple[float, int]] = []
    finished = run_grid(CONFIGS, tmp_path / "grid", jobs=2, progress=lambda share, done: told.append((share, done)))
    assert [record.config for record in finished] == CONFIGS
    assert results(CONFIGS, tmp_path / "grid") == alone
    assert told[-1] == (1.0, 3)


def test_a_grid_goes_on_where_it_stopped(alone: list[dict[str, bytes]], tmp_path: Path) -> None:
    folders = [records.run_folder(tmp_path / "grid", config) for config in CONFIGS]
    loop.run(CONFIGS[1], folders[1])
    interrupt(CONFIGS[0], folders[0], after=1)
    finished = times(folders[1])
    run_grid(CONFIGS, tmp_path / "grid", jobs=1)
    assert results(CONFIGS, tmp_path / "grid") == alone
    assert times(folders[1]) == finished
    everything = times(tmp_path / "grid")
    run_grid(CONFIGS, tmp_path / "grid", jobs=1)
    assert times(tmp_path / "grid") == everything


def test_what_is_finished_needs_neither_device_nor_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the command may have no GPU, where the nodes that train have one."""
    (record,) = run_grid(CONFIGS[:1], tmp_path, jobs=1)
    given: list[Cell] = []

    def elsewhere(cells: Sequence[Cell], root: Path, jobs: int | None) -> list[str | None]:
        given.extend(cells)
        return [dataclasses.replace(cell, device="cpu").run() for cell in cells]

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    records_of_both = run_grid(CONFIGS[:2], tmp_path, backend=elsewhere, device="cuda")
    assert [cell.config for cell in given] == CONFIGS[1:2]
    assert records_of_both[0].final == record.final
    run_grid(CONFIGS[:2], tmp_path, device="cuda", capture=True)
    with pytest.raises(InvalidValueError, match="expected a CUDA GPU for --device cuda"):
        run_grid(CONFIGS, tmp_path, device="cuda")


def test_the_data_of_finished_runs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_grid(CONFIGS, tmp_path, jobs=1)
    loaded: list[object] = []
    load = sources.load

    def counted(config: DataConfig, location: sources.DataLocation, *, largest: int | None = None) -> sources.ImageData:
        loaded.append(config)
        return load(config, location, largest=largest)

    monkeypatch.setattr(sources, "load", counted)
    (tmp_path / "images").mkdir()
    run_grid(CONFIGS, tmp_path, jobs=1)
    assert not loaded
    run_grid(CONFIGS, tmp_path, location=sources.DataLocation(tmp_path / "images"))
    assert len(loaded) == 1


def test_more_processes_than_runs(tmp_path: Path) -> None:
    (record,) = run_grid(CONFIGS[1:2], tmp_path, jobs=8)
    assert record.config == CONFIGS[1]


@pytest.mark.parametrize("index", [0, 2])
def test_a_cell_that_fails_stops_no_other(index: int, tmp_path: Path) -> None:
    configs = [*CONFIGS[:index], DIVERGING, *CONFIGS[index:]]
    broken = records.run_folder(tmp_path, DIVERGING)
    told: list[tuple[float, int]] = []
    message = (
        f"1 of 4 runs failed; the others are finished, and the same command resumes.*\n"
        f"{re.escape(str(broken))}: expected a finite loss.*lower --training.learning-rate"
    )
    with pytest.raises(GridError, match=message):
        run_grid(configs, tmp_path, jobs=1, progress=lambda share, done: told.append((share, done)))
    assert [records.is_finished(records.run_folder(tmp_path, config)) for config in configs] == [
        config is not DIVERGING for config in configs
    ]
    assert told[-1][1] == 3
    assert told[-1][0] < 1
    unchanged = {path: time for path, time in times(tmp_path).items() if broken not in path.parents}
    with pytest.raises(GridError, match="1 of 4 runs failed"):
        run_grid(configs, tmp_path, jobs=1)
    assert unchanged.items() <= times(tmp_path).items()


def test_all_failures_are_named(tmp_path: Path) -> None:
    other = small("vadd-qe", seed=3, epochs=2)
    interrupt(other, records.run_folder(tmp_path, other), after=1)
    changed = dataclasses.replace(other, training=dataclasses.replace(other.training, epochs=3))
    with pytest.raises(GridError, match="2 of 2 runs failed") as caught:
        run_grid([DIVERGING, changed], tmp_path, jobs=1)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].startswith(f"{records.run_folder(tmp_path, DIVERGING)}: expected a finite loss")
    assert "training.epochs: 2 → 3" in lines[1]


def test_progress_rises_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_POLL_SECONDS", 0.005)
    told: list[tuple[float, int]] = []
    configs = [small("vadd-qe", epochs=4), small("plain", epochs=4)]
    run_grid(configs, tmp_path, jobs=1, progress=lambda share, done: told.append((share, done)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    assert told[-1] == (1.0, 2)
    # VAdD costs the most of it, so with it done the share is above the half.
    between = [share for share, done in told if done == 1]
    assert between
    assert min(between) > 0.5
    told.clear()
    run_grid(configs, tmp_path, jobs=1, progress=lambda share, done: told.append((share, done)))
    assert told[-1] == (1.0, 2)


def test_progress_is_told_by_epochs_not_by_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_POLL_SECONDS", 0.005)
    told: list[float] = []
    run_grid([small("vadd-qe", epochs=8)], tmp_path, jobs=1, progress=lambda share, done: told.append(share))
    assert any(0 < share < 1 for share in told)
    assert all(share * 8 == int(share * 8) for share in told)


def test_processes_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(joblib.Parallel, "__call__", full)
    message = "cannot start processes: .*No space left on device; free memory and /dev/shm, or .*--jobs 1"
    with pytest.raises(GridError, match=message):
        run_grid(CONFIGS, tmp_path, jobs=2)
    run_grid(CONFIGS[1:2], tmp_path, jobs=1)

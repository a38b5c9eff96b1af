"""Runs that are killed at any moment and started again end with the same bits."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adversarial_dropout.experiments import cli, records
from adversarial_dropout.experiments.run import loop

from ..children import Children, Command
from ..runs import arguments, result, small, trained

METHODS = ("plain", "vadd-qe+vat")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_until_done(method: str, seed: int, tmp_path: Path, children: Children) -> None:
    config = small(method, epochs=10)
    expected = trained(config, tmp_path / "uninterrupted")
    out = tmp_path / "killed"
    folder = records.run_folder(out, config)
    moments = random.Random(seed)
    reached = []
    for _ in range(4):
        done = records.epochs_done(folder)
        if done >= 8:
            break
        command = Command(
            arguments=arguments(config, out),
            watched=str(out),
            epochs=done + moments.choice([0, 1, 2]),
            delay=moments.uniform(0, 0.05),
        )
        (end,) = children.run(command)
        assert end.killed, end.output
        reached.append(records.epochs_done(folder))
    assert any(0 < epochs < 10 for epochs in reached), f"no death in the middle of training: {reached}"
    (end,) = children.run(Command(arguments=arguments(config, out)))
    assert end.code == 0, end.output
    assert result(folder) == expected


def test_killed_before_each_file_operation(tmp_path: Path, children: Children) -> None:
    config = small("vadd-qe", epochs=2, steps=1)
    expected = trained(config, tmp_path / "uninterrupted")
    deaths = 0
    while True:
        out = tmp_path / f"killed-{deaths}"
        (end,) = children.run(Command(arguments=arguments(config, out), die_at=deaths + 1))
        if not end.killed:
            break
        deaths += 1
        loop.run(config, records.run_folder(out, config))
        assert result(records.run_folder(out, config)) == expected, f"after death before operation {deaths}"
    assert end.code == 0, end.output
    # Eight writes, each a flush and a rename, and one rename of the first checkpoint.
    assert deaths >= 17


def test_killed_again_and_again_in_the_same_folder(tmp_path: Path, children: Children) -> None:
    config = small("plain", epochs=3, steps=1)
    expected = trained(config, tmp_path / "uninterrupted")
    moments = random.Random(3)
    out = tmp_path / "killed"
    for _ in range(12):
        (end,) = children.run(Command(arguments=arguments(config, out), die_at=moments.randint(1, 12)))
        if not end.killed:
            break
    loop.run(config, records.run_folder(out, config))
    assert result(records.run_folder(out, config)) == expected


def test_the_command_itself_killed_and_started_again(tmp_path: Path) -> None:
    config = small("vadd-qe+vat", epochs=16, steps=2)
    out = tmp_path / "killed"
    folder = records.run_folder(out, config)
    command = [sys.executable, "-m", "adversarial_dropout.experiments.cli", *arguments(config, out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        give_up = time.monotonic() + 60
        while records.epochs_done(folder) < 3 and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.002)
        process.kill()
        _, printed = process.communicate()
    assert process.returncode == -9, printed
    assert 3 <= records.epochs_done(folder) < 16
    cli.main(arguments(config, out))
    assert result(folder) == trained(config, tmp_path / "uninterrupted")


def test_two_processes_on_one_folder(tmp_path: Path, children: Children) -> None:
    config = small("vadd-qe", epochs=5)
    out = tmp_path / "shared"
    command = Command(arguments=arguments(config, out))
    ends = children.run(command, command)
    assert [end.code for end in ends] == [0, 0], ends
    folder = records.run_folder(out, config)
    assert result(folder) == trained(config, tmp_path / "alone")
    assert not list(folder.glob("*.tmp"))


def test_the_second_process_takes_over_when_the_first_is_killed(tmp_path: Path, children: Children) -> None:
    config = small("vadd-qe", epochs=10)
    out = tmp_path / "shared"
    command = Command(arguments=arguments(config, out))
    mortal = Command(arguments=arguments(config, out), watched=str(out), epochs=2)
    first, second = children.run(mortal, command)
    assert second.code == 0, second.output
    assert first.killed, first.output
    assert result(records.run_folder(out, config)) == trained(config, tmp_path / "alone")


def test_a_killed_grid_started_again_gives_the_same_records(tmp_path: Path, children: Children) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    command = ["demo", "--scale", "tiny", "--seeds", "1", "--jobs", "1", "--out"]
    for epochs in (1, 4, 9):
        mortal = Command(arguments=[*command, str(killed)], watched=str(killed), epochs=epochs, delay=0.02)
        (end,) = children.run(mortal)
        assert end.killed, end.output
    for out in (uninterrupted, killed):
        (end,) = children.run(Command(arguments=[*command, str(out)]))
        assert end.code == 0, end.output
    expected = {path.relative_to(uninterrupted): path for path in uninterrupted.rglob("seed-0")}
    assert len(expected) == 7
    assert {path.relative_to(killed) for path in killed.rglob("seed-0")} == expected.keys()
    for name, folder in expected.items():
        assert result(killed / name) == result(folder), name

"""The real ``torchrun`` with two gloo processes: equal weights, right gradients, a joined batch, a rank that fails."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from adversarial_dropout.experiments import records

from ..ranks import CERTAIN, NOISY, NUMBER, RUNS, digest, train_without_noise
from ..runs import arguments, result

GIVE_UP_SECONDS = 150
RANKS = ("-m", "experiments.ranks")


def torchrun(*command: str, gpus: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUMBER), *command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", **({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=GIVE_UP_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two ranks have filled."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(*RANKS, "check", str(folder))
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def reports(together: Path) -> list[dict[str, Any]]:
    return [json.loads((together / f"rank-{rank}.json").read_text()) for rank in range(NUMBER)]


def test_gradients_are_the_mean_of_the_shares(reports: list[dict[str, Any]]) -> None:
    for rank in reports:
        assert len(rank["gradients"]) == 33, "8 methods on 4 networks, and the autoencoder"
        assert max(rank["gradients"].values()) < 1e-5, rank["gradients"]


def test_mean_only_normalisation_is_that_of_the_joined_batch(reports: list[dict[str, Any]]) -> None:
    for rank in reports:
        assert len(rank["mean-only"]) == 4
        assert max(rank["mean-only"].values()) < 1e-5, rank["mean-only"]


@pytest.mark.parametrize("method", CERTAIN)
def test_without_noise_two_processes_are_one_with_the_joined_batch(method: str, together: Path, tmp_path: Path) -> None:
    train_without_noise(method, tmp_path)
    ours, alone = together / "without-noise" / method, tmp_path
    for name in (records.CONFIG, records.SPLIT):
        assert (ours / name).read_bytes() == (alone / name).read_bytes()
    weights, expected = (safetensors.torch.load_file(folder / records.WEIGHTS) for folder in (ours, alone))
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)
    rows, expected_rows = (
        list(csv.DictReader((folder / records.METRICS).read_text().splitlines())) for folder in (ours, alone)
    )
    assert len(rows) == len(expected_rows) == 2
    for row, other in zip(rows, expected_rows, strict=True):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            {name: float(value) for name, value in other.items()}, rel=1e-5
        )


@pytest.mark.parametrize("preset", [preset for preset, _ in RUNS])
def test_after_every_step_the_weights_are_the_same(preset: str, together: Path, reports: list[dict[str, Any]]) -> None:
    first, second = (rank["steps"][preset] for rank in reports)
    assert len(set(first["weights"])) == 6
    assert first["weights"] == second["weights"]
    assert not set(first["images"]) & set(second["images"]), "each sees its own share"
    assert not set(first["random"]) & set(second["random"]), "each has its own noise"
    saved = safetensors.torch.load_file(together / preset / records.WEIGHTS)
    assert {name: digest(saved[name]) for name in first["buffers"]} == first["buffers"], "rank 0's are saved"
    moving = {name for name in first["buffers"] if "running" in name}
    differ = {name for name in moving if first["buffers"][name] != second["buffers"][name]}
    assert differ == (moving if "svhn" in preset else set()), "BatchNorm is each rank's own on CPU, mean-only is not"
    assert records.read_record(together / preset).final["environment"]["processes"] == NUMBER


def test_ranks_that_differ_are_refused(reports: list[dict[str, Any]]) -> None:
    for rank in reports:
        assert re.search(
            r"same command on all ranks; rank 1 on .* \(rank 0 → rank 1\): seed: 3 → 4", rank["other config"]
        )
        assert re.search(r"same images.*sha256 of the data: digest 0 → digest 1", rank["other data"])


def test_a_rank_that_raises(tmp_path: Path) -> None:
    started = time.monotonic()
    done = torchrun(*RANKS, "raise", *arguments(NOISY, tmp_path))
    assert time.monotonic() - started < 60
    assert done.returncode == 1
    cause = done.stdout[done.stdout.index("Root Cause") :]
    assert re.search(r"rank +: 1 ", cause)
    assert "OSError: the disk of rank 1 is gone" in cause
    assert records.epochs_done(records.run_folder(tmp_path, NOISY)) == 1


def test_a_rank_that_is_killed_and_the_command_given_again(together: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    done = torchrun(*RANKS, "kill", *arguments(NOISY, tmp_path))
    assert time.monotonic() - started < 60
    assert done.returncode == 1
    assert re.search(r"Signal 9 \(SIGKILL\) received", done.stdout)
    folder = records.run_folder(tmp_path, NOISY)
    assert records.epochs_done(folder) == 1

    done = torchrun("-m", "adversarial_dropout.experiments", *arguments(NOISY, tmp_path))
    assert done.returncode == 0, done.stdout
    assert len(re.findall("test error", done.stdout)) == 1, "rank 0 alone reports"
    assert result(folder) == result(together / NOISY.preset)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < NUMBER, reason="needs two CUDA GPUs")
def test_on_two_gpus(tmp_path: Path) -> None:
    done = torchrun(
        *("-m", "adversarial_dropout.experiments", *arguments(NOISY, tmp_path), "--device", "cuda"), gpus=True
    )
    assert done.returncode == 0, done.stdout
    assert records.read_record(records.run_folder(tmp_path, NOISY)).final["environment"]["processes"] == NUMBER

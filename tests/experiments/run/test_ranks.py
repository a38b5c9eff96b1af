"""Ranks that train one run together: killed and restarted, stopped by one another, or refused.

They are forked with the variables that torchrun sets, and without its eye on them: they have to end by themselves.
"""

import dataclasses
import json
import shutil
import socket
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig, Precision, TrainingConfig
from adversarial_dropout.experiments.grid import grid
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.records import Metrics
from adversarial_dropout.experiments.run import checkpoint, devices, loop
from adversarial_dropout.experiments.run import run as under_way
from adversarial_dropout.experiments.run.ranks import Ranks, launched, noise_seed, rank
from adversarial_dropout.experiments.run.step import Objective

from .. import small_data
from ..children import Children, Command, End
from ..runs import StoppedError, arguments, result, small, trained


def ranks(command: list[str], number: int = 2, **first: Any) -> list[Command]:
    """The commands of ``number`` ranks; ``first`` says how rank 0 dies."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        Command(
            arguments=command,
            environment={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(number),
                "LOCAL_WORLD_SIZE": str(number),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
            **(first if rank == 0 else {}),
        )
        for rank in range(number)
    ]


def finished(ends: list[End]) -> bool:
    return all(end.code == 0 for end in ends)


def test_killed_and_started_again(tmp_path: Path, children: Children) -> None:
    config = small("vadd-qe+vat", epochs=6)
    whole, killed = (records.run_folder(tmp_path / name, config) for name in ("whole", "killed"))
    ends = children.run(*ranks(arguments(config, tmp_path / "whole")))
    assert finished(ends), ends
    command = arguments(config, tmp_path / "killed")
    first, second = children.run(*ranks(command, watched=str(killed), epochs=2))
    assert first.killed, first.output
    assert second.code == 1, second.output
    assert "error: rank 1: stopped, because another rank did" in second.output
    assert 2 <= records.epochs_done(killed) < 6

    (alone,) = children.run(Command(arguments=command))
    assert alone.code == 2
    assert "was begun with 2 processes, got 1" in alone.output

    ends = children.run(*ranks(command))
    assert finished(ends), ends
    assert result(killed) == result(whole)
    record = records.read_record(killed)
    assert record.final["environment"]["processes"] == 2
    assert record.config == config
    assert result(whole)[records.METRICS] != trained(config, tmp_path / "one")[records.METRICS], "noise of their own"
    assert not list(killed.glob("*.tmp"))


def test_a_finished_run_is_not_repeated(tmp_path: Path, children: Children) -> None:
    config = small("plain", epochs=1)
    folder = records.run_folder(tmp_path, config)
    expected = trained(config, folder)
    first, second = children.run(*ranks(arguments(config, tmp_path)))
    assert finished([first, second])
    assert "(trained before)" in first.output
    assert second.output == "", "rank 0 alone reports"
    assert result(folder) == expected


def test_the_data_of_a_finished_run_are_gone(tmp_path: Path, children: Children) -> None:
    photos = tmp_path / "photos"
    small_data.image_folder(photos)
    command = ["train", "images", "plain", "--scale", "tiny", "--data", str(photos), "--out", str(tmp_path / "runs")]
    assert finished(children.run(Command(arguments=command)))
    shutil.rmtree(photos)
    first, second = children.run(*ranks(command))
    assert (first.code, second.code) == (2, 1)
    assert f"error: rank 0: expected a folder of images or parquet files, got {photos}" in first.output
    assert "error: rank 1: stopped, because rank 0 did: " in second.output


def test_rank_0_alone_writes(tmp_path: Path, children: Children) -> None:
    config = small("plain", epochs=1)
    first, second = ranks(arguments(config, tmp_path / "first"))
    elsewhere = dataclasses.replace(second, arguments=arguments(config, tmp_path / "second"))
    ends = children.run(first, elsewhere)
    assert finished(ends), ends
    assert records.is_finished(records.run_folder(tmp_path / "first", config))
    assert not (tmp_path / "second").exists(), "another machine need not see the folder"


def test_a_run_begun_by_one_process_stays_with_one(tmp_path: Path, children: Children) -> None:
    config = small("plain", epochs=8)
    folder = records.run_folder(tmp_path, config)
    children.run(Command(arguments=arguments(config, tmp_path), watched=str(folder), epochs=1))
    first, second = children.run(*ranks(arguments(config, tmp_path)))
    assert (first.code, second.code) == (2, 1)
    assert "error: rank 0: " in first.output
    assert "was begun with 1 processes, got 2" in first.output
    assert "error: rank 1: stopped, because rank 0 did: " in second.output


def test_a_loss_that_diverges(tmp_path: Path, children: Children) -> None:
    config = small("plain", epochs=3, steps=1, learning_rate=1e30)
    for end in children.run(*ranks(arguments(config, tmp_path))):
        assert end.code in (1, 2)
        assert "expected a finite loss" in end.output or "stopped, because another rank did" in end.output
    state = checkpoint.load(records.run_folder(tmp_path, config))
    assert state is not None
    assert state["epoch"] == 1


@pytest.mark.parametrize("command", [["demo", "--scale", "tiny"], ["reproduce", "table1"], ["presets"]])
def test_what_is_for_one_process(command: list[str], children: Children) -> None:
    for number, end in enumerate(children.run(*ranks(command))):
        assert end.code == 2
        assert f"error: rank {number}: expected one process for {command[0]}, got 2" in end.output
        assert "without torchrun" in end.output


def test_a_batch_without_equal_shares(tmp_path: Path, children: Children) -> None:
    for end in children.run(*ranks(arguments(small(), tmp_path), number=3)):
        assert end.code == 2
        assert "training.batch_labelled to be a multiple of the number of processes" in end.output
        assert "got 32 examples for 3; give --training.batch-labelled 30" in end.output
    assert not list(tmp_path.iterdir())


def test_processes_that_nothing_launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidValueError, match=r"expected RANK, LOCAL_RANK.* beside WORLD_SIZE=2.*unset WORLD_SIZE"):
        loop.run(small(), tmp_path)


def test_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks("cpu", "float32")
    ranks.count = 2
    here = {"torch": "2.13.0", "python": "3.11.8", **small().to_dict()}
    there = {**here, "torch": "2.12.1"}
    monkeypatch.setattr(ranks, "gathered", lambda value: [("here", here), ("there", there)])
    message = r"rank 1 on there differs from rank 0 on here \(rank 0 → rank 1\): torch: 2.13.0 → 2.12.1$"
    with pytest.raises(InvalidValueError, match=message):
        ranks.check(small())


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        InvalidValueError, match=r"one process for each of the 2 GPUs of .*, got 4; give torchrun --nproc-per-node 2"
    ):
        devices.check_device("auto", 4)
    devices.check_device("cpu", 4)
    devices.check_device("auto", 2)


def test_synchronised_batch_norm_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks("cuda", "float32")
    ranks.count = 2
    monkeypatch.setattr(Ranks, "device", torch.device("cuda"))
    config = ConvLarge(width=8, norm_logits=True)
    plain = config.build((3, 12, 12), 5)
    synchronised = ranks.synchronised(config.build((3, 12, 12), 5))
    norms = [module for module in synchronised.modules() if "BatchNorm" in type(module).__name__]
    assert {type(module) for module in norms} == {torch.nn.SyncBatchNorm}
    assert len(norms) == 10
    plain.load_state_dict(synchronised.state_dict())
    x = torch.rand(4, 3, 12, 12)
    assert torch.equal(plain.eval()(x), synchronised.eval()(x))


def test_seeds_of_noise() -> None:
    seeds = [[noise_seed(seed, rank) for rank in range(512)] for seed in range(64)]
    assert [row[0] for row in seeds] == list(range(64)), "rank 0 has the seed of the run"
    # A CPU generator takes the lower 32 bits alone.
    assert len({seed % 2**32 for row in seeds for seed in row}) == 64 * 512
    assert noise_seed(2**63 - 1, 3) < 2**63


@pytest.mark.parametrize(
    ("cuda", "why"), [(None, "is built without CUDA; install"), ("12.8", "is built for CUDA 12.8, but sees no driver")]
)
def test_cuda_that_is_not_there(cuda: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(InvalidValueError, match=rf"expected a CUDA GPU for --device cuda, got none: .* {why}.*cpu$"):
        loop.run(small(), tmp_path / "run", device="cuda")
    assert not list(tmp_path.iterdir())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_run_on_the_gpu_goes_on(precision: Precision, tmp_path: Path) -> None:
    config = with_precision(small("vadd-qe+vat", epochs=3), precision)

    def stop(epochs: int, row: Metrics) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        loop.run(config, tmp_path, stop, device="cuda")
    record = loop.run(config, tmp_path, device="cuda")
    assert record.final["environment"]["gpu"]
    assert len(record.metrics) == 3


def test_a_device_is_known() -> None:
    with pytest.raises(InvalidValueError, match=r"expected device to be one of auto, cpu, cuda, got 'cud'; did you me"):
        devices.check_device("cud")  # type: ignore[arg-type]


def with_precision(config: ExperimentConfig, precision: Precision) -> ExperimentConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=precision))


def test_on_the_cpu_as_by_itself(tmp_path: Path) -> None:
    config = small("vadd-qe")
    expected = trained(config, tmp_path / "auto")
    loop.run(config, tmp_path / "cpu", device="cpu")
    assert result(tmp_path / "cpu") == expected


@pytest.mark.parametrize("method", ["vadd-qe", "sadd", "pi"])
def test_precision_is_that_of_every_pass(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # VAT's power iteration and AT's gradient are in float32 always.
    learning: set[tuple[torch.dtype, str]] = set()
    measuring: set[torch.dtype] = set()

    def note(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        if module.training:
            learning.add((output.dtype, torch.get_float32_matmul_precision()))
        else:
            measuring.add(output.dtype)

    def watched(*arguments: Any, **options: Any) -> torch.nn.Module:
        objective = Objective(*arguments, **options)
        for module in objective.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(note)
        return objective

    monkeypatch.setattr(under_way, "Objective", watched)
    before = torch.get_float32_matmul_precision()
    cases: list[tuple[Precision, torch.dtype, str]] = [
        ("float32", torch.float32, before),
        ("bf16", torch.bfloat16, before),
        ("tf32", torch.float32, "high"),
        ("float32", torch.float32, before),
    ]
    for number, (precision, dtype, products) in enumerate(cases):
        loop.run(with_precision(small(method, epochs=1), precision), tmp_path / str(number))
        assert learning == {(dtype, products)}
        assert measuring == {torch.float32}
        assert torch.get_float32_matmul_precision() == before
        learning.clear()
    assert result(tmp_path / "3") == result(tmp_path / "0"), "nothing of the others is left"


def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=6, steps=10)
    full = loop.run(config, tmp_path / "float32")
    half = loop.run(with_precision(config, "bf16"), tmp_path / "bf16")
    assert full.error < 40
    assert half.error == pytest.approx(full.error, abs=5)
    assert half.error != full.error
    assert half.metrics[-1]["ce"] == pytest.approx(full.metrics[-1]["ce"], rel=0.1)
    weights = safetensors.torch.load_file(tmp_path / "bf16" / records.WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_precision_has_a_choice_and_is_new(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"training.precision to be one of float32, tf32, bf16, got 'fp16'"):
        TrainingConfig(precision="fp16")  # type: ignore[arg-type]
    config = small(epochs=1)
    loop.run(config, tmp_path)
    recorded = json.loads((tmp_path / records.CONFIG).read_text())
    del recorded["training"]["precision"]
    (tmp_path / records.CONFIG).write_text(json.dumps(recorded))
    assert records.read_record(tmp_path).config == config, "a record from before there was a choice"
    loop.run(config, tmp_path)


@pytest.mark.parametrize("size", ["", "many"])
def test_a_world_size_that_is_no_number_is_one_process(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    assert (launched(), rank()) == (1, 0)


def test_recording_without_a_gpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="expected a CUDA GPU for --capture"):
        loop.run(small(), tmp_path / "run", capture=True)
    with pytest.raises(InvalidValueError, match="expected a CUDA GPU for --capture"):
        grid.run_grid([small()], tmp_path / "grid", jobs=2, capture=True)
    assert not list(tmp_path.rglob("*"))


def test_recording_needs_one_process_and_a_recent_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with monkeypatch.context() as several:
        several.setenv("WORLD_SIZE", "2")
        with pytest.raises(InvalidValueError, match="one process for --capture, got 2"):
            loop.run(small(), tmp_path / "run", capture=True)
    devices.check_device("cuda", capture=True)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1"))
    devices.check_device("cuda")
    with pytest.raises(InvalidValueError, match=r"expected PyTorch 2\.10 or later for --capture, got 2\.9\.1"):
        devices.check_device("cuda", capture=True)
    assert not list(tmp_path.iterdir())


def test_a_record_says_the_device(tmp_path: Path) -> None:
    environment = loop.run(small(), tmp_path / "run", device="cpu").final["environment"]
    assert environment["device"] == "cpu"
    assert "processes" not in environment


def test_precisions_are_put_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for precision, matmul, convolutions in (("float32", "highest", False), ("tf32", "high", True)):
        with devices.products(precision):  # type: ignore[arg-type]
            assert torch.get_float32_matmul_precision() == matmul
            assert torch.backends.cudnn.allow_tf32 is convolutions
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before

"""The scripts that measure on a GPU, run small on a CPU: nothing of them is tried for the first time there."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cells
import cuda_seeds
import gpu
import gpu_summary
import pytest
import torch

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.run.captured import CapturedStep
from adversarial_dropout.experiments.run.step import Objective, eager_step

CPU = torch.device("cpu")


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        device=CPU, out=tmp_path, steps=2, steps_a_round=1, rounds=1, location=None, until=time.time() + 600
    )


def test_tests_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_small(n): assert n < 3\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
    )
    found = gpu.test(path)
    assert {name: found[name] for name in ("passed", "failed", "skipped")} == {"passed": 3, "failed": 1, "skipped": 1}
    assert any("test_small[3]" in line for line in found["said"])
    with pytest.raises(RuntimeError, match=r"expected tests to run, got .*no tests ran"):
        gpu.test(tmp_path / "test_none.py")


@pytest.mark.parametrize("preset", gpu.NETWORKS)
@pytest.mark.parametrize("method", ["plain", "vadd-kl+vat"])
def test_a_step_in_every_variant(preset: str, method: str, arguments: argparse.Namespace) -> None:
    entry = gpu.step_times(preset, method, gpu.VARIANTS, arguments)
    assert entry["milliseconds"].keys() == {variant.name for variant in gpu.VARIANTS}
    assert all(low > 0 for low, _, _ in entry["milliseconds"].values())
    assert entry["MiB"].keys() == entry["milliseconds"].keys()
    assert all(peak > 0 for peak in entry["MiB"].values())


def test_flop_are_those_that_follow_from_the_sizes() -> None:
    """A forward pass, and a backward pass of twice as much, except in x in the first layer."""
    config = cells.config_of("paper/mnist-all", "plain", CPU)
    batch = config.training.batch_labelled
    forward = [28 * 28 * 32 * 9, 14 * 14 * 64 * 32 * 9, 7 * 7 * 128 * 64 * 9, 2048 * 625, 625 * 10]
    assert cells.flop("paper/mnist-all", "plain", CPU) == 2 * batch * (3 * sum(forward) - forward[0])


def test_parts_are_kept_and_gone_on_with(arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def get(name: str) -> dict[str, str]:
        called.append(name)
        if name == "bad":
            raise RuntimeError("it broke")
        return {"got": name}

    items: list[gpu.Item] = [(name, lambda name=name: get(name)) for name in ("a", "bad", "b")]  # type: ignore[misc]
    monkeypatch.setitem(gpu.PARTS, "cells", lambda _: items[:2])
    assert gpu.run_part("cells", arguments)
    monkeypatch.setitem(gpu.PARTS, "cells", lambda _: items)
    arguments.until = 0.0
    assert not gpu.run_part("cells", arguments), "no time is left"
    arguments.until = time.time() + 600
    assert gpu.run_part("cells", arguments)
    assert called == ["a", "bad", "b"]
    content = json.loads((arguments.out / "cells.json").read_text())
    assert content["small"] is True
    assert content["entries"] == {"a": {"got": "a"}, "bad": {"failed": "RuntimeError: it broke"}, "b": {"got": "b"}}


def test_a_cell_and_an_error(arguments: argparse.Namespace) -> None:
    found = gpu.cell_time("paper/mnist-1000", "vadd-qe", arguments)
    assert found["steps"] == 2
    assert found["seconds a step"] > 0
    assert 0 <= gpu.error_after("vadd-kl", "bf16", 0, arguments) <= 100
    assert len(gpu.cell_items(arguments)) == 2 * len(presets.find("paper/mnist-1000").methods)


def test_every_part_has_items(arguments: argparse.Namespace) -> None:
    assert gpu.PARTS.keys() == {"tests", "search", "steps", "cells", "seeds", "errors"}
    assert len(gpu.error_items(arguments)) == 6
    names = [name for name, _ in gpu.step_items(arguments)]
    assert len(set(names)) == len(names) == 3 + 4 * 9
    assert cells.rate("bf16", CPU) > 0


def test_streams_and_batched_weights() -> None:
    config = cells.config_of(cuda_seeds.PRESET, "plain", CPU)
    assert len(cuda_seeds.streams(config, 2, 1, 2, CPU)) == 2
    assert len(cuda_seeds.batched(config, 2, 1, 2, CPU)) == 2


def test_batched_weights_train_as_each_network_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    config = cells.config_of(cuda_seeds.PRESET, "plain", CPU)
    batch = cells.made_batch(config, CPU, needs_unlabelled=False)
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(config.model.build((1, 28, 28), 10).double())
    double = gpu_double(batch)
    together = cuda_seeds.Stacked(networks)
    for module in together.skeleton[0].modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    step = CapturedStep(together, torch.optim.Adam(together.parameters()))
    alone = [eager_step(Objective(network.eval(), {}), torch.optim.Adam(network.parameters())) for network in networks]
    for _ in range(5):
        losses = step(double, 1.0)["ce"]
        assert losses.tolist() == pytest.approx([float(own(double, 1.0)["ce"]) for own in alone], rel=1e-9)


def gpu_double(batch: Any) -> Any:
    return type(batch)(batch.images.double(), batch.labels)


def test_ratios_are_to_one_seed_in_one_process() -> None:
    def entry(way: str, seeds: int, speed: float) -> dict[str, Any]:
        return {"way": way, "method": "plain", "seeds": seeds, "steps_a_second": [speed, speed, speed]}

    failed = {"way": "streams", "method": "plain", "seeds": 8, "failed": "CaptureError: no"}
    found = cuda_seeds.with_ratios(
        [entry("processes", 1, 10.0), entry("processes", 4, 30.0), entry("streams", 1, 12.0), failed]
    )
    assert [one.get("ratio") for one in found] == [1.0, 3.0, 1.2, None]


def test_processes() -> None:
    config = cells.config_of(cuda_seeds.PRESET, "vadd-kl", CPU)
    speeds = cuda_seeds.processes(config, 2, 1, 2, CPU)
    assert len(speeds) == 2
    assert min(speeds) > 0


def test_the_command_goes_on_with_its_record(tmp_path: Path) -> None:
    record = tmp_path / "seeds.json"
    options = ["--device", "cpu", "--steps", "1", "--rounds", "2", "--processes", "0", "--streams", "1"]
    command = [sys.executable, "-W", "error", str(cuda_seeds.__file__), "--record", str(record), *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    entries = json.loads(record.read_text())["entries"]
    assert [(entry["way"], entry["method"]) for entry in entries] == [
        ("streams", "plain"),
        ("streams", "vadd-kl"),
        ("batched", "plain"),
    ]
    assert [entry["ratio"] == 1 for entry in entries[:2]] == [True, True]
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert not again.stdout, "what is there is not measured again"


def test_a_process_that_fails_is_told() -> None:
    config = cells.config_of(cuda_seeds.PRESET, "plain", CPU)
    with pytest.raises(RuntimeError, match=r"a process of 1 failed: .*Error"):
        cuda_seeds.processes(config, 1, 1, 1, torch.device("meta"))


def test_summary(tmp_path: Path) -> None:
    def write(name: str, entries: object) -> None:
        (tmp_path / name).write_text(json.dumps({"entries": entries}))

    write("cells.json", {"paper/mnist-all plain": {"seconds a step": 0.001}, "paper/mnist-1000 sadd": {"failed": "no"}})
    seeds = [
        {"way": way, "method": method, "seeds": number, "ratio": ratio}
        for way, method, number, ratio in (
            ("processes", "plain", 4, 3.0),
            ("processes", "vadd-kl", 4, 2.0),
            ("streams", "plain", 8, 4.0),
            ("streams", "vadd-kl", 8, 2.5),
            ("batched", "plain", 8, 9.0),
        )
    ]
    write("seeds.json", seeds)
    variants = {"captured, bf16": [1.0, 2.0, 3.0], "eager, float32": [4.0, 4.0, 4.0]}
    write(
        "steps.json",
        {"rate bf16": 1e12, "rate float32": 1e11, "paper/svhn-1000 vadd-kl": {"flop": 1e9, "milliseconds": variants}},
    )
    gpu_summary.write(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())
    hours = 8 * 100 * 468 * 0.001 / 3600
    assert found["table 1"]["hours, one run after the other"]["all methods"] == pytest.approx(hours)
    assert found["table 1"]["side by side"] == {"way": "streams", "seeds": 8, "ratio": 2.5}
    assert found["table 1"]["hours, side by side"]["all methods"] == pytest.approx(hours / 2.5)
    shares = found["share of the rate"]["paper/svhn-1000 vadd-kl"]
    assert shares == {"captured, bf16": pytest.approx(0.5), "eager, float32": pytest.approx(2.5)}


def test_no_gpu_is_an_error_that_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for module in (gpu, cuda_seeds):
        ran = subprocess.run([sys.executable, str(module.__file__)], capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert (
            "argument --device: expected a CUDA GPU, found none; give --device cpu for a small trial run" in ran.stderr
        )

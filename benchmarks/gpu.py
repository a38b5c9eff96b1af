"""Measure everything that needs a GPU, in one command that can be stopped and resumed.

    python benchmarks/gpu.py --out runs/gpu [--minutes 9] [--device cuda] [--data FOLDER]

Nothing new starts after --minutes; the same command resumes where it stopped. --out has a file for each part:

- tests.json: how many tests of tests/test_cuda.py pass, fail and are skipped;
- search.json: benchmarks/mask_search.py;
- steps.json: a step of every method on the networks of Tables 3 and 4 at the paper's batch size, in turn: as single
  operations and as one CUDA graph, in float32, TF32 and bfloat16, channels-last or not, and compiled; its FLOP, and
  the rate of this GPU's matrix products;
- cells.json: each cell of Table 1 over --steps training steps, with the making of batches;
- seeds.json: benchmarks/cuda_seeds.py;
- errors.json: the test error over seeds in float32, TF32 and bfloat16, with the presets' reduced schedule;
- summary.json: the time of Table 1 at full scale, and the share of the bfloat16 rate that conv-large reaches.

Images are generated unless --data has MNIST. On a CPU everything is small, and --steps 2 --rounds 1 takes a minute:
this tests the script and measures nothing.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import gpu_summary
import torch
from cells import Runner, Variant, columns_and_methods, config_of, data_of, device_of, flop, rate
from measuring import interleaved, peak_bytes, quartiles, synchronize

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import Precision
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.captured import WARM_UP
from adversarial_dropout.experiments.run.optimizers import ramp_down, ramp_up
from adversarial_dropout.experiments.trained.evaluation import error

HERE = Path(__file__).resolve().parent
NETWORKS = ("paper/mnist-1000", "paper/mnist-all", "paper/svhn-1000", "paper/cifar10-4000")
VARIANTS = (
    Variant(captured=False),
    Variant(),
    Variant(precision="tf32"),
    Variant(precision="bf16"),
    Variant(precision="bf16", channels_last=False),
)
COMPILED = Variant(precision="bf16", compiled=True)
COMPILED_METHODS = ("plain", "vadd-kl")
ERROR_METHODS = ("plain", "vadd-kl")
ERROR_SEEDS = 5


class Results:
    """The entries of one part; each is written to its file as soon as it is measured."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.small = device.type != "cuda"
        self.entries: dict[str, Any] = json.loads(path.read_text())["entries"] if path.exists() else {}

    def put(self, name: str, entry: object) -> None:
        self.entries[name] = entry
        print(f"{self.path.stem}: {name}: {entry}", flush=True)
        records.write_measured(self.path, {"small": self.small, "entries": self.entries})


Item = tuple[str, Callable[[], object]]
"""Name, and the function that measures it."""


def test_items(arguments: argparse.Namespace) -> list[Item]:
    return [("test_cuda.py", partial(test, HERE.parent / "tests" / "test_cuda.py"))]


def test(path: Path) -> dict[str, Any]:
    """How many tests of a file pass, fail and are skipped.

    Raises:
        RuntimeError: no test could run, for example because pytest is not installed.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    ran = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    said = ran.stdout.splitlines()[-20:]
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", said[-1] if said else "")
    if not counts:
        raise RuntimeError(f"expected tests to run, got {' '.join(said) or ran.stderr}; install pytest")
    result: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0}
    return {**result, **{what: int(count) for count, what in counts}, "said": said}


def script(name: str, record: Path, *options: str) -> dict[str, Any]:
    """Run another benchmark, which writes ``record`` itself."""
    command = [sys.executable, str(HERE / name), "--record", str(record), *options]
    ran = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    return {"record": record.name, "holds": ran.returncode == 0, "said": ran.stderr.splitlines()[-5:]}


def search_items(arguments: argparse.Namespace) -> list[Item]:
    if arguments.device.type != "cuda":
        return []
    return [
        ("mask_search.py", partial(script, "mask_search.py", arguments.out / "mask-search.json", "--device", "cuda"))
    ]


def step_items(arguments: argparse.Namespace) -> list[Item]:
    device = arguments.device
    rates = [(f"rate {name}", partial(rate, name, device)) for name in get_args(Precision)]
    steps = [
        (f"{preset} {method}", partial(step_times, preset, method, VARIANTS, arguments))
        for preset in NETWORKS
        for method in presets.find(preset).methods
    ]
    compiled = [
        (f"{preset} {method} compiled", partial(step_times, preset, method, (VARIANTS[3], COMPILED), arguments))
        for preset in NETWORKS
        for method in COMPILED_METHODS
    ]
    return [*rates, *steps, *(compiled if device.type == "cuda" else [])]


def step_times(
    preset: str, method: str, variants: tuple[Variant, ...], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Milliseconds, FLOP and peak memory of a step in each variant; within a round the variants take turns."""
    device = arguments.device
    runners: dict[str, Runner] = {}

    def start(variant: Variant) -> None:
        runners[variant.name] = runner = Runner(config_of(preset, method, device), variant, device)
        for _ in range(WARM_UP + 2):
            runner()

    peaks = {variant.name: peak_bytes(partial(start, variant), device) / 2**20 for variant in variants}
    times = interleaved(runners, device, warm_up=0, rounds=arguments.rounds, calls=arguments.steps_a_round)
    return {
        "flop": flop(preset, method, device),
        "milliseconds": {name: quartiles([1000 * value for value in values]) for name, values in times.items()},
        "MiB": peaks,
    }


def cell_items(arguments: argparse.Namespace) -> list[Item]:
    return [
        (f"{preset} {method}", partial(cell_time, preset, method, arguments))
        for preset, method in columns_and_methods("table1")
    ]


def cell_time(preset: str, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean seconds of a training step over many steps, with the making of its batch."""
    device = arguments.device
    config = config_of(preset, method, device)
    runner, data = Runner(config, Variant(precision="tf32"), device), data_of(config, device, arguments.location)
    split, pixels = make_split(data, config.data, 0), Pixels(config.data, data.brightest)
    order = torch.Generator().manual_seed(0)
    needs = runner.objective.needs_unlabelled
    steps, warm, start = 0, WARM_UP + 2, 0.0
    while steps < arguments.steps + warm:
        for batch in batches(data, pixels, split, config.training, order, needs_unlabelled=needs):
            if steps == warm:
                synchronize(device)
                start = time.perf_counter()
            runner(batch)
            steps += 1
            if steps == arguments.steps + warm:
                break
    synchronize(device)
    return {"steps": steps - warm, "seconds a step": (time.perf_counter() - start) / (steps - warm)}


def error_items(arguments: argparse.Namespace) -> list[Item]:
    return [
        (f"paper/mnist-1000 {method} {precision} seed {seed}", partial(error_after, method, precision, seed, arguments))
        for seed in range(ERROR_SEEDS if arguments.device.type == "cuda" else 1)
        for method in ERROR_METHODS
        for precision in ("float32", "tf32", "bf16")
    ]


def error_after(method: str, precision: Any, seed: int, arguments: argparse.Namespace) -> float:
    """Test error in percent after the preset's reduced schedule."""
    device = arguments.device
    config = config_of("paper/mnist-1000", method, device, scale="quick", seed=seed)
    training = config.training
    if device.type != "cuda":
        training = dataclasses.replace(training, epochs=2, steps_per_epoch=arguments.steps)
    runner, data = Runner(config, Variant(precision=precision), device), data_of(config, device, arguments.location)
    split, pixels = make_split(data, config.data, seed), Pixels(config.data, data.brightest)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(training.epochs):
        rising = ramp_up(epoch, training.ramp_up)
        falling = ramp_down(epoch, training.ramp_down, training.epochs)
        (group,) = runner.optimizer.param_groups
        group["lr"] = training.learning_rate * falling * rising
        group["betas"] = (training.beta1 * falling + training.last_beta1 * (1 - falling), group["betas"][1])
        for batch in batches(data, pixels, split, training, order, needs_unlabelled=runner.objective.needs_unlabelled):
            runner(batch, rising)
    return error(runner.model, pixels, data, split.evaluation)


PARTS: dict[str, Callable[[argparse.Namespace], list[Item]]] = {
    "tests": test_items,
    "search": search_items,
    "steps": step_items,
    "cells": cell_items,
    "seeds": lambda arguments: [],  # A script that writes its own record.
    "errors": error_items,
}


def run_part(name: str, arguments: argparse.Namespace) -> bool:
    """Measure the missing entries of a part; return whether it is complete."""
    if name == "seeds":
        if time.time() > arguments.until:
            return False
        left = max(0.0, (arguments.until - time.time()) / 60)
        small = [] if arguments.device.type == "cuda" else ["--processes", "2", "--streams", "2", "--steps", "2"]
        options = ["--device", str(arguments.device), "--rounds", str(min(arguments.rounds, 5)), "--minutes", str(left)]
        said = script("cuda_seeds.py", arguments.out / "seeds.json", *options, *small)
        print(said, flush=True)
        return bool(time.time() < arguments.until)
    results = Results(arguments.out / f"{name}.json", arguments.device)
    for item, get in PARTS[name](arguments):
        if item in results.entries:
            continue
        if time.time() > arguments.until:
            return False
        try:
            results.put(item, get())
        except Exception as failure:  # The other entries can still be measured.
            results.put(item, {"failed": f"{type(failure).__name__}: {failure}"[:2000]})
            if arguments.device.type == "cuda":  # A failure may leave the GPU in any state.
                command = [*sys.argv, *([] if "--until" in sys.argv else ["--until", str(arguments.until)])]
                os.execv(sys.executable, [sys.executable, *command])
        if arguments.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--device", type=device_of, default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing new starts")
    parser.add_argument("--until", type=float, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=2000, help="measured steps of a cell of Table 1")
    parser.add_argument("--rounds", type=int, default=10, help="rounds in which the variants of a step take turns")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, help="folder with MNIST in parquet files; otherwise images are generated")
    arguments = parser.parse_args()
    arguments.location = None if arguments.data is None else DataLocation(arguments.data)
    arguments.steps_a_round = min(arguments.steps, 10)
    if arguments.until is None:
        arguments.until = time.time() + 60 * arguments.minutes
    torch.set_num_threads(1)
    finished = all(run_part(part, arguments) for part in arguments.parts)
    if arguments.device.type == "cuda":
        gpu_summary.write(arguments.out)
    print("finished" if finished else "not finished: the same command resumes", flush=True)


if __name__ == "__main__":
    main()

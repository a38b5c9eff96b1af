"""Measure end to end how long an epoch takes, which share of it is outside the steps, and how much memory it needs.

    python benchmarks/epochs.py --data FOLDER [--record results/epochs.json]

These are real runs in a temporary folder, each in its own process with one thread, with timers around the functions
that the loop calls. The first epoch is a warm-up. An epoch has as many steps as in the preset (a few for CIFAR-10)
and ends with the usual evaluation. Run it on an idle machine.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from measuring import peak_of_process

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.run import checkpoint, loop
from adversarial_dropout.experiments.run import run as under_way
from adversarial_dropout.experiments.run.run import choose_step
from adversarial_dropout.experiments.trained.evaluation import error

EPOCHS = 4
RUNS = {
    ("paper/mnist-1000", "plain"): None,
    ("paper/mnist-1000", "vadd-kl"): None,
    ("paper/mnist-all", "plain"): None,
    ("paper/mnist-all", "vadd-kl"): None,
    ("paper/cifar10-4000", "vadd-kl"): 4,
}
"""Preset and method, and the steps of an epoch; ``None``: those of the preset."""
PARTS = ("batches", "steps", "evaluation", "records")


def config_of(preset: str, method: str, steps: int | None) -> ExperimentConfig:
    config = presets.get(preset, method, "paper")
    training = dataclasses.replace(
        config.training, epochs=EPOCHS, steps_per_epoch=steps or config.training.steps_per_epoch
    )
    data = config.data if steps is None else dataclasses.replace(config.data, evaluated=100)
    return dataclasses.replace(config, training=training, data=data)


def measure(config: ExperimentConfig, location: sources.DataLocation) -> dict[str, Any]:
    """Seconds of each part of an epoch, the median over the epochs after the first."""
    clock: dict[str, float] = defaultdict(float)
    epochs: list[dict[str, float]] = []

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                clock[part] += time.perf_counter() - start

        return run

    def timed_step(*arguments: Any, **named: Any) -> Any:
        return timed("steps", choose_step(*arguments, **named))

    def ended(epoch: int, _: object) -> None:
        epochs.append({**clock, "batches": clock["epoch"] - clock["steps"]})
        clock.clear()

    with ExitStack() as stack:
        for target, name, replacement in (
            (under_way, "choose_step", timed_step),
            (under_way.Run, "_means", timed("epoch", under_way.Run._means)),
            (under_way, "error", timed("evaluation", error)),
            (checkpoint, "save", timed("records", checkpoint.save)),
            (records, "write_metrics", timed("records", records.write_metrics)),
        ):
            stack.enter_context(mock.patch.object(target, name, replacement))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        loop.run(config, Path(folder) / "run", ended, location)
    seconds = {part: statistics.median(epoch[part] for epoch in epochs[1:]) for part in PARTS}
    whole = sum(seconds.values())
    return {
        "seconds": {**seconds, "epoch": whole},
        "outside_steps": 1 - seconds["steps"] / whole,
        "outside_steps_and_evaluation": (seconds["batches"] + seconds["records"]) / (whole - seconds["evaluation"]),
        "peak_gib": peak_of_process() / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST and CIFAR-10 in parquet files")
    parser.add_argument("--record", type=Path, default=Path("results/epochs.json"))
    arguments = parser.parse_args()
    location = sources.DataLocation(arguments.data)
    runs = {}
    for (preset, method), steps in RUNS.items():
        config = config_of(preset, method, steps)
        sources.load(config.data, location)  # Decoded before the process that is measured.
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            runs[f"{preset} {method}"] = process.submit(measure, config, location).result()
        print(preset, method, runs[f"{preset} {method}"], flush=True)
    content = {"epochs": EPOCHS - 1, "steps": {" ".join(run): steps for run, steps in RUNS.items()}, "runs": runs}
    records.write_measured(arguments.record, content)


if __name__ == "__main__":
    main()

"""Measure the throughput of two processes over that of one, on the same work: steps of one joined batch.

    python benchmarks/processes.py [--record results/processes.json]

Two processes stay alive, one thread each. In every round rank 0 first makes some steps on the joined batch by itself,
while rank 1 sleeps; then both make as many on half of it each, with DistributedDataParallel over gloo. The clock is
that of rank 0, from one meeting of the two to the next. The figure is the median ratio within a round over 25 rounds,
after 5 of warm-up, with its quartiles. Table 3 network, batches and terms of paper/mnist-1000. Run it on an idle
machine with two cores or more.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adversarial_dropout.experiments import models, presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.training.objective import Batch, build_objective
from adversarial_dropout.experiments.training.step import Step, eager_step

WARM_UP, ROUNDS, STEPS, PROCESSES = 5, 25, 2, 2
PRESET, SHAPE, CLASSES = "paper/mnist-1000", (1, 28, 28), 10
METHODS = ("plain", "vadd-qe", "vat")


def joined_batch(labelled: int, unlabelled: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    return Batch(
        torch.rand(labelled, *SHAPE, generator=draw),
        torch.randint(CLASSES, (labelled,), generator=draw),
        torch.rand(unlabelled, *SHAPE, generator=draw),
    )


def half(batch: Batch, rank: int) -> Batch:
    assert batch.unlabelled is not None
    images, labels, unlabelled = (
        part.chunk(PROCESSES)[rank] for part in (batch.images, batch.labels, batch.unlabelled)
    )
    return Batch(images, labels, unlabelled)


def step_of(config: ExperimentConfig, *, together: bool) -> Step:
    torch.manual_seed(0)
    model = models.build(config.model, SHAPE, CLASSES)
    objective: nn.Module = build_objective(model, config.terms)
    if together:
        objective = DistributedDataParallel(objective)
    return eager_step(objective, torch.optim.Adam(model.parameters()))


def measure(method: str, rank: int, rounds: int, barrier: Barrier) -> list[tuple[float, float]]:
    """Seconds of rank 0 by itself and of both, round by round."""
    config = presets.get(PRESET, method, "paper")
    batch = joined_batch(config.training.batch_labelled, config.training.batch_unlabelled)
    kinds = (
        (step_of(config, together=False), batch, rank == 0),
        (step_of(config, together=True), half(batch, rank), True),
    )
    found = []
    for _ in range(WARM_UP + rounds):
        seconds = []
        for step, seen, works in kinds:
            barrier.wait()
            start = time.perf_counter()
            for _ in range(STEPS if works else 0):
                step(seen, 1.0)
            barrier.wait()
            seconds.append(time.perf_counter() - start)
        found.append((seconds[0], seconds[1]))
    return found[WARM_UP:]


def work(rank: int, rounds: int, record: Path, store: str, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=PROCESSES)
    try:
        apart = {method: measure(method, rank, rounds, barrier) for method in METHODS}
    except BaseException:
        barrier.abort()  # Or the other would wait for ever.
        raise
    if rank == 0:
        write(apart, rounds, record)
    torch.distributed.destroy_process_group()


def write(apart: dict[str, list[tuple[float, float]]], rounds: int, record: Path) -> None:
    ratios = {
        method: statistics.quantiles([alone / together for alone, together in seconds], n=4)
        for method, seconds in apart.items()
    }
    training = presets.get(PRESET, METHODS[0], "paper").training
    content = {
        "what": "throughput of two processes over that of one on the same work: lower quartile, median, upper quartile",
        "model": "mnist-cnn",
        "batch_labelled": training.batch_labelled,
        "batch_unlabelled": training.batch_unlabelled,
        "rounds": rounds,
        "seconds_of_a_step_alone": {
            method: statistics.median(alone for alone, _ in seconds) / STEPS for method, seconds in apart.items()
        },
        "ratios": ratios,
        "environment": records.environment(),
    }
    records.write_json(record, content)
    for method, (low, median, high) in ratios.items():
        print(f"{method:12} {median:.2f}  [{low:.2f}, {high:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path("results/processes.json"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=work, args=(rank, arguments.rounds, arguments.record, f"{folder}/store", barrier))
            for rank in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

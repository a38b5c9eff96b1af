"""Measure the throughput of two processes relative to one, on the same joined batch.

    python benchmarks/processes.py [--record results/processes.json]

Two processes stay alive, with one thread each. In each round rank 0 first makes some steps on the joined batch while
rank 1 sleeps; then both make as many on half of it, with DistributedDataParallel over gloo. Rank 0 takes the time
between two barriers. The result is the median ratio within a round over 25 rounds after 5 of warm-up, with quartiles.
Networks, batches and terms are those of the presets. The parts that two processes do not share, Adam's update and the
exchange of gradients, are measured separately. Run it on an idle machine with at least two cores.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
import torch.distributed
from measuring import WARM_UP, interleaved, option_parser, ratio
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.run.step import Batch, Objective, Step, eager_step

STEPS, PROCESSES = 2, 2
SHAPES, CLASSES = {"mnist-cnn": (1, 28, 28), "conv-large": (3, 32, 32)}, 10
CASES = (
    ("paper/mnist-1000", "plain"),
    ("paper/mnist-1000", "vadd-qe"),
    ("paper/mnist-1000", "vat"),
    ("paper/mnist-all", "plain"),
    ("paper/mnist-all", "vadd-qe"),
    ("paper/svhn-1000", "plain"),
)


def joined_batch(training: TrainingConfig, shape: tuple[int, int, int]) -> Batch:
    draw = torch.Generator().manual_seed(0)
    labelled, unlabelled = training.batch_labelled, training.batch_unlabelled
    return Batch(
        torch.rand(labelled, *shape, generator=draw),
        torch.randint(CLASSES, (labelled,), generator=draw),
        torch.rand(unlabelled, *shape, generator=draw) if unlabelled else None,
    )


def half(batch: Batch, rank: int) -> Batch:
    def part(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(PROCESSES)[rank]

    return Batch(part(batch.images), part(batch.labels), None if batch.unlabelled is None else part(batch.unlabelled))


def step_of(config: ExperimentConfig, *, together: bool) -> Step:
    torch.manual_seed(0)
    model = config.model.build(SHAPES[config.model.name], CLASSES)
    objective: nn.Module = Objective(model, config.terms)
    if together:
        objective = DistributedDataParallel(objective)
    return eager_step(objective, torch.optim.Adam(model.parameters()))


def measure(preset: str, method: str, rank: int, rounds: int, barrier: Barrier) -> list[tuple[float, float]]:
    """Seconds of a step of rank 0 alone and of both ranks, for each round."""
    config = presets.get(preset, method, "paper")
    batch = joined_batch(config.training, SHAPES[config.model.name])
    kinds = (
        (step_of(config, together=False), batch, rank == 0),
        (step_of(config, together=True), half(batch, rank), True),
    )
    times = []
    for _ in range(WARM_UP + rounds):
        seconds = []
        for step, seen, works in kinds:
            barrier.wait()
            start = time.perf_counter()
            for _ in range(STEPS if works else 0):
                step(seen, 1.0)
            barrier.wait()
            seconds.append((time.perf_counter() - start) / STEPS)
        times.append((seconds[0], seconds[1]))
    return times[WARM_UP:]


def fixed(rounds: int) -> dict[str, float]:
    """Seconds of the parts that are not shared: the update and the exchange."""
    model = presets.get(CASES[0][0], "plain", "paper").model.build(SHAPES["mnist-cnn"], CLASSES)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam, gradients = torch.optim.Adam(model.parameters()), torch.zeros(sum(p.numel() for p in model.parameters()))
    parts: dict[str, Callable[[], object]] = {
        "update": adam.step,
        "exchange": lambda: torch.distributed.all_reduce(gradients),
    }
    took = interleaved(parts, torch.device("cpu"), warm_up=WARM_UP, rounds=rounds)
    return {name: statistics.median(times) for name, times in took.items()}


def work(rank: int, rounds: int, record: Path, store: str, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=PROCESSES)
    try:
        cases = {}
        for preset, method in CASES:
            apart = measure(preset, method, rank, rounds, barrier)
            alone, together = ([times[kind] for times in apart] for kind in (0, 1))
            cases[f"{preset} {method}"] = {
                "seconds": {"one": statistics.median(alone), "two": statistics.median(together)},
                "ratio": ratio(alone, together),
            }
            if rank == 0:
                print(preset, method, cases[f"{preset} {method}"], flush=True)
        parts = fixed(rounds)
    except BaseException:
        barrier.abort()  # Or the other process would wait forever.
        raise
    if rank == 0:
        print(parts)
        content = {
            "what": "throughput of two processes over that of one on the same work: lower quartile, median, upper",
            "rounds": rounds,
            "cases": cases,
            "seconds_of_fixed_parts": parts,
        }
        records.write_measured(record, content)
    torch.distributed.destroy_process_group()


def main() -> None:
    arguments = option_parser(__doc__, "processes.json").parse_args()
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

"""Measure how many seeds to train at once on one GPU, and how: as processes, streams or batched weights.

    python benchmarks/cuda_seeds.py [--record results/cuda-seeds.json] [--device cuda]

The network is that of Table 3 with the paper's batch of 128. Every step is one CUDA graph on tensors that are already
on the GPU. The result is the median over rounds of the steps per second of all seeds together, and its ratio to one
seed.

- processes: each trains one seed, as `reproduce --jobs N` does.
- streams: one process has a graph for each seed and replays each on its own stream. PyTorch before 2.12 stores the
  random state of a generator only once for all graphs, so graphs that run at the same time may share their noise.
  This does not affect the time.
- batched: the weights of all seeds are in one tensor each, by `torch.func.vmap`, which makes convolutions grouped;
  for plain training only.

An existing record is continued. On a CPU everything is small and a graph is an ordinary step: this tests the script
and measures nothing.
"""

import argparse
import contextlib
import copy
import json
import queue
import threading
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from cells import Runner, Variant, config_of, device_of, made_batch
from measuring import quartiles, seconds, synchronize
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.run.captured import WARM_UP, CapturedStep
from adversarial_dropout.experiments.run.step import Batch

PRESET = "paper/mnist-all"
METHODS = ("plain", "vadd-kl")
NUMBERS = (1, 2, 4, 8, 16)
PATIENCE = 120.0
"""Seconds that the slowest process may take to start, and for each round."""


class Stacked(nn.Module):
    """Plain training of several networks as one objective: their parameters stacked, their losses summed.

    The adversarial dropout layer is replaced by an ordinary one, which costs the same in plain training.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        for network in networks:
            upper = network.upper
            assert isinstance(upper, nn.Sequential)
            assert isinstance(upper[0], AdversarialDropout)
            upper[0] = nn.Dropout(upper[0].p)
        parameters, buffers = stack_module_state(list(networks))
        assert not buffers
        self.names = list(parameters)
        self.stacked = nn.ParameterList(nn.Parameter(value.detach()) for value in parameters.values())
        self.skeleton = [copy.deepcopy(networks[0]).to("meta")]  # In a list, so that its parameters are not registered.

    def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        def loss_of(parameters: dict[str, Tensor]) -> Tensor:
            logits = functional_call(self.skeleton[0], parameters, (batch.images,))
            return F.cross_entropy(logits, batch.labels)

        parameters = dict(zip(self.names, self.stacked, strict=True))
        losses = vmap(loss_of, randomness="different")(parameters)
        return losses.sum(), {"ce": losses.detach()}


def batched(config: ExperimentConfig, seeds: int, steps: int, rounds: int, device: torch.device) -> list[float]:
    """Steps a second of ``seeds`` plain networks with batched weights, in each round."""
    networks = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        networks.append(config.model.build((1, 28, 28), 10).to(device))
    objective = Stacked(networks)
    step = CapturedStep(objective, torch.optim.Adam(objective.parameters()))
    batch = made_batch(config, device, needs_unlabelled=False)
    for _ in range(WARM_UP + 2):
        step(batch, 1.0)
    return [seeds / seconds(lambda: step(batch, 1.0), device, steps) for _ in range(rounds)]


def streams(config: ExperimentConfig, seeds: int, steps: int, rounds: int, device: torch.device) -> list[float]:
    """Steps a second of ``seeds`` networks in this process, each on its own stream, in each round."""
    runners = [Runner(config, Variant(), device) for _ in range(seeds)]
    cuda_streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in runners]  # type: ignore[no-untyped-call]

    def in_turn() -> None:
        for runner, stream in zip(runners, cuda_streams, strict=True):
            with contextlib.nullcontext() if stream is None else torch.cuda.stream(stream):
                runner()

    for _ in range(WARM_UP + 2):
        in_turn()
        synchronize(device)  # No other graph may run while one is recorded.
    return [seeds / seconds(in_turn, device, steps) for _ in range(rounds)]


def processes(config: ExperimentConfig, seeds: int, steps: int, rounds: int, device: torch.device) -> list[float]:
    """Steps a second of ``seeds`` processes, each with one network, in each round.

    Raises:
        RuntimeError: one of them failed.
    """
    context = torch.multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(seeds + 1), context.Queue()
    children = [
        context.Process(target=_process, args=(config, steps, rounds, device, barrier, results), daemon=True)
        for _ in range(seeds)
    ]
    for child in children:
        child.start()
    speeds = []
    try:
        for _ in range(rounds):
            barrier.wait(PATIENCE)
            start = time.perf_counter()
            barrier.wait(PATIENCE)
            speeds.append(seeds * steps / (time.perf_counter() - start))
    except threading.BrokenBarrierError:
        try:
            why = results.get(timeout=1)
        except queue.Empty:
            why = f"none was ready within {PATIENCE:.0f} s"
        raise RuntimeError(f"a process of {seeds} failed: {why}") from None
    finally:
        for child in children:
            child.join(10)
            if child.is_alive():
                child.terminate()
    return speeds


def _process(
    config: ExperimentConfig, steps: int, rounds: int, device: torch.device, barrier: Barrier, results: "Queue[str]"
) -> None:
    torch.set_num_threads(1)
    try:
        runner = Runner(config, Variant(), device)
        for _ in range(WARM_UP + 2):
            runner()
        for _ in range(rounds):
            synchronize(device)
            barrier.wait(PATIENCE)
            for _ in range(steps):
                runner()
            synchronize(device)
            barrier.wait(PATIENCE)
    except Exception as error:  # The parent process raises it.
        results.put(f"{type(error).__name__}: {error}")
        barrier.abort()


WAYS = {"processes": processes, "streams": streams, "batched": batched}


def measure(way: str, method: str, seeds: int, steps: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """One entry of the record, or why it could not be measured."""
    entry: dict[str, Any] = {"way": way, "method": method, "seeds": seeds}
    try:
        speeds = WAYS[way](config_of(PRESET, method, device), seeds, steps, rounds, device)
    except RuntimeError as error:
        return {**entry, "failed": f"{type(error).__name__}: {error}"}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {**entry, "steps_a_second": quartiles(speeds)}


def with_ratios(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, each with its ratio to one seed in one process."""
    alone = {
        entry["method"]: entry["steps_a_second"][1]
        for entry in reversed(entries)
        if entry["seeds"] == 1 and "steps_a_second" in entry and entry["way"] != "batched"
    }
    return [
        {**entry, "ratio": entry["steps_a_second"][1] / alone[entry["method"]]}
        if "steps_a_second" in entry and entry["method"] in alone
        else entry
        for entry in entries
    ]


def plan(most_processes: int, most_streams: int) -> list[tuple[str, str, int]]:
    """What is measured: way, method, number of seeds."""
    most = {"processes": most_processes, "streams": most_streams, "batched": most_streams}
    return [
        (way, method, seeds)
        for way in WAYS
        for method in (METHODS if way != "batched" else ("plain",))
        for seeds in NUMBERS
        if seeds <= most[way]
    ]


def content(entries: list[dict[str, Any]], steps: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """The record."""
    return {
        "what": "steps a second of all seeds together (lower quartile, median, upper quartile), ratio to one seed",
        "preset": PRESET,
        "device": str(device),
        "small": device.type != "cuda",
        "steps": steps,
        "rounds": rounds,
        "entries": with_ratios(entries),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=Path("results/cuda-seeds.json"))
    parser.add_argument("--device", type=device_of, default="cuda")
    parser.add_argument("--steps", type=int, default=300, help="steps of each seed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=16, help="most processes")
    parser.add_argument("--streams", type=int, default=8, help="most streams, and most networks with batched weights")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which nothing new starts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * arguments.minutes
    entries = []
    if arguments.record.exists():
        entries = json.loads(arguments.record.read_text())["entries"]
    done = {(entry["way"], entry["method"], entry["seeds"]) for entry in entries}
    for way, method, seeds in plan(arguments.processes, arguments.streams):
        if (way, method, seeds) in done:
            continue
        if time.monotonic() > end:
            print("not finished: the same command resumes", flush=True)
            break
        entries.append(measure(way, method, seeds, arguments.steps, arguments.rounds, arguments.device))
        print(entries[-1], flush=True)
        record = content(entries, arguments.steps, arguments.rounds, arguments.device)
        records.write_measured(arguments.record, record)


if __name__ == "__main__":
    main()

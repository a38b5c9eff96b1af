"""Shared code of the benchmarks: rounds in turn, quartiles, peak memory, counted FLOP, the rate of the machine."""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WARM_UP, ROUNDS = 5, 25


def option_parser(description: str | None, record: str) -> argparse.ArgumentParser:
    """The options that benchmarks share: the JSON file to write, and the number of rounds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=Path("results") / record, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser


def synchronize(device: torch.device) -> None:
    """Wait for pending work on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Mean seconds of a call, with its work on a GPU, which may overlap with the preparation of the next call."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    warm_up: int = WARM_UP,
    rounds: int = ROUNDS,
    calls: int = 1,
) -> dict[str, list[float]]:
    """Mean seconds of a call of each run in each round after the warm-up; within a round the runs take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            took = seconds(run, device, calls)
            if turn >= warm_up:
                times[name].append(took)
    return times


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile, interpolated between the values; of a single value, that value."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3


def ratio(above: list[float], below: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile of the ratio within a round."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)])


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak of the memory that PyTorch allocates in ``run``, above what was allocated before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()  # Garbage that is freed during the run would count as negative.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def peak_of_process() -> int:
    """Peak memory of this process in bytes. (``getrusage`` would include that of its parent.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOP. (`FlopCounterMode` also follows modules, with hooks that some searches refuse.)"""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def flop(run: Callable[[], object]) -> int:
    """FLOP of the convolutions and matrix products of ``run``, a multiplication and an addition counted as two."""
    with _Counter() as counter:
        run()
    return int(counter.total)


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048, rounds: int = 9) -> float:
    """FLOP per second of the machine's fastest product of two square matrices, the median of ``rounds``.

    On a CPU in float32 this tries both libraries of PyTorch: MKL, and oneDNN, which computes the convolutions.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    products: dict[str, Callable[[], object]] = {"matmul": lambda: a @ b}
    if device.type == "cpu" and dtype == torch.float32:
        stored = a.to_mkldnn()
        products["onednn"] = lambda: torch.nn.functional.linear(stored, b)
    with torch.no_grad():
        took = interleaved(products, device, warm_up=2, rounds=rounds)
    return float(2 * size**3 / min(statistics.median(times) for times in took.values()))

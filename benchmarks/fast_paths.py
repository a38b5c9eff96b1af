"""Measure what each fast path of a CPU step gains, and what paths would gain that are not used.

    python benchmarks/fast_paths.py [--record results/fast-paths.json]

The two ways of each pair take turns in one process with one thread, for 25 rounds after 5 of warm-up. The result is
the median ratio of fast to plain within a round, with quartiles. Steps use the network of Table 3 on 128 images,
without a term unless stated. The tests check that the paths in use compute the same as the plain way. Run it on an
idle machine.
"""

import concurrent.futures
import contextlib
import ctypes
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import WARM_UP, interleaved, option_parser, ratio, seconds
from torch import nn

from adversarial_dropout import sample_mask
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.models.noise import Dropout
from adversarial_dropout.experiments.run.step import Batch, Objective, eager_step
from adversarial_dropout.experiments.terms import Term, Vadd, by_kind

CPU = torch.device("cpu")
EXAMPLES, UNITS = 128, 2048
Run = Callable[[], object]
_step: Run
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def network() -> CutNetwork:
    torch.manual_seed(0)
    model = presets.get("paper/mnist-1000", "vadd-kl", "paper").model.build((1, 28, 28), 10)
    return model.train()


def step_of(
    model: nn.Module, *, terms: tuple[Term, ...] = (), fused: bool | None = None, compiled: bool = False
) -> Run:
    batch = Batch(torch.rand(EXAMPLES, 1, 28, 28), torch.randint(10, (EXAMPLES,)))
    if compiled:  # An objective runs the two parts, not the model.
        for part in (model.under, model.upper):
            assert isinstance(part, nn.Module)
            part.compile()
    objective = Objective(model, by_kind(*terms)).train()
    step = eager_step(objective, torch.optim.Adam(objective.parameters(), lr=1e-5, fused=fused))
    return lambda: step(batch, 1.0)


def contiguous(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def pooled_last(model: CutNetwork) -> nn.Module:
    """The same network with each ReLU before its pooling, as Table 3 lists them."""
    layers = list(model.under.children())
    for index in [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:
        layers[index], layers[index + 1] = layers[index + 1], layers[index]
    return CutNetwork(nn.Sequential(*layers), model.upper[0], model.upper[1])  # type: ignore[arg-type]


def pairs() -> dict[str, tuple[bool, Run, Run]]:
    """By name: whether it is in use, the fast way, the plain way."""
    step = step_of(network())
    layer, x = nn.Linear(UNITS, 625), torch.randn(2 * EXAMPLES, UNITS)
    halves = x.chunk(2)
    maps = torch.randn(EXAMPLES, 32, 14, 14).to(memory_format=torch.channels_last)
    return {
        "convolutions channels-last": (True, step, step_of(contiguous(network()))),
        "pooling before ReLU": (True, step, step_of(pooled_last(network()))),
        "dropout mask, the same bits as bernoulli_": (
            True,
            lambda: sample_mask((EXAMPLES, UNITS), 0.5),
            lambda: torch.empty(EXAMPLES, UNITS, dtype=torch.bool).bernoulli_(0.5),
        ),
        "ordinary dropout after pool1, other bits": (True, partial(Dropout(0.5), maps), partial(nn.Dropout(0.5), maps)),
        "two heads in one product": (False, lambda: layer(x), lambda: [layer(half) for half in halves]),
        "Adam, fused": (False, step_of(network(), fused=True), step),
        "torch.compile": (False, step_of(network(), compiled=True), step),
    }


def keep_freed_memory() -> None:
    """Make this process reuse the memory that it frees, if its C library is glibc.

    A step frees and allocates the same large blocks over and over. If they return to the system each time, the system
    clears and maps all of their pages again.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Another C library.
        mallopt = ctypes.CDLL(None).mallopt
        # Older versions refuse more than 32 MiB. If both sizes are refused, the other setting alone would do harm.
        if any(mallopt(_MMAP_THRESHOLD, size) for size in (2**30, 2**25)):
            mallopt(_TRIM_THRESHOLD, _NEVER)


def prepare(keep: bool) -> None:
    global _step
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    _step = step_of(network(), terms=(Vadd(noise="shared"),))


def one_step() -> float:
    return seconds(_step, CPU)


def freed_memory(rounds: int, warm_up: int) -> list[float]:
    """Time of a step in a process that reuses freed memory, relative to one that does not; they take turns."""
    took: dict[bool, list[float]] = {True: [], False: []}
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, context, prepare, (True,)) as keeping,
        concurrent.futures.ProcessPoolExecutor(1, context, prepare, (False,)) as giving,
    ):
        for _ in range(warm_up + rounds):
            took[True].append(keeping.submit(one_step).result())
            took[False].append(giving.submit(one_step).result())
    return ratio(took[True][warm_up:], took[False][warm_up:])


def main() -> None:
    parser = option_parser(__doc__, "fast-paths.json")
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths: dict[str, dict[str, Any]] = {
        "freed memory kept, VAdD": {"kept": False, "ratio": freed_memory(arguments.rounds, arguments.warm_up)}
    }
    print(paths, flush=True)
    for name, (used, fast, plain) in pairs().items():
        took = interleaved({"fast": fast, "plain": plain}, CPU, warm_up=arguments.warm_up, rounds=arguments.rounds)
        paths[name] = {"kept": used, "ratio": ratio(took["fast"], took["plain"])}
        print(name, paths[name], flush=True)
    records.write_measured(arguments.record, {"rounds": arguments.rounds, "paths": paths})


if __name__ == "__main__":
    main()

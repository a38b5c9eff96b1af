"""Measure `adversarial_mask` against what it cannot do without, a ranking, and against other ways to write it.

    python benchmarks/mask_search.py [--record results/mask-search.json] [--device cpu]

One process, one thread; each candidate in rounds with `torch.topk` alone, 5 of warm-up, then 25. The figure is the
median ratio within a round, with its quartiles. Candidates do not share rounds, because the large blocks that a full
sort frees would cost the next one page faults. The loop is Algorithm 1 transcribed, one example after the other; it is
timed three times, because it is slow. Run it on an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from adversarial_dropout import adversarial_mask, sample_mask
from adversarial_dropout.experiments import records

WARM_UP, ROUNDS, LOOP_ROUNDS, EXAMPLES = 5, 25, 3, 128
SIZES = ((128, 6), (2048, 10), (2048, 102), (32_768, 163), (32_768, 1638), (131_072, 655))
LOOP_UNITS = 2048


def full_sort(mask: Tensor, jacobian: Tensor, k: int) -> Tensor:
    """The same mask by sorting all gains."""
    gain, order = torch.where(mask, -jacobian, jacobian).sort(dim=1, descending=True, stable=True)
    chosen = order[:, :k]
    return mask.scatter(1, chosen, mask.gather(1, chosen) ^ (gain[:, :k] > 0))


def loop(mask: Tensor, jacobian: Tensor, k: int) -> Tensor:
    """Algorithm 1, transcribed with its two slips mended."""
    found = mask.clone()
    for row, slopes in enumerate(jacobian.tolist()):
        left = k
        for unit in sorted(range(len(slopes)), key=lambda unit, slopes=slopes: -abs(slopes[unit])):  # type: ignore[misc]
            if left and bool(found[row, unit]) == (slopes[unit] < 0) and slopes[unit] != 0:
                found[row, unit] = not found[row, unit]
                left -= 1
    return found


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(units: int, k: int, device: torch.device) -> dict[str, object]:
    torch.manual_seed(0)
    mask, jacobian = sample_mask((EXAMPLES, units), 0.5, device=device), torch.randn(EXAMPLES, units, device=device)
    ours = adversarial_mask(mask, jacobian, max_flips=k)
    assert torch.equal(ours, full_sort(mask, jacobian, k))

    def topk() -> object:
        return jacobian.topk(k, dim=1)

    def ratios_of(run: Callable[[], object], rounds: int) -> list[float]:
        apart = [(seconds(run, device), seconds(topk, device)) for _ in range(WARM_UP + rounds)][WARM_UP:]
        return statistics.quantiles([ours / floor for ours, floor in apart], n=4)

    ratios = {
        "adversarial_mask": ratios_of(lambda: adversarial_mask(mask, jacobian, max_flips=k), ROUNDS),
        "full sort": ratios_of(lambda: full_sort(mask, jacobian, k), ROUNDS),
    }
    if units == LOOP_UNITS:
        assert torch.equal(ours, loop(mask, jacobian, k))
        slow = [seconds(lambda: loop(mask, jacobian, k), device) / seconds(topk, device) for _ in range(LOOP_ROUNDS)]
        ratios["loop"] = sorted(slow)
    milliseconds = 1000 * statistics.median(seconds(topk, device) for _ in range(ROUNDS))
    return {"examples": EXAMPLES, "units": units, "k": k, "topk_milliseconds": milliseconds, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path("results/mask-search.json"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for units, k in SIZES:
        found.append(measure(units, k, arguments.device))
        print(found[-1], flush=True)
    content = {
        "what": "time over torch.topk alone in the same round: lower quartile, median, upper quartile (loop: of three)",
        "device": str(arguments.device),
        "rounds": ROUNDS,
        "sizes": found,
        "environment": records.environment(),
    }
    records.write_json(arguments.record, content)


if __name__ == "__main__":
    main()

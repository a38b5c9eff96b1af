"""Compare `adversarial_mask` with the ranking that it needs, and with other implementations.

    python benchmarks/mask_search.py [--record results/mask-search.json] [--device cpu]

One process with one thread. Each candidate takes turns with `torch.topk` for 25 rounds after 5 of warm-up; the result
is the median ratio within a round, with quartiles. Candidates do not share rounds, because the large blocks that a
full sort frees would cost the next candidate page faults. The loop is Algorithm 1, one example and one unit after the
other; it takes turns with `adversarial_mask`. Memory is the peak without the arguments, relative to the size of J.
Run it on an idle machine.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import interleaved, option_parser, peak_bytes, ratio
from torch import Tensor

from adversarial_dropout import adversarial_mask, sample_mask
from adversarial_dropout.experiments import records

LOOP_ROUNDS, EXAMPLES = 25, 128
SIZES = (
    (128, 6),
    (128, 64),
    (2048, 10),
    (2048, 102),
    (2048, 1024),
    (32_768, 163),
    (32_768, 1638),
    (131_072, 655),
)
LOOP_LARGEST = 102
"""The loops are timed up to this number of flips; with more they take minutes."""


def full_sort(mask: Tensor, jacobian: Tensor, k: int) -> Tensor:
    """The same mask by sorting all gains."""
    gain, order = torch.where(mask, -jacobian, jacobian).sort(dim=1, descending=True, stable=True)
    chosen = order[:, :k]
    return mask.scatter(1, chosen, mask.gather(1, chosen) ^ (gain[:, :k] > 0))


def transcribed(mask: Tensor, jacobian: Tensor, k: int) -> Tensor:
    """Algorithm 1 line by line, with its two slips corrected: largest |J| first, budget tested before a flip."""
    found = mask.clone()
    for row in range(mask.shape[0]):
        order = jacobian[row].abs().argsort(descending=True)
        i = 0
        while i < mask.shape[1] and (found[row] ^ mask[row]).sum() < k:
            unit = order[i]
            if not found[row, unit] and jacobian[row, unit] > 0:
                found[row, unit] = True
            elif found[row, unit] and jacobian[row, unit] < 0:
                found[row, unit] = False
            i += 1
    return found


def loop_over_lists(mask: Tensor, jacobian: Tensor, k: int) -> Tensor:
    """The same on Python floats, which are faster to read one by one than the entries of a tensor."""
    found = mask.tolist()
    for bits, slopes in zip(found, jacobian.tolist(), strict=True):
        left = k
        for unit in sorted(range(len(slopes)), key=lambda unit, slopes=slopes: -abs(slopes[unit])):  # type: ignore[misc]
            if not left:
                break
            if slopes[unit] and bits[unit] == (slopes[unit] < 0):
                bits[unit] = not bits[unit]
                left -= 1
    return torch.tensor(found, dtype=torch.bool)


def measure(units: int, k: int, device: torch.device, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    mask, jacobian = sample_mask((EXAMPLES, units), 0.5, device=device), torch.randn(EXAMPLES, units, device=device)
    found = adversarial_mask(mask, jacobian, max_flips=k)
    assert torch.equal(found, full_sort(mask, jacobian, k))

    def topk() -> object:
        return jacobian.topk(k, dim=1)

    ways: dict[str, Callable[[], object]] = {
        "adversarial_mask": lambda: adversarial_mask(mask, jacobian, max_flips=k),
        "full sort": lambda: full_sort(mask, jacobian, k),
    }
    floors: list[float] = []
    ratios = {}
    for name, way in ways.items():
        took = interleaved({name: way, "topk": topk}, device, rounds=rounds)
        ratios[name] = ratio(took[name], took["topk"])
        floors += took["topk"]
    if k <= LOOP_LARGEST and device.type == "cpu":
        ours = "adversarial_mask"
        loops = {"loop": transcribed, "loop over lists": loop_over_lists}
        for name, loop in loops.items():
            assert torch.equal(found, loop(mask, jacobian, k))
            took = interleaved(
                {name: partial(loop, mask, jacobian, k), ours: ways[ours]}, device, warm_up=1, rounds=LOOP_ROUNDS
            )
            ratios[f"adversarial_mask over {name}"] = ratio(took[ours], took[name])
    size = jacobian.numel() * jacobian.element_size()
    return {
        "examples": EXAMPLES,
        "units": units,
        "k": k,
        "topk_milliseconds": 1000 * statistics.median(floors),
        "ratios": ratios,
        "memory_over_jacobian": {name: peak_bytes(way, device) / size for name, way in {**ways, "topk": topk}.items()},
    }


def main() -> None:
    parser = option_parser(__doc__, "mask-search.json")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = []
    for units, k in SIZES:
        sizes.append(measure(units, k, arguments.device, arguments.rounds))
        print(sizes[-1], flush=True)
    content = {
        "what": "time over torch.topk alone in the same round: lower quartile, median, upper quartile",
        "device": str(arguments.device),
        "rounds": arguments.rounds,
        "sizes": sizes,
    }
    records.write_measured(arguments.record, content)


if __name__ == "__main__":
    main()

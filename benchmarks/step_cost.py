"""Measure the cost of a training step with each method, relative to a plain step.

    python benchmarks/step_cost.py [--record results/step-cost.json] [--networks mnist-cnn conv-large small-cnn]

All methods take turns in one process with one thread. A step computes cross-entropy and one term on the same batch,
forward and backward, and makes Adam's update. The result is the median ratio within a round, with quartiles, over 25
rounds after 5 of warm-up. FLOP are counted, not estimated. The machine's rate is that of its fastest product of two
matrices of 2,048 × 2,048, measured in the same process. Run it on an idle machine.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import ROUNDS, WARM_UP, flop, interleaved, matrix_rate, option_parser, peak_bytes, ratio
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import (
    VirtualAdversarialTraining,
    adversarial_mask,
    flip_budget,
    kl_divergence,
    sample_mask,
)
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.run.step import Batch, Objective, eager_step
from adversarial_dropout.experiments.terms import At, Pi, Sadd, Term, Vadd, Vat, by_kind

CPU = torch.device("cpu")
NETWORKS = {
    "mnist-cnn": (presets.get("paper/mnist-1000", "vadd-kl", "paper").model, (1, 28, 28), 128),
    "conv-large": (presets.get("paper/svhn-1000", "vadd-kl", "paper").model, (3, 32, 32), 16),
    "small-cnn": (presets.get("digits-100", "vadd-kl").model, (1, 8, 8), 128),
}
"""Settings with the budget of a search, shape of an image, images in a batch."""
UNITS = {"mnist-cnn": 2048, "conv-large": 128, "small-cnn": 256}


class Whole(nn.Module):
    """The same network without ``under`` and ``upper``, so that a regulariser has to run it whole."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


METHODS: dict[str, dict[str, Term]] = {
    "plain": {},
    "at": by_kind(At()),
    "pi": by_kind(Pi(divergence="qe")),
    "vat": by_kind(Vat()),
    "sadd": by_kind(Sadd(divergence="ce")),
    "vadd shared": by_kind(Vadd(noise="shared")),
    "vadd independent": by_kind(Vadd()),
    "vadd independent + vat": by_kind(Vadd(), Vat()),
}
BESIDE = ("flop_ratios", "memory_ratios", "flop_per_second_over_matrix")
NOT_CUT = ("sadd", "vadd shared", "vadd independent")


def vat_by_hand(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """The passes of cross-entropy and VAT written by hand for this network, without checks."""
    vat = VirtualAdversarialTraining()

    def loss() -> Tensor:
        classified = F.cross_entropy(model(x), y)
        d = torch.randn_like(x)
        d = d / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        with torch.no_grad():
            target = model(x)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        leaf = (x + 0.1 * d).requires_grad_()
        (d,) = torch.autograd.grad(kl_divergence(target, model(leaf)).sum(), leaf)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        d = d / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return classified + kl_divergence(target, model(x + vat.eps * d)).mean()

    return loss


def steps_of(config: Network, shape: tuple[int, int, int], images: int) -> dict[str, Callable[[], object]]:
    """A step of each method on the same images and weights, each with its own optimiser."""
    torch.manual_seed(0)
    model = config.build(shape, 10).train()
    batch = Batch(torch.rand(images, *shape), torch.randint(10, (images,)))

    def step(terms: dict[str, Term]) -> Callable[[], object]:
        objective = Objective(model, terms).train()
        run = eager_step(objective, adam())
        return lambda: run(batch, 1.0)

    def adam() -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-5)

    def step_of(loss: Callable[[], Tensor]) -> Callable[[], object]:
        optimizer = adam()

        def run() -> None:
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return run

    whole, x, y = Whole(model), batch.images, batch.labels

    def not_cut(term: Term) -> Callable[[], object]:
        regularizer = term.build()
        return step_of(lambda: F.cross_entropy(whole(x), y) + regularizer(whole, x, y))

    steps = {name: step(terms) for name, terms in METHODS.items()}
    steps |= {f"{name}, not cut": not_cut(*METHODS[name].values()) for name in NOT_CUT}
    return {**steps, "vat, by hand": step_of(vat_by_hand(model, x, y))}


def search_of(config: Network, images: int) -> Callable[[], object]:
    """The mask search of a step, for the number of units of the layer."""
    units = UNITS[config.name]
    mask, jacobian = sample_mask((images, units), 0.5), torch.randn(images, units)
    assert config.delta is not None
    flips = flip_budget(config.delta, units)
    return lambda: adversarial_mask(mask, jacobian, max_flips=flips)


def measure(name: str, rounds: int = ROUNDS, warm_up: int = WARM_UP) -> dict[str, Any]:
    config, shape, images = NETWORKS[name]
    steps = steps_of(config, shape, images)
    counted = {method: flop(step) for method, step in steps.items()}
    held = {method: peak_bytes(step, CPU) for method, step in steps.items()}
    took = interleaved(steps, CPU, warm_up=warm_up, rounds=rounds)
    rate = matrix_rate(CPU)
    search = interleaved(
        {"search": search_of(config, images), "step": steps["vadd shared"]}, CPU, warm_up=warm_up, rounds=rounds
    )
    mask = interleaved(
        {"mask": lambda: sample_mask((images, UNITS[config.name]), 0.5), "step": steps["plain"]},
        CPU,
        warm_up=warm_up,
        rounds=rounds,
    )
    plain = statistics.median(took["plain"])
    return {
        "images": images,
        "plain": {"seconds": plain, "flop": counted["plain"], "bytes": held["plain"]},
        "matrix_flop_per_second": rate,
        "flop_per_second_over_matrix": {
            method: counted[method] / statistics.median(times) / rate for method, times in took.items()
        },
        "ratios": {method: ratio(times, took["plain"]) for method, times in took.items()},
        "flop_ratios": {method: value / counted["plain"] for method, value in counted.items()},
        "memory_ratios": {method: value / held["plain"] for method, value in held.items()},
        "vadd independent over pi": ratio(took["vadd independent"], took["pi"]),
        "search over vadd shared": ratio(search["search"], search["step"]),
        "dropout mask over plain": ratio(mask["mask"], mask["step"]),
        "vat over by hand": ratio(took["vat"], took["vat, by hand"]),
    }


def main() -> None:
    parser = option_parser(__doc__, "step-cost.json")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    networks = {}
    for name in arguments.networks:
        networks[name] = measure(name, arguments.rounds)
        print(name, f"plain {networks[name]['plain']['seconds']:.4f} s", flush=True)
        for method, (low, median, high) in networks[name]["ratios"].items():
            beside = " ".join(f"{what} {networks[name][what][method]:.2f}" for what in BESIDE)
            print(f"  {method:28} {median:.2f} [{low:.2f}, {high:.2f}]  {beside}", flush=True)
        for what in (
            "vadd independent over pi",
            "vat over by hand",
            "search over vadd shared",
            "dropout mask over plain",
        ):
            print(f"  {what:28}", *(f"{part:.3f}" for part in networks[name][what]))
    content = {
        "what": "time of a step over a plain one: lower quartile, median, upper quartile of the ratio within a round",
        "rounds": arguments.rounds,
        "networks": networks,
    }
    records.write_measured(arguments.record, content)


if __name__ == "__main__":
    main()

"""Measure which share of the true maximum the search for the worst mask and other searches reach.

    python studies/search_quality.py [--record results/search-quality.json]

The script trains the networks: small-cnn of digits-100, whose upper part is one linear layer, and narrow perceptrons
with a hidden layer above the masks, each with ordinary dropout and with virtual adversarial dropout. For few flips it
tries all masks. For more flips, the largest divergence that any of the searches finds replaces the maximum. All
networks are trained with p = 0.5; small-cnn is also tried with base masks of p = 0.2.
"""

import argparse
import dataclasses
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mask_problems import EXACT, SEARCHES, MaskProblem, compare, worst_masks
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import (
    AdversarialDropout,
    VirtualAdversarialDropout,
    cross_entropy,
    kl_divergence,
    quadratic_error,
    sample_mask,
)
from adversarial_dropout.divergences import Divergence
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.regularizers.passes import cut

SEEDS = range(3)
IMAGES, EPOCHS, BATCH = 50, 30, 64
P, OTHER_P = 0.5, 0.2
WARM_UP, ROUNDS, TIMED_BATCH, TIMED_FLIPS = 5, 25, 128, 6
OBJECTIVES: dict[str, Divergence] = {"vadd-kl": kl_divergence, "vadd-qe": quadratic_error, "sadd-ce": cross_entropy}
FEATURES = "small-cnn, 256 units, linear upper part"
CONFIDENCE = ("Algorithm 1", "at εˢ")
NARROW = "perceptron, 16 units, nonlinear upper part"
WIDER = "perceptron, 20 units, nonlinear upper part"


@dataclass(frozen=True, eq=False)
class Part:
    """A trained network above its layer, and what it makes of some test images below it."""

    network: str
    trained_by: str
    seed: int
    upper: nn.Module
    h: Tensor
    labels: Tensor

    def problem(self, objective: str, flips: int, p: float = P) -> MaskProblem:
        """The inner problem of ``objective``, with the base masks of the network's seed."""
        base = sample_mask(self.h.shape, p, generator=torch.Generator().manual_seed(self.seed))
        target = self.labels if objective == "sadd-ce" else self.upper(self.h * base / (1 - p))
        return MaskProblem(self.upper, self.h, base, target, OBJECTIVES[objective], flips, 1 / (1 - p))


def part(network: str, trained_by: str, seed: int, model: nn.Module, images: Tensor, labels: Tensor) -> Part:
    """``model`` in float64, so that rounding decides no comparison."""
    under, upper = cut(model.double().eval().requires_grad_(False))
    (above,) = (child for child in upper.children() if not isinstance(child, AdversarialDropout))
    return Part(network, trained_by, seed, above, under(images.double()), labels)


def small_cnn(method: str, seed: int, folder: Path) -> Part:
    """A run of digits-100."""
    trained = Trained.load(loop.run(presets.get("digits-100", method, "quick", seed), folder))
    data = trained.data()
    rows = evenly_spaced(trained.split().evaluation, IMAGES)
    return part(FEATURES, method, seed, trained.model, trained.pixels(data.images[rows]), data.labels[rows])


def perceptron(network: str, units: int, flips: int, trained_by: str, seed: int) -> Part:
    """Trained here on all 1,297 training images."""
    torch.manual_seed(seed)
    data = sources.digits()
    images = data.images.flatten(1).float() / data.brightest
    under = (nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, units), nn.ReLU())
    upper = nn.Sequential(nn.Linear(units, 32), nn.ReLU(), nn.Linear(32, 10))
    model = nn.Sequential(*under, AdversarialDropout(P, flips / units), upper)
    vadd = VirtualAdversarialDropout(divergence="kl")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for rows in torch.split(data.training[torch.randperm(len(data.training))], BATCH):
            loss = F.cross_entropy(model(images[rows]), data.labels[rows])
            if trained_by == "vadd-kl":
                loss = loss + vadd(model, images[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    rows = evenly_spaced(data.test, IMAGES)
    return part(network, trained_by, seed, model, images[rows], data.labels[rows])


@dataclass(frozen=True)
class Setting:
    """Base masks drawn with p, so many flips, all masks tried or not."""

    flips: int
    p: float = P
    exhaustive: bool = True


FEW, MANY = (Setting(1), Setting(2), Setting(1, OTHER_P)), (Setting(6, exhaustive=False), Setting(12, exhaustive=False))


def parts(folder: Path) -> Iterator[tuple[Part, Sequence[Setting]]]:
    """Each network, with what to look at."""
    for seed in SEEDS:
        for method in ("plain", "vadd-qe", "vadd-kl"):
            yield small_cnn(method, seed, folder / method / str(seed)), FEW + MANY
        for method in ("plain", "vadd-kl"):
            yield perceptron(NARROW, 16, 2, method, seed), [Setting(flips) for flips in range(1, 9)]
        yield perceptron(WIDER, 20, 2, "plain", seed), [Setting(flips) for flips in (1, 2, 4, 6)]


def summary(shares: Tensor) -> dict[str, float]:
    """Over images and networks."""
    low, median, high = statistics.quantiles(shares.tolist(), n=4, method="inclusive")
    exact = float((shares >= EXACT).double().mean())
    figures = {"mean": float(shares.mean()), "low": low, "median": median, "high": high, "exact": exact}
    return {name: round(figure, 4) for name, figure in figures.items()}


def slope_at_base(problem: MaskProblem) -> float:
    """The largest entry of J at εˢ, with the rescaling, over the largest at ε⁰ = 1."""
    at_one = problem.jacobian(torch.ones_like(problem.base), rescaled=False)
    return float(problem.jacobian(problem.base).abs().max() / at_one.abs().max())


def less_confident(problem: MaskProblem, masks: Tensor) -> float:
    """Share of images whose likeliest class under εˢ is less likely under ``masks``."""
    before = problem.target.softmax(dim=1)
    after = problem.upper(problem.scale * problem.h * masks).softmax(dim=1)
    return float((after < before).gather(1, before.argmax(dim=1, keepdim=True)).double().mean())


def times(problem: MaskProblem) -> dict[str, list[float]]:
    """Time of each search over Algorithm 1 in the same round: lower quartile, median, upper quartile.

    Each round has an order of its own, and each search runs twice, because the first time pays for what came before.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    order = random.Random(0)
    for turn in range(WARM_UP + ROUNDS):
        for name, search in order.sample(list(SEARCHES.items()), len(SEARCHES)):
            search(problem)
            start = time.perf_counter()
            search(problem)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    reference = seconds["Algorithm 1"]
    ratios = {name: [a / b for a, b in zip(each, reference, strict=True)] for name, each in seconds.items()}
    return {name: statistics.quantiles(values, n=4, method="inclusive") for name, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path("results/search-quality.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pooled: dict[tuple[str, str, str, Setting], list[dict[str, Tensor]]] = defaultdict(list)
    confidence: dict[tuple[str, str], list[float]] = defaultdict(list)
    slopes: dict[str, float] = defaultdict(float)
    timed: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for trained, settings in parts(Path(folder)):
            print(trained.network, trained.trained_by, trained.seed, flush=True)
            for objective in OBJECTIVES:
                slopes[objective] = max(slopes[objective], slope_at_base(trained.problem(objective, 1)))
                for setting in settings:
                    problem = trained.problem(objective, setting.flips, setting.p)
                    shares = compare(problem, exhaustive=setting.exhaustive)
                    pooled[trained.network, trained.trained_by, objective, setting].append(shares)
            problem = trained.problem("vadd-kl", 2)
            for name in CONFIDENCE:
                confidence[trained.network, name].append(less_confident(problem, SEARCHES[name](problem).masks))
            confidence[trained.network, "worst"].append(less_confident(problem, worst_masks(problem)))
            if trained.network not in timed:
                h = trained.h.repeat(-(-TIMED_BATCH // IMAGES), 1)[:TIMED_BATCH]
                labels = trained.labels.repeat(-(-TIMED_BATCH // IMAGES))[:TIMED_BATCH]
                wide = Part(trained.network, trained.trained_by, trained.seed, trained.upper, h, labels)
                timed[trained.network] = times(wide.problem("vadd-kl", TIMED_FLIPS))
    cost = {name: search(trained.problem("vadd-kl", 2)) for name, search in SEARCHES.items()}
    content: dict[str, Any] = {
        "what": {
            "groups": "D(found) / D(worst) per image, pooled over images and seeds: mean, quartiles, and the share of "
            "images whose worst mask was found. exhaustive: the worst of all masks within so many flips; otherwise the "
            "largest D that any search found stands for it, and shares are too large, if anything",
            "cost": "forward-backward passes (gradients) and other forward passes of the upper part, for 2 flips; "
            "greedy takes as many gradients as flips. This cost counts: it does not depend on the machine's load",
            "times": f"time of the search over Algorithm 1's, float64, batch {TIMED_BATCH}, {TIMED_FLIPS} flips: lower "
            "quartile, median, upper quartile; secondary, because other work ran on the machine",
            "less_confident": "share of images whose likeliest class under εˢ is less likely under the mask; vadd-kl, "
            "2 flips",
            "slope_at_base": "the largest |J| at εˢ, with the rescaling, over the largest at 1; largest over networks",
        },
        "seeds": list(SEEDS),
        "images": IMAGES,
        "random_masks": int(cost["best of 20 random"].forwards),
        "groups": [
            {
                **{"network": network, "trained_by": trained_by, "objective": objective, **dataclasses.asdict(setting)},
                "n": len(each) * IMAGES,
                "searches": {name: summary(torch.cat([shares[name] for shares in each])) for name in SEARCHES},
            }
            for (network, trained_by, objective, setting), each in pooled.items()
        ],
        "cost": {name: {"gradients": found.gradients, "forwards": found.forwards} for name, found in cost.items()},
        "times": timed,
        "slope_at_base": dict(slopes),
        "less_confident": {
            network: {name: statistics.fmean(confidence[network, name]) for name in (*CONFIDENCE, "worst")}
            for network in timed
        },
        "rounds": ROUNDS,
    }
    records.write_measured(arguments.record, content)
    for group in content["groups"]:
        if group["flips"] in (2, 6):
            means = {name: round(figures["mean"], 2) for name, figures in group["searches"].items()}
            print(group["network"], group["trained_by"], group["objective"], group["flips"], means)


if __name__ == "__main__":
    main()

"""Measure what a training step with each method costs, over a plain step, for a model that is cut and one that is not.

    python benchmarks/step_cost.py [--record results/step-cost.json]

One process, one thread, the methods interleaved; a step is cross-entropy on a batch of 128 plus one term on the same
batch, forward and backward. The figure is the median over 25 rounds of the ratio within a round, after 5 of warm-up,
with its quartiles. Run it on an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import (
    AdversarialTraining,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)
from adversarial_dropout.experiments import models, records
from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.regularizers.passes import cut

WARM_UP, ROUNDS, BATCH = 5, 25, 128


class Whole(nn.Module):
    """The same network without ``under`` and ``upper``, so that a regulariser has to run it whole."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path("results/step-cost.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = models.build(ModelConfig(name="small-cnn", input_noise=0.15, p=0.5, delta=0.05), (1, 8, 8), 10)
    whole = Whole(model)
    x, y = torch.rand(BATCH, 1, 8, 8), torch.randint(10, (BATCH,))
    independent, shared = VirtualAdversarialDropout(), VirtualAdversarialDropout(noise="shared")
    under, head = cut(model)

    def shared_with_target() -> Tensor:
        h = under(x)
        out = head(h)
        loss: Tensor = F.cross_entropy(out, y) + shared(head, h, target=out)
        return loss

    def step(term: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: F.cross_entropy(model(x), y) + term()

    steps: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: F.cross_entropy(model(x), y),
        "vadd shared, target and h given": shared_with_target,
        "pi": step(lambda: PiModel()(model, x)),
        "at": step(lambda: AdversarialTraining()(model, x, y)),
        "vat": step(lambda: VirtualAdversarialTraining()(model, x)),
        "sadd": step(lambda: SupervisedAdversarialDropout()(model, x, y)),
        "vadd independent": step(lambda: independent(model, x)),
        "vadd shared": step(lambda: shared(model, x)),
        "sadd, not cut": step(lambda: SupervisedAdversarialDropout()(whole, x, y)),
        "vadd independent, not cut": step(lambda: independent(whole, x)),
        "vadd shared, not cut": step(lambda: shared(whole, x)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + ROUNDS):
        for name, loss_of_step in steps.items():
            start = time.perf_counter()
            loss = loss_of_step()
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.quantiles([a / b for a, b in zip(times, seconds["plain"], strict=True)], n=4)
        for name, times in seconds.items()
    }
    content = {
        "what": "time of a step over a plain one: lower quartile, median, upper quartile",
        "model": "small-cnn",
        "batch": BATCH,
        "rounds": ROUNDS,
        "plain_seconds": statistics.median(seconds["plain"]),
        "ratios": ratios,
        "environment": records.environment(),
    }
    records.write_json(arguments.record, content)
    for name, (low, median, high) in ratios.items():
        print(f"{name:32} {median:.2f}  [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()

"""Measure whether a search that reaches more gives better networks: validation error on digits-100.

    python studies/search_steps.py [--out runs/search-steps] [--record results/search-steps.json]

As in tuning, 300 training examples are held out, and the test part is not used. The seeds differ from those of
tuning, which chose the settings that are best with Algorithm 1. The search that linearises at εˢ (see
search_quality.py) makes the term stronger, so it is also tried with a third of the weight and with half of the flips.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.terms import TERMS, Vadd, by_kind
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.search import Search
from adversarial_dropout.regularizers.virtual_adversarial_dropout import VirtualAdversarialDropout

SEEDS = range(105, 115)
UNITS = 256
METHODS = ("vadd-qe", "vadd-kl")
FLIPS = (6, 3)


class AtBase(Search):
    """The search that linearises D at εˢ, without the rescaling."""

    def point(self, base: Tensor, dtype: torch.dtype) -> Tensor:
        return base.to(dtype)


@dataclass(frozen=True, kw_only=True)
class VaddAtBase(Vadd):
    """Virtual adversarial dropout with that search."""

    kind = "vadd-at-base"

    def build(self) -> Regularizer:
        regularizer = VirtualAdversarialDropout(divergence=self.divergence, noise=self.noise)
        regularizer.search = AtBase
        return regularizer


SEARCHES: dict[str, tuple[type[Vadd], float]] = {
    "Algorithm 1": (Vadd, 1.0),
    "at εˢ": (VaddAtBase, 1.0),
    "at εˢ, a third of the weight": (VaddAtBase, 1 / 3),
}
"""Term with the search, and the share of the usual weight."""


def configs(search: str, flips: int) -> Iterator[ExperimentConfig]:
    kind, share = SEARCHES[search]
    for method in METHODS:
        for seed in SEEDS:
            usual = presets.get("digits-100", method, "quick", seed)
            term = usual.terms["vadd"]
            assert isinstance(term, Vadd)
            yield usual.changed(
                data=dataclasses.replace(usual.data, validation=300),
                model=dataclasses.replace(usual.model, delta=flips / UNITS),
                terms=by_kind(kind(weight=share * term.weight, divergence=term.divergence, noise=term.noise)),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/search-steps"))
    parser.add_argument("--record", type=Path, default=Path("results/search-steps.json"))
    arguments = parser.parse_args()
    TERMS[VaddAtBase.kind] = VaddAtBase  # So that its records can be read.
    runs = []
    for flips in FLIPS:
        for search in SEARCHES:
            finished = run_grid(list(configs(search, flips)), arguments.out / f"{search}-{flips}", jobs=1)
            for method in METHODS:
                errors = [record.error for record in finished if record.config.method == method]
                runs.append({"method": method, "search": search, "flips": flips, "errors": errors})
                print(method, flips, search, errors, flush=True)
    content = {
        "what": "validation error in percent at the last epoch, one value per seed",
        "seeds": list(SEEDS),
        "runs": runs,
    }
    records.write_measured(arguments.record, content)


if __name__ == "__main__":
    main()

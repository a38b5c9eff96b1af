"""Measure whether a search that reaches more makes better networks: validation error on digits-100.

    python benchmarks/search_steps.py [--out runs/search-steps] [--record results/search-steps.json]

As in tuning, 300 examples of the training part are held out, and the test part is not looked at. The seeds are others,
because the tuning has chosen what does best with Algorithm 1. The search that linearises at εˢ (see search_quality.py)
makes a stronger term, so it is tried with a third of the weight and with half of the flips as well.
"""

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.training.grid import run_grid
from adversarial_dropout.layers import LinearizeAt

SEEDS = range(105, 115)
UNITS = 256
METHODS = ("vadd-qe", "vadd-kl")
FLIPS = (6, 3)
SEARCHES: dict[str, tuple[LinearizeAt, float]] = {
    "Algorithm 1": ("ones", 1.0),
    "at εˢ": ("base", 1.0),
    "at εˢ, a third of the weight": ("base", 1 / 3),
}
"""Where the search linearises, and the share of the usual weight."""


def configs(search: str, flips: int) -> Iterator[ExperimentConfig]:
    linearize_at, share = SEARCHES[search]
    for method in METHODS:
        for seed in SEEDS:
            usual = presets.get("digits-100", method, "quick", seed)
            (term,) = usual.terms
            yield dataclasses.replace(
                usual,
                data=dataclasses.replace(usual.data, validation=300),
                model=dataclasses.replace(usual.model, delta=flips / UNITS),
                terms=(dataclasses.replace(term, linearize_at=linearize_at, weight=share * term.weight),),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/search-steps"))
    parser.add_argument("--record", type=Path, default=Path("results/search-steps.json"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    runs = []
    for flips in FLIPS:
        for search in SEARCHES:
            found = run_grid(list(configs(search, flips)), arguments.out / f"{search}-{flips}", jobs=arguments.jobs)
            for method in METHODS:
                errors = [record.error for record in found if record.config.method == method]
                runs.append({"method": method, "search": search, "flips": flips, "errors": errors})
                print(method, flips, search, errors, flush=True)
    content = {
        "what": "validation error in percent at the last epoch, one value per seed",
        "seeds": list(SEEDS),
        "runs": runs,
        "environment": records.environment(),
    }
    records.write_json(arguments.record, content)


if __name__ == "__main__":
    main()

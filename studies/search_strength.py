"""Measure how far the search moves trained models, compared with random flips of the same number.

    python studies/search_strength.py [FOLDER] [--record results/digits-100-search.json]

FOLDER has finished runs with their weights, as `adversarial-dropout demo` writes them. Each run with virtual
adversarial dropout is measured on all images of its evaluation part.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.studies.inspection.masks_at_work import RANDOM_MASKS, observe_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/digits-100"))
    parser.add_argument("--record", type=Path, default=Path("results/digits-100-search.json"))
    arguments = parser.parse_args()
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    for record in records.find_records(arguments.folder):
        if "vadd" not in record.config.terms:
            continue
        work, _, _ = observe_run(record, seed=record.config.seed)
        seen[record.config.method].append(work.summary)
    means = {
        method: {name: statistics.fmean(run[name] for run in runs) for name in runs[0]} for method, runs in seen.items()
    }
    content = {
        "what": "mean KL divergence in nats between the predictions before and after flips; mean over runs",
        "random_masks": RANDOM_MASKS,
        "n": {method: len(runs) for method, runs in seen.items()},
        "runs": means,
        "every_run": seen,
    }
    records.write_measured(arguments.record, content)
    for method, figures in means.items():
        print(method, {name: round(value, 4) for name, value in figures.items()})


if __name__ == "__main__":
    main()

"""Choose on MNIST what the paper leaves open, on 5,000 held-out training images: ε of AT and VAT, the noise of VAdD.

    python studies/tune_mnist.py --data FOLDER

Every candidate trains for 1,500 steps on 1,000 labels (scale quick), with seeds that no reported run uses. The test
images are not looked at. Writes results/mnist-tuning.json.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import Place
from adversarial_dropout.experiments.terms import by_kind
from adversarial_dropout.experiments.training.grid import run_grid

RESULTS = Path(__file__).resolve().parents[1] / "results"
SEEDS = (100, 101)
VALIDATION = 5000
CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "at": tuple({"eps": eps} for eps in (0.05, 0.1, 0.2, 0.3)),
    "vat": tuple({"eps": eps} for eps in (0.5, 1.0, 2.0, 3.0, 4.5)),
    "vadd-kl": ({"noise": "independent"}, {"noise": "shared"}),
    "vadd-qe": ({"noise": "independent"}, {"noise": "shared"}),
}
"""Settings of the term, by method."""


def candidate(method: str, settings: dict[str, Any], seed: int) -> ExperimentConfig:
    config = presets.get("paper/mnist-1000", method, "quick", seed)
    (term,) = config.terms.values()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, validation=VALIDATION),
        terms=by_kind(dataclasses.replace(term, **settings)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST in parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/tune-mnist"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--methods", nargs="+", choices=CANDIDATES, default=list(CANDIDATES), help="the record is theirs"
    )
    options = parser.parse_args()
    errors: dict[str, list[float]] = {}
    steps = 0
    for method in options.methods:
        for settings in CANDIDATES[method]:
            name = f"{method} {' '.join(f'{key}={value}' for key, value in settings.items())}"
            configs = [candidate(method, settings, seed) for seed in SEEDS]
            found = run_grid(
                configs, options.out / name.replace(" ", "-"), jobs=options.jobs, place=Place(options.data)
            )
            errors[name] = [record.error for record in found]
            steps = found[0].config.training.epochs * (found[0].config.training.steps_per_epoch or 0)
            print(f"{name:28} {statistics.fmean(errors[name]):.2f}", flush=True)
    content = {
        "preset": "paper/mnist-1000",
        "validation": VALIDATION,
        "steps": steps,
        "seeds": SEEDS,
        "errors": errors,
        "environment": records.environment(),
    }
    records.write_json(RESULTS / "mnist-tuning.json", content)


if __name__ == "__main__":
    main()

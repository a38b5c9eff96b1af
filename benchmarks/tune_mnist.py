"""Choose ε of AT and VAT on MNIST, which the paper leaves open, on 5,000 held-out training images.

    python benchmarks/tune_mnist.py --data FOLDER

Every candidate trains for 500 steps on 1,000 labels, with seeds that no reported run uses. The test images are not
looked at. Writes results/mnist-tuning.json.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import Place
from adversarial_dropout.experiments.training.grid import run_grid

RESULTS = Path(__file__).resolve().parents[1] / "results"
SEEDS = (100, 101)
VALIDATION = 5000
STEPS_PER_EPOCH = 50
CANDIDATES = {"at": (0.02, 0.05, 0.1, 0.2, 0.3), "vat": (1.0, 2.0, 3.0, 4.5)}


def candidate(method: str, eps: float, seed: int) -> ExperimentConfig:
    config = presets.get("paper/mnist-1000", method, "quick", seed)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, validation=VALIDATION),
        training=dataclasses.replace(config.training, steps_per_epoch=STEPS_PER_EPOCH),
        terms=(dataclasses.replace(config.terms[0], eps=eps),),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST in parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/tune-mnist"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    errors: dict[str, list[float]] = {}
    found = []
    for method, values in CANDIDATES.items():
        for eps in values:
            name = f"{method} eps={eps:g}"
            configs = [candidate(method, eps, seed) for seed in SEEDS]
            found = run_grid(
                configs, options.out / name.replace(" ", "-"), jobs=options.jobs, place=Place(options.data)
            )
            errors[name] = [record.error for record in found]
            print(f"{name:14} {statistics.fmean(errors[name]):.2f}", flush=True)
    content = {
        "preset": "paper/mnist-1000",
        "validation": VALIDATION,
        "steps": STEPS_PER_EPOCH * found[0].config.training.epochs,
        "seeds": SEEDS,
        "errors": errors,
        "environment": records.environment(),
    }
    records.write_json(RESULTS / "mnist-tuning.json", content)


if __name__ == "__main__":
    main()

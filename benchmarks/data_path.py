"""What share of an epoch the data path takes: MNIST as stored, the model replaced by an identity.

    python benchmarks/data_path.py --data FOLDER

Alternates epochs of plain training (the cheapest method, so the largest share) with epochs that only make the batches,
in one process, and writes the median ratios to results/data-path.json.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from adversarial_dropout.experiments import models, presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.training.batches import batches
from adversarial_dropout.experiments.training.objective import Batch, Objective

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROUNDS = 7
STEPS = 40


def measure(config: ExperimentConfig, place: sources.Place) -> dict[str, float]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = sources.load(config.data, place)
    split = make_split(data, config.data, 0)
    pixels = Pixels(config.data, data.brightest)
    objective = Objective(models.build(config.model, data.shape, len(data.classes)), config.terms)
    optimizer = torch.optim.Adam(objective.parameters())
    training = dataclasses.replace(config.training, steps_per_epoch=STEPS)
    order = torch.Generator().manual_seed(0)

    def epoch() -> Iterator[Batch]:
        return batches(data, pixels, split, training, order, needs_unlabelled=objective.needs_unlabelled)

    ratios = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for batch in epoch():
            optimizer.zero_grad()
            objective(batch, 1.0)[0].backward()
            optimizer.step()
        real = time.perf_counter()
        for batch in epoch():
            batch.images.sum()
        ratios.append((time.perf_counter() - real) / (real - start))
    low, median, high = statistics.quantiles(ratios[1:], n=4)
    return {"low": low, "median": median, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST in parquet files")
    place = sources.Place(parser.parse_args().data)
    shares = {}
    for preset in ("paper/mnist-1000", "paper/mnist-all"):
        for method in ("plain", "vadd-kl"):
            shares[f"{preset} {method}"] = measure(presets.get(preset, method, "paper"), place)
            print(preset, method, shares[f"{preset} {method}"], flush=True)
    content = {"rounds": ROUNDS, "steps": STEPS, "shares": shares, "environment": records.environment()}
    records.write_json(RESULTS / "data-path.json", content)


if __name__ == "__main__":
    main()

"""One training step of each full-scale network at the true batch: that memory holds, and how long it takes.

    python benchmarks/true_batch.py

Each step runs in a process of its own, on random images of the right form (memory and time do not depend on what they
show), with the dearest method of its column. Writes results/true-batch.json.
"""

import argparse
import concurrent.futures
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch

from adversarial_dropout.experiments import models, presets, records
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.presets.paper import CELLS
from adversarial_dropout.experiments.training.batches import batches
from adversarial_dropout.experiments.training.objective import Objective

RESULTS = Path(__file__).resolve().parents[1] / "results"
METHOD = "vadd-qe+vat"
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}


def step(preset: str, source: str) -> dict[str, Any]:
    config = presets.get(preset, METHOD, "paper")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = torch.arange(512)
    shape = SHAPES[source]
    data = ImageData(
        torch.randint(256, (512, *shape), dtype=torch.uint8), rows % 10, rows[:0], 255, tuple("0123456789")
    )
    pixels = Pixels(config.data, data.brightest)
    objective = Objective(models.build(config.model, shape, 10), config.terms)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-5)
    split = Split(rows, rows, rows)
    started = time.perf_counter()
    order = torch.Generator().manual_seed(0)
    batch = next(batches(data, pixels, split, config.training, order, needs_unlabelled=objective.needs_unlabelled))
    loss, _ = objective(batch, 1.0)
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    assert torch.isfinite(loss)
    return {
        "method": METHOD,
        "labelled": len(batch.images),
        "unlabelled": 0 if batch.unlabelled is None else len(batch.unlabelled),
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    steps = {}
    for cell in CELLS:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
            steps[cell.preset] = process.submit(step, cell.preset, cell.source).result()
        print(cell.preset, steps[cell.preset], flush=True)
    records.write_json(RESULTS / "true-batch.json", {"steps": steps, "environment": records.environment()})


if __name__ == "__main__":
    main()

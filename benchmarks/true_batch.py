"""One training step of each full-scale network at the true batch: that memory holds, and how long it takes.

    python benchmarks/true_batch.py

Every method in the paper's columns, the dearest one in the authors'. Each runs in a process of its own with one thread,
two of them at a time, as a grid with --jobs 2 does, on random images of the right form (memory and time do not depend
on what they show); of a few steps the last is timed. Writes results/true-batch.json. Run it on an idle machine with two
cores.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from measuring import peak_of_process

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.presets.paper import COLUMNS, METHODS
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.step import Objective, eager_step

RESULTS = Path(__file__).resolve().parents[1] / "results"
DEAREST = "vadd-qe+vat"
STEPS = {"mnist": 6, "svhn": 2, "cifar10": 2}
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}


def step(preset: str, source: str, method: str) -> dict[str, Any]:
    config = presets.get(preset, method, "paper")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = torch.arange(512)
    shape = SHAPES[source]
    data = ImageData(
        torch.randint(256, (512, *shape), dtype=torch.uint8), rows % 10, rows[:0], 255, tuple("0123456789")
    )
    pixels = Pixels(config.data, data.brightest)
    objective = Objective(config.model.build(shape, 10), config.terms)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-5)
    split = Split(rows, rows, rows)
    order = torch.Generator().manual_seed(0)
    one = eager_step(objective, optimizer)
    training = dataclasses.replace(config.training, steps_per_epoch=STEPS[source])
    for batch in batches(data, pixels, split, training, order, needs_unlabelled=objective.needs_unlabelled):
        started = time.perf_counter()
        loss = one(batch, 1.0)["loss"]
        seconds = time.perf_counter() - started
    assert torch.isfinite(loss)
    return {
        "labelled": len(batch.images),
        "unlabelled": 0 if batch.unlabelled is None else len(batch.unlabelled),
        "seconds": round(seconds, 4),
        "peak_gib": round(peak_of_process() / 2**30, 2),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cells = [(cell, method) for cell in COLUMNS for method in (METHODS if cell.family == "paper" else (DEAREST,))]
    steps: dict[str, dict[str, Any]] = {cell.preset: {} for cell in COLUMNS}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, max_tasks_per_child=1) as processes:
        measured = processes.map(
            step, *zip(*((cell.preset, cell.source, method) for cell, method in cells), strict=True)
        )
        for (cell, method), found in zip(cells, measured, strict=True):
            steps[cell.preset][method] = found
            print(cell.preset, method, found, flush=True)
    records.write_measured(RESULTS / "true-batch.json", {"steps": steps})


if __name__ == "__main__":
    main()

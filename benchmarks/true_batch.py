"""Measure time and memory of one training step of each full-scale network at its true batch size.

    python benchmarks/true_batch.py

The paper's columns are measured with every method, the authors' with the most expensive one. Each cell runs in a
process of its own with one thread, two at a time, as in a grid with --jobs 2. The images are random, because time and
memory do not depend on their content. The last of a few steps is timed. Writes results/true-batch.json. Run it on an
idle machine with two cores.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from cells import SHAPES
from measuring import peak_of_process

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.presets.paper import COLUMNS, METHODS
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.step import Objective, eager_step

RESULTS = Path(__file__).resolve().parents[1] / "results"
MOST_EXPENSIVE = "vadd-qe+vat"
STEPS = {"mnist": 6, "svhn": 2, "cifar10": 2}


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
    make_step = eager_step(objective, optimizer)
    training = dataclasses.replace(config.training, steps_per_epoch=STEPS[source])
    for batch in batches(data, pixels, split, training, order, needs_unlabelled=objective.needs_unlabelled):
        started = time.perf_counter()
        loss = make_step(batch, 1.0)["loss"]
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
    cells = [
        (column, method)
        for column in COLUMNS
        for method in (METHODS if column.family == "paper" else (MOST_EXPENSIVE,))
    ]
    steps: dict[str, dict[str, Any]] = {column.preset: {} for column in COLUMNS}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, max_tasks_per_child=1) as processes:
        measured = processes.map(
            step, *zip(*((column.preset, column.source, method) for column, method in cells), strict=True)
        )
        for (column, method), result in zip(cells, measured, strict=True):
            steps[column.preset][method] = result
            print(column.preset, method, result, flush=True)
    records.write_measured(RESULTS / "true-batch.json", {"steps": steps})


if __name__ == "__main__":
    main()

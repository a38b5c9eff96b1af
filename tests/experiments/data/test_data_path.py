"""The data path is never the bottleneck; benchmarks/epochs.py measures it on the real MNIST."""

import dataclasses
import statistics
import time

import pytest
import torch

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.step import Objective

from ..small_data import SHAPES


@pytest.mark.parametrize("preset", ["paper/mnist-1000", "paper/mnist-all"])
def test_making_the_batches_takes_less_than_a_twentieth_of_an_epoch(preset: str) -> None:
    """Plain training, the cheapest method, on images of MNIST's form."""
    config = presets.get(preset, "plain", "paper")
    labels = torch.arange(4000) % 10
    stored = torch.randint(256, (4000, *SHAPES["mnist"]), dtype=torch.uint8)
    data = ImageData(stored, labels, torch.arange(3900, 4000), 255, tuple("0123456789"))
    split = make_split(data, config.data, 0)
    pixels = Pixels(config.data, data.brightest)
    objective = Objective(config.model.build(data.shape, 10), config.terms)
    training = dataclasses.replace(config.training, steps_per_epoch=10)
    order = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(4):
        start = time.process_time()
        for batch in batches(data, pixels, split, training, order, needs_unlabelled=objective.needs_unlabelled):
            objective(batch, 1.0)[0].backward()
        middle = time.process_time()
        for batch in batches(data, pixels, split, training, order, needs_unlabelled=objective.needs_unlabelled):
            batch.images.sum()
        shares.append((time.process_time() - middle) / (middle - start))
    assert statistics.median(shares[1:]) < 0.05

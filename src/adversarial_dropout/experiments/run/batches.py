"""The steps of an epoch: which images each of them sees, in which views."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adversarial_dropout.experiments.config import ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.run.step import Batch


def steps_of_an_epoch(config: TrainingConfig, labelled: int, unlabelled: int) -> int:
    """Steps as the config says, or those of one pass over the images (the unlabelled ones, if any are used) within its
    limits.
    """
    rows, batch = unlabelled, config.batch_unlabelled
    if not batch:
        rows, batch = labelled, config.batch_labelled
    steps = max(config.least_steps, rows // batch)
    return config.steps_per_epoch or min(steps, config.most_steps or steps)


def steps_of_a_run(config: ExperimentConfig, images: int) -> int:
    """Steps of all epochs on ``images`` training images, none of which is held out."""
    labelled = config.data.labelled or images
    unlabelled = images if config.data.overlap else images - labelled
    return config.training.epochs * steps_of_an_epoch(config.training, labelled, unlabelled)


def batches(
    data: ImageData,
    pixels: Pixels,
    split: Split,
    config: TrainingConfig,
    order: torch.Generator,
    *,
    needs_unlabelled: bool,
    share: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Iterator[Batch]:
    """The batches of one epoch, in an order drawn from ``order`` (on the CPU) at its start.

    ``data`` are on the device of the model. Without ``needs_unlabelled``, no unlabelled images are made. ``share``
    maps the rows of all steps, shape (steps, batch), to those that this process sees.
    """
    steps = steps_of_an_epoch(config, len(split.labelled), len(split.unlabelled))
    device = data.images.device
    labelled = share(_shuffled(split.labelled, steps, config.batch_labelled, order)).to(device)
    unlabelled = None
    if config.batch_unlabelled:
        unlabelled = share(_shuffled(split.unlabelled, steps, config.batch_unlabelled, order)).to(device)
    two_views = needs_unlabelled and pixels.config.augmented
    for step, rows in enumerate(labelled):
        stored = data.images[rows]
        without = data.images[unlabelled[step]] if unlabelled is not None and needs_unlabelled else None
        yield Batch(
            images=pixels.view(stored),
            labels=data.labels[rows],
            unlabelled=None if without is None else pixels.view(without),
            second=pixels.view(stored if without is None else without) if two_views else None,
        )


def _shuffled(rows: Tensor, steps: int, batch: int, order: torch.Generator) -> Tensor:
    """Indices of shape (steps, batch): one random permutation of ``rows`` after the other."""
    passes = -(-steps * batch // len(rows))
    stream = torch.cat([rows[torch.randperm(len(rows), generator=order)] for _ in range(passes)])
    return stream[: steps * batch].view(steps, batch)

"""paper/autoencoder: the network of Figures 2 and 3, with three kinds of dropout."""

import dataclasses

from adversarial_dropout.experiments.config import DataConfig, Scale, Settings, TrainingConfig
from adversarial_dropout.experiments.models.autoencoder import Autoencoder
from adversarial_dropout.experiments.terms import Add, Term, by_kind

NAME = "paper/autoencoder"

# Stated in the paper: 256 hidden units, ReLU, p, λ and δ. Left open: optimiser, initialisation, batch and epochs; Adam
# with its usual learning rate, He's weights, the batch of the paper's other networks on MNIST. docs/figures.md tries
# other optimisers, learning rates and weights.
_UNITS = 256
_P = 0.5
_WEIGHT = 0.2
_DELTA = 0.3
_LEARNING_RATE = 1e-3
_BATCH = 128
_EPOCHS = 20

METHODS: dict[str, tuple[float, tuple[Term, ...]]] = {
    "none": (0.0, ()),
    "dropout": (_P, ()),
    "dropout+add": (_P, (Add(weight=_WEIGHT),)),
}
"""Probability of dropping a unit, and the terms besides the reconstruction error."""


def autoencoder(method: str, scale: Scale, seed: int) -> Settings:
    """All training images of MNIST; labels are not used."""
    p, terms = METHODS[method]
    training = TrainingConfig(
        epochs=_EPOCHS,
        batch_labelled=_BATCH,
        batch_unlabelled=0,
        learning_rate=_LEARNING_RATE,
        ramp_up=0,
        ramp_down=0,
    )
    if scale == "tiny":
        training = dataclasses.replace(training, epochs=2, steps_per_epoch=1, batch_labelled=8)
    return Settings(
        preset=NAME,
        method=method,
        scale=scale,
        seed=seed,
        data=DataConfig(name="mnist", labelled=None),
        model=Autoencoder(width=_UNITS, p=p, delta=_DELTA),
        training=training,
        terms=by_kind(*terms),
    )

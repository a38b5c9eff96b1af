"""paper/autoencoder: the network of Figures 2 and 3, with three kinds of dropout."""

import dataclasses

from adversarial_dropout.experiments.config import DataConfig, Parts, Scale, TrainingConfig
from adversarial_dropout.experiments.models.autoencoder import Autoencoder
from adversarial_dropout.experiments.terms import Add, by_kind

NAME = "paper/autoencoder"
METHODS = ("none", "dropout", "dropout+add")


def autoencoder(method: str, scale: Scale) -> Parts:
    """All training images of MNIST, without labels.

    The paper states 256 hidden units, ReLU, p, λ and δ. It leaves open the optimiser, the initialisation, the batch and
    the epochs: here Adam with its usual learning rate, He's weights, and the batch of the paper's other networks on
    MNIST. docs/figures.md tries other optimisers, learning rates and weights.
    """
    training = TrainingConfig(
        epochs=20, batch_labelled=128, batch_unlabelled=0, learning_rate=1e-3, ramp_up=0, ramp_down=0
    )
    if scale == "tiny":
        training = dataclasses.replace(training, epochs=2, steps_per_epoch=1, batch_labelled=8)
    return Parts(
        data=DataConfig(name="mnist", labelled=None),
        model=Autoencoder(width=256, p=0.0 if method == "none" else 0.5, delta=0.3),
        training=training,
        terms=by_kind(Add(weight=0.2)) if method == "dropout+add" else {},
    )

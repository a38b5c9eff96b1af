"""images: your own folder of images."""

import dataclasses

from adversarial_dropout.experiments.config import DataConfig, Parts, Scale, TrainingConfig
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.presets.stated import STATED

# Sensible, not tuned: conv-large at a quarter of its width, which learns small images on a CPU in minutes, and the
# terms of CIFAR-10.
_WIDTH = 32
_FLIPS = 3


def images(method: str, scale: Scale) -> Parts:
    """All labelled images of a folder with their label, all images without."""
    training = TrainingConfig(
        epochs=25, steps_per_epoch=20, batch_labelled=16, batch_unlabelled=48, ramp_up=8, ramp_down=8
    )
    if scale == "tiny":
        training = dataclasses.replace(training, epochs=2, steps_per_epoch=1, ramp_up=1, ramp_down=1)
    return Parts(
        data=DataConfig(name="images", labelled=None, centre=True, translate=2),
        model=ConvLarge(width=_WIDTH, p=0.5, delta=_FLIPS / _WIDTH),
        training=training,
        terms=STATED["cifar10"].terms(method),
    )

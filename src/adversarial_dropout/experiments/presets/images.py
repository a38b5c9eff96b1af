"""images: your own folder of images."""

import dataclasses

from adversarial_dropout.experiments.config import DataConfig, Parts, Scale, TrainingConfig
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.presets.stated import STATED
from adversarial_dropout.experiments.terms import At, Pi, Sadd, Term, Vadd, Vat, by_kind

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


# On features with a standard deviation of 1, on which the terms work as on images. Sensible, not tuned.
_ON_FEATURES: dict[str, Term] = {
    "at": At(weight=1.0, eps=0.1),
    "vat": Vat(weight=1.0, eps=5.0),
    "pi": Pi(weight=10.0, divergence="qe"),
    "sadd": Sadd(weight=1.0, divergence="ce"),
    "vadd-kl": Vadd(weight=1.0, divergence="kl"),
    "vadd-qe": Vadd(weight=10.0, divergence="qe"),
}


def pretrained(method: str, scale: Scale) -> Parts:
    """The same with a frozen pretrained backbone: only a linear layer on its features is trained."""
    training = TrainingConfig(
        epochs=30,
        steps_per_epoch=50,
        batch_labelled=32,
        batch_unlabelled=128,
        learning_rate=1e-3,
        ramp_up=10,
        ramp_down=10,
    )
    if scale == "tiny":
        training = dataclasses.replace(training, epochs=2, steps_per_epoch=1, ramp_up=1, ramp_down=1)
    return Parts(
        data=DataConfig(name="images", labelled=None, flip=True),
        model=Pretrained(p=0.5, delta=0.05),
        training=training,
        terms=by_kind(*(_ON_FEATURES[name] for name in method.split("+") if name != "plain")),
    )

"""images: your own folder of images."""

from adversarial_dropout.experiments.config import DataConfig, Parts, Scale, TrainingConfig
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.models.small_resnet import SmallResnet
from adversarial_dropout.experiments.terms import At, Pi, Sadd, Term, Vadd, Vat, by_kind

# Chosen on validation parts of digits, MNIST and CIFAR-10; docs/own-images.md says how, and what did not work.
_TERMS: dict[str, Term] = {
    "at": At(eps=0.03),
    "vat": Vat(divergence="kl", eps=0.06, per_value=True),
    "pi": Pi(divergence="qe", weight=10.0),
    "sadd": Sadd(divergence="ce", weight=1.0),
    "vadd-kl": Vadd(divergence="kl", weight=1.0),
    "vadd-qe": Vadd(divergence="qe", weight=10.0),
}


def images(method: str, scale: Scale) -> Parts:
    """All labelled images of a folder with their label, all images without."""
    training = TrainingConfig(
        epochs=20,
        least_steps=25,
        most_steps=75,
        batch_labelled=32,
        batch_unlabelled=64,
        learning_rate=3e-3,
        weight_decay=0.01,
        ramp_up=6,
        ramp_down=15,
    )
    if scale == "tiny":
        training = training.two_steps()
    return Parts(
        data=DataConfig(name="images", labelled=None, centre=True, affine=0.7, jitter=0.3),
        model=SmallResnet(p=0.5, delta=0.05),
        training=training,
        terms=_of_method(method, _TERMS),
    )


# On features with a standard deviation of 1, on which the terms work as on images. Head and weights have the lowest
# error on validation images of CIFAR-10 with 40 labels a class (docs/own-images.md); δ, ε, schedule are not tuned.
_ON_FEATURES: dict[str, Term] = {
    "at": At(weight=1.0, eps=0.1),
    "vat": Vat(weight=0.3, eps=5.0),
    "pi": Pi(weight=3.0, divergence="qe"),
    "sadd": Sadd(weight=1.0, divergence="ce"),
    "vadd-kl": Vadd(weight=0.3, divergence="kl"),
    "vadd-qe": Vadd(weight=10.0, divergence="qe"),
}


def pretrained(method: str, scale: Scale) -> Parts:
    """The same with a frozen pretrained backbone: only a head with one hidden layer on its features is trained."""
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
        training = training.two_steps()
    return Parts(
        data=DataConfig(name="images", labelled=None, flip=True),
        model=Pretrained(head="mlp", p=0.5, delta=0.05),
        training=training,
        terms=_of_method(method, _ON_FEATURES),
    )


def _of_method(method: str, known: dict[str, Term]) -> dict[str, Term]:
    """The terms of a method by their kinds: none of "plain", two of "a+b"."""
    return by_kind(*(known[part] for part in method.split("+") if part != "plain"))

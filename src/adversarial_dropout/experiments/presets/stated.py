"""What the paper states of its experiments on data sets: Tables 3 and 4, Appendix B.1 and B.2.

A comment marks what it leaves open and what is not followed; docs/experiments.md gives the reasons.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from adversarial_dropout.experiments.config import DataConfig, TrainingConfig
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.terms import At, Pi, Sadd, Term, Vadd, Vat, by_kind

Source = Literal["mnist", "svhn", "cifar10"]
TITLES: dict[Source, str] = {"mnist": "MNIST", "svhn": "SVHN", "cifar10": "CIFAR-10"}


@dataclass(frozen=True)
class Stated:
    """What the paper states for one data set."""

    training_images: int
    labelled: int
    """Labelled images, where they are few."""
    repeats: int
    data: DataConfig
    model: Network
    with_all_labels: TrainingConfig
    with_few_labels: TrainingConfig
    at: At
    vat: Vat
    weight_qe: float
    """λ of VAdD by quadratic error and of the Π-model."""

    def terms(self, method: str) -> dict[str, Term]:
        """The terms of a method; "a+b" is the sum of two."""
        term: dict[str, Term] = {
            "at": self.at,
            "vat": self.vat,
            "pi": Pi(weight=self.weight_qe, divergence="qe"),
            "sadd": Sadd(weight=1.0, divergence="ce"),  # λ is open.
            "vadd-kl": Vadd(weight=1.0, divergence="kl"),
            "vadd-qe": Vadd(weight=self.weight_qe, divergence="qe"),
        }
        return by_kind(*(term[name] for name in method.split("+") if name != "plain"))


_B1 = TrainingConfig(
    epochs=100,
    batch_labelled=128,
    batch_unlabelled=0,
    learning_rate=0.001,
    ramp_up=30,
    ramp_down=0,
    beta1=0.9,
    beta1_end=0.9,
)
_B2 = TrainingConfig(
    epochs=300,
    batch_labelled=100,
    batch_unlabelled=0,
    learning_rate=0.003,
    ramp_up=80,
    ramp_up_learning_rate=True,
    ramp_down=50,
    beta1=0.9,
    beta1_end=0.5,
)
_CONV_LARGE = ConvLarge(
    norm="batch",
    norm_momentum=0.001,  # Printed as 0.999: the share that the old statistics keep.
    input_noise=0.15,
    dropout1=0.5,
    dropout2=0.0,
    p=0.0,  # Printed as 1.0, a "dropout probability"; read as that of keeping a unit, which is an inference.
    delta=0.05,
)
_SVHN = Stated(
    training_images=73_257,
    labelled=1_000,
    repeats=5,
    data=DataConfig(name="svhn", labelled=None, overlap=False, centre=True, translate=2),  # The translation is open.
    model=_CONV_LARGE,
    with_all_labels=_B2,
    with_few_labels=dataclasses.replace(_B2, batch_labelled=32, batch_unlabelled=128),
    at=At(weight=1.0, eps=8 / 255, ramp=False),  # Open.
    vat=Vat(weight=1.0, eps=3.5, ramp=False),  # Open.
    weight_qe=25.0,
)
STATED: dict[Source, Stated] = {
    "mnist": Stated(
        training_images=60_000,
        labelled=1_000,
        repeats=8,
        data=DataConfig(name="mnist", labelled=None, overlap=False),
        model=MnistCnn(kernel_size=3, input_noise=0.0, dropout1=0.5, dropout2=0.5, p=0.5, delta=0.005),  # Prints 1 × 1.
        with_all_labels=_B1,
        # Open, except for the 128 images of a step.
        with_few_labels=dataclasses.replace(_B1, batch_labelled=32, batch_unlabelled=96, steps_per_epoch=468),
        at=At(weight=1.0, eps=0.1, ramp=True),  # Open.
        vat=Vat(weight=1.0, eps=1.0, ramp=True),  # ε is open.
        weight_qe=30.0,
    ),
    "svhn": _SVHN,
    "cifar10": dataclasses.replace(
        _SVHN,
        training_images=50_000,
        labelled=4_000,
        data=dataclasses.replace(_SVHN.data, name="cifar10", flip=True),
        model=dataclasses.replace(_CONV_LARGE, norm="mean-only"),
        vat=dataclasses.replace(_SVHN.vat, eps=2.0),  # Open.
    ),
}

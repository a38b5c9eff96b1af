"""Two sections of a config: the data, and the schedule of training."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice, check_fraction, check_positive

Precision = Literal["float32", "tf32", "bf16"]
OptimizerName = Literal["adam", "sgd"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which examples a run sees, how many of them with a label, and how their images are prepared."""

    name: str = "digits"
    """Source: "digits" (scikit-learn's), "mnist", "svhn", "cifar10", a hub id, or a folder of images or parquet."""
    labelled: int | None = 100
    """Labelled examples, equally many of each class; None: all that have a label."""
    unlabelled: int | None = None
    """Most unlabelled examples, drawn at random; None: all."""
    overlap: bool = True
    """Whether the labelled examples are also among the unlabelled ones."""
    validation: int = 0
    """Examples held out of the training part. Above 0, errors are measured on them and the test part stays unseen."""
    evaluated: int | None = None
    """Examples of the evaluation part on which errors are measured, evenly spaced; None: all."""
    resize: int | None = None
    """Height and width in pixels to which images are resized; None: all have the same size already."""
    centre: bool = False
    """Whether pixels are in [-0.5, 0.5]; otherwise in [0, 1]."""
    whiten: bool = False
    """ZCA whitening, fitted on the training images."""
    translate: int = 0
    """Largest random shift of a training image in each direction, in pixels; the gap is filled with 0."""
    flip: bool = False
    """Whether training images are flipped left to right at random, half of the time."""
    affine: float = 0.0
    """Strength of a random affine map of each training image; 1: rotation by up to 10°, zoom and shear by up to 12 %,
    a shift by up to 10 % of the size. Gaps have the colour of the border."""
    jitter: float = 0.0
    """Largest random change of the contrast of a training image, as a share; a quarter of it is that of the brightness
    of each channel."""
    choosing: Annotated[float, tyro.conf.arg(name="validation", prefix_name=False)] = 0.0
    """Share of the labels that is held out to choose the epoch whose weights are kept, for example 0.2. With fewer
    than 10 labels in a class nothing is held out, and the last epoch counts."""

    def __post_init__(self) -> None:
        for name in ("labelled", "unlabelled", "evaluated", "resize"):
            if getattr(self, name) is not None:
                check_at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("validation", "translate"):
            check_at_least(f"data.{name}", getattr(self, name), 0)
        for name in ("affine", "jitter", "choosing"):
            check_fraction(f"data.{name}", getattr(self, name))

    @property
    def augmented(self) -> bool:
        """Whether two views of an image differ."""
        return self.translate > 0 or self.flip or self.affine > 0 or self.jitter > 0


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The schedule. An epoch is one pass over the unlabelled examples or, if none are used, over the labelled ones."""

    epochs: int = 50
    """Number of epochs."""
    steps_per_epoch: int | None = None
    """Steps per epoch; None: one pass, within the two limits below."""
    least_steps: int = 1
    """Fewest steps of an epoch that is one pass."""
    most_steps: int | None = None
    """Most steps of an epoch that is one pass; None: no limit."""
    batch_labelled: int = 32
    """Labelled examples per step."""
    batch_unlabelled: int = 128
    """Unlabelled examples per step; 0: all terms see the labelled ones, with the cross-entropy's pass as target."""
    optimizer: OptimizerName = "adam"
    """"adam", or "sgd": gradient descent without momentum."""
    learning_rate: float = 3e-3
    """The optimiser's highest learning rate."""
    ramp_up: int = 20
    """First epochs, in which the weights of the terms rise as exp(-5 (1 - T)²)."""
    ramp_up_learning_rate: bool = False
    """Whether the learning rate rises with them."""
    ramp_down: int = 15
    """Last epochs, in which the learning rate falls as exp(-12.5 T²)."""
    beta1: float = 0.9
    """Adam's β₁ before the ramp-down."""
    beta1_end: float | None = None
    """Adam's β₁ at the end of the ramp-down; None: it does not change."""
    target_decay: float = 0.99
    """Decay α of the moving average of the weights that targets come from; its first values are plain means."""
    ramp_delta: bool = False
    """Whether the budget δ of the searches rises with the weights of the terms, from one flip on."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW; 0: Adam."""
    precision: Precision = "float32"
    """Precision of the products in a step; weights and Adam are in float32. "float32": on CUDA for convolutions too.
    "tf32": products and convolutions on CUDA in TF32. "bf16": bfloat16 by autocast, on any device."""

    def two_steps(self) -> "TrainingConfig":
        """The same in two steps, which only show that everything runs: scale tiny."""
        return dataclasses.replace(
            self, epochs=2, steps_per_epoch=1, least_steps=1, most_steps=None, ramp_up=1, ramp_down=1
        )

    @property
    def last_beta1(self) -> float:
        """Adam's β₁ at the end."""
        return self.beta1 if self.beta1_end is None else self.beta1_end

    def __post_init__(self) -> None:
        check_choice("training.precision", self.precision, get_args(Precision))
        check_choice("training.optimizer", self.optimizer, get_args(OptimizerName))
        for name in ("epochs", "batch_labelled", "batch_unlabelled", "ramp_up", "ramp_down"):
            check_at_least(f"training.{name}", getattr(self, name), 1 if name in ("epochs", "batch_labelled") else 0)
        for name in ("beta1", "beta1_end"):
            if (value := getattr(self, name)) is not None:
                check_fraction(f"training.{name}", value)
                if value == 1:
                    raise InvalidValueError(f"expected training.{name} below 1, got 1: Adam would never move")
        for name in ("steps_per_epoch", "least_steps"):
            if getattr(self, name) is not None:
                check_at_least(f"training.{name}", getattr(self, name), 1)
        if self.most_steps is not None:
            check_at_least(
                "training.most_steps", self.most_steps, self.least_steps, "; the fewest steps are training.least_steps"
            )
        check_fraction("training.weight_decay", self.weight_decay)
        check_fraction("training.target_decay", self.target_decay)
        check_positive("training.learning_rate", self.learning_rate)

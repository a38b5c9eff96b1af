"""What one run is: a complete, frozen description, from which the run can be repeated."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from adversarial_dropout.errors import InvalidValueError, check_choice, check_fraction
from adversarial_dropout.layers import Granularity, Rescale
from adversarial_dropout.regularizers.virtual_adversarial_dropout import NoiseMode

Kind = Literal["at", "vat", "pi", "sadd", "vadd", "entmin"]
DivergenceName = Literal["ce", "kl", "qe", "se"]
Norm = Literal["batch", "mean-only"]
Precision = Literal["float32", "tf32", "bf16"]
OptimizerName = Literal["adam", "sgd"]
Initialization = Literal["he", "normal"]
_LARGEST_SEED = 2**63 - 1
Scale = Literal["tiny", "quick", "paper"]
Device = Literal["auto", "cpu", "cuda"]
"""What a run is computed on; no part of what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which examples are seen, how many of them with their label, and what is done to an image before the network."""

    name: str = "digits"
    """Source: "digits" (scikit-learn's), "mnist", "svhn", "cifar10", a hub id, or a folder of images or parquet."""
    labelled: int | None = 100
    """Labelled examples, the same number of each class; None: all that have a label."""
    overlap: bool = True
    """Whether the labelled examples are among the unlabelled ones as well."""
    validation: int = 0
    """Examples held out of the training part. Above 0, errors are measured on them and the test part stays unseen."""
    evaluated: int | None = None
    """Errors are measured on so many examples of the evaluation part, evenly spaced; None: on all."""
    resize: int | None = None
    """Height and width in pixels that images are brought to; None: all have one size already."""
    centre: bool = False
    """Whether pixels are in [-0.5, 0.5]; otherwise in [0, 1]."""
    whiten: bool = False
    """ZCA whitening, fitted on the training images."""
    translate: int = 0
    """Training images are shifted by up to so many pixels in each direction, the gap filled with 0."""
    flip: bool = False
    """Training images are flipped left to right, every second time."""

    def __post_init__(self) -> None:
        for name in ("labelled", "evaluated", "resize"):
            if getattr(self, name) is not None:
                _at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("validation", "translate"):
            _at_least(f"data.{name}", getattr(self, name), 0)

    @property
    def augmented(self) -> bool:
        """Whether two views of an image differ."""
        return self.translate > 0 or self.flip


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network, and its adversarial dropout layer. What a network does not have, its setting does not change."""

    name: str = "small-cnn"
    """Network: "small-cnn", "mnist-cnn" (Table 3), "conv-large" (Table 4), or "autoencoder" (Figures 2 and 3)."""
    kernel_size: int = 3
    """Width of mnist-cnn's kernels in pixels, odd; the paper prints 1."""
    width: int = 128
    """Channels of conv-large's first block; the later ones have 2 and 4 times as many. Hidden units of autoencoder."""
    norm: Norm = "batch"
    """Normalisation in conv-large: "batch", or "mean-only"."""
    norm_momentum: float = 0.1
    """Share of the newest batch in the running statistics."""
    norm_logits: bool = False
    """Whether conv-large normalises its logits too."""
    input_noise: float = 0.15
    """Standard deviation σ of the Gaussian noise on the input in training, in units of x."""
    noise_in_evaluation: bool = False
    """Whether that noise is there in evaluation too."""
    dropout1: float = 0.5
    """Probability of dropping an activation after the first pooling of mnist-cnn and conv-large (drop1)."""
    dropout2: float = 0.5
    """Probability of dropping an activation after their second pooling (drop2)."""
    p: float = 0.5
    """Probability of dropping a unit of the adversarial dropout layer."""
    delta: float = 0.05
    """Budget δ: share of the units that the search may flip."""
    granularity: Granularity = "element"
    """What a unit is."""
    rescale: Rescale = "inverted"
    """What follows the mask."""
    initialization: Initialization = "he"
    """Of autoencoder's weights: "he": N(0, 2 / fan-in). "normal": N(0, 0.01²)."""

    def __post_init__(self) -> None:
        for name in ("dropout1", "dropout2", "p", "delta", "norm_momentum"):
            check_fraction(f"model.{name}", getattr(self, name))
        check_choice("model.norm", self.norm, get_args(Norm))
        check_choice("model.initialization", self.initialization, get_args(Initialization))
        for name in ("kernel_size", "width"):
            _at_least(f"model.{name}", getattr(self, name), 1)
        if self.kernel_size % 2 == 0:
            raise InvalidValueError(f"expected model.kernel_size to be odd, got {self.kernel_size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TermConfig:
    """One regularisation term of the loss."""

    kind: Kind
    """Regulariser: AT, VAT, Π-model, SAdD, VAdD or entropy minimisation."""
    weight: float = 1.0
    """Its weight λ."""
    divergence: DivergenceName = "kl"
    """Its divergence D (AT and SAdD with "ce"; entropy minimisation has none; an autoencoder has "se" alone)."""
    eps: float = 1.0
    """Length of the perturbation in units of x: L∞ for AT, L2 for VAT."""
    xi: float | None = None
    """VAT's step of the finite difference; None: what suits the precision."""
    noise: NoiseMode = "independent"
    """Noise of VAdD's passes."""
    ramp: bool = True
    """Whether the weight follows the ramp-up."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InvalidValueError(f"expected a finite weight of {self.kind}, 0 or more, got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The schedule. An epoch is one pass over the unlabelled examples, or, where none are used, the labelled ones."""

    epochs: int = 50
    """Number of epochs."""
    steps_per_epoch: int | None = None
    """Steps of an epoch, if fewer than one pass over the unlabelled examples."""
    batch_labelled: int = 32
    """Labelled examples a step."""
    batch_unlabelled: int = 128
    """Unlabelled examples a step; 0: all terms see the labelled ones, with the pass of the cross-entropy as target."""
    optimizer: OptimizerName = "adam"
    """"adam", or "sgd": gradient descent without momentum."""
    learning_rate: float = 3e-3
    """The optimiser's learning rate at its height."""
    ramp_up: int = 20
    """Epochs over which the weights of the terms rise as exp(-5 (1 - T)²)."""
    ramp_up_learning_rate: bool = False
    """Whether the learning rate rises with them."""
    ramp_down: int = 15
    """Last epochs, over which the learning rate falls as exp(-12.5 T²)."""
    beta1: float = 0.9
    """Adam's β₁ until the ramp-down."""
    beta1_end: float = 0.9
    """The β₁ that the ramp-down leads to."""
    precision: Precision = "float32"
    """Of the products in a step; weights and Adam stay in float32. "float32": on CUDA for convolutions too. "tf32":
    products and convolutions on CUDA in TF32. "bf16": bfloat16 by autocast, on any device."""

    def __post_init__(self) -> None:
        check_choice("training.precision", self.precision, get_args(Precision))
        check_choice("training.optimizer", self.optimizer, get_args(OptimizerName))
        for name in ("epochs", "batch_labelled", "batch_unlabelled", "ramp_up", "ramp_down"):
            _at_least(f"training.{name}", getattr(self, name), 1 if name in ("epochs", "batch_labelled") else 0)
        for name in ("beta1", "beta1_end"):
            check_fraction(f"training.{name}", getattr(self, name))
            if getattr(self, name) == 1:
                raise InvalidValueError(f"expected training.{name} below 1, got 1: Adam would never move")
        if self.steps_per_epoch is not None:
            _at_least("training.steps_per_epoch", self.steps_per_epoch, 1)
        if not 0 < self.learning_rate < float("inf"):
            raise InvalidValueError(f"expected training.learning_rate to be above 0, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentConfig:
    """One run."""

    preset: str
    """Name of the preset that the run comes from."""
    method: str
    """Name of the method."""
    scale: Scale
    """How much is run. "paper": the full schedule. "quick": what a small machine finishes. "tiny": two steps."""
    seed: int = 0
    """Seed of initialisation, labelled split, order and noise."""
    threads: int = 1
    """CPU threads. Another number gives other rounding, and so other results."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    terms: tuple[TermConfig, ...] = ()

    def __post_init__(self) -> None:
        check_seed(self.seed)
        _at_least("threads", self.threads, 1)
        kinds = [term.kind for term in self.terms]
        if len(set(kinds)) < len(kinds):
            raise InvalidValueError(f"expected terms of different kinds, got {', '.join(kinds)}")
        self._check_autoencoder()
        if self.data.augmented and any(term.kind == "vadd" and term.noise == "shared" for term in self.terms):
            raise InvalidValueError(
                'expected terms.vadd.noise="independent" with data.translate or data.flip: the two passes see two views'
            )

    def _check_autoencoder(self) -> None:
        """An autoencoder's target is its input, whatever its label."""
        if self.model.name != "autoencoder":
            if any(term.divergence == "se" for term in self.terms):
                raise InvalidValueError(
                    f'expected divergence "se", the squared error of images, with model.name="autoencoder" alone, got '
                    f"{self.model.name!r}"
                )
            return
        forms = [(term.kind, term.divergence, term.noise) for term in self.terms]
        wrong = ["{} ({}, {})".format(*form) for form in forms if form != ("vadd", "se", "shared")]
        if wrong:
            raise InvalidValueError(
                f"expected terms of an autoencoder to be vadd (se, shared): adversarial dropout with the image as "
                f"target, got {', '.join(wrong)}"
            )
        data = self.data
        if self.training.batch_unlabelled or data.augmented or data.centre or data.whiten:
            raise InvalidValueError(
                "expected training.batch_unlabelled=0 and none of data.translate, data.flip, data.centre, data.whiten "
                "with an autoencoder: it sees every image alike, as pixels from 0 to 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """The config as plain containers, as JSON keeps it."""
        plain = dataclasses.asdict(self)
        plain["terms"] = list(plain["terms"])
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "ExperimentConfig":
        """The config that :meth:`to_dict` has written.

        Raises:
            InvalidValueError: a field is unknown or missing, as in a record of another version.
        """
        try:
            model = {**_BEFORE_DROPOUT_FIELDS.get(plain["model"].get("name"), {}), **plain["model"]}
            return cls(
                **{
                    **plain,
                    "data": DataConfig(**plain["data"]),
                    "model": ModelConfig(**model),
                    "training": TrainingConfig(**plain["training"]),
                    "terms": tuple(TermConfig(**dict(term.items() - {_ONLY_POINT})) for term in plain["terms"]),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidValueError(
                f"expected a config of this version of the program, got one with other fields ({error}); repeat the run"
            ) from error


_BEFORE_DROPOUT_FIELDS = {"mnist-cnn": {"dropout1": 0.0, "dropout2": 0.0}}
"""What records say that were written before these fields: this network had no such layers then."""
_ONLY_POINT = ("linearize_at", "ones")
"""A setting of earlier versions, with the value that is left."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where two plain configs differ, one line ``name: old → new`` each; the fields of a term go by its kind."""
    before, after = _flat(old), _flat(new)
    names = before.keys() | after.keys()
    if before.get("terms") != after.get("terms"):
        names = {name for name in names if not name.startswith("terms.")}
    changed = [name for name in sorted(names) if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)} → {after.get(name)}" for name in changed]


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        inner = value
        if name == "terms" and isinstance(value, list):
            inner = {term.get("kind"): term for term in value}
            flat[f"{prefix}terms"] = "+".join(str(kind) for kind in inner) or "none"
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = inner
    return flat


def check_seed(seed: int) -> None:
    """Raise :class:`InvalidValueError` unless ``seed`` is one that PyTorch's generators take."""
    _at_least("seed", seed, 0)
    if seed > _LARGEST_SEED:
        raise InvalidValueError(f"expected seed to be at most {_LARGEST_SEED}, got {seed}")


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValueError(f"expected {name} to be a whole number, {least} or more, got {value!r}")

"""The config of a run: a complete, frozen description from which the run can be repeated."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict, get_args

import tyro

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice, check_fraction, check_positive
from adversarial_dropout.experiments.earlier_config import upgraded
from adversarial_dropout.experiments.models import find_network
from adversarial_dropout.experiments.models.network import Network, NoisyNetwork
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.models.small_resnet import SmallResnet
from adversarial_dropout.experiments.terms import TERMS, Pi, Term, Vadd, averages_weights

Precision = Literal["float32", "tf32", "bf16"]
OptimizerName = Literal["adam", "sgd"]
Scale = Literal["tiny", "quick", "paper"]
Device = Literal["auto", "cpu", "cuda"]
"""What a run is computed on. It is not part of the config."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which examples a run sees, how many of them with a label, and how their images are prepared."""

    name: str = "digits"
    """Source: "digits" (scikit-learn's), "mnist", "svhn", "cifar10", a hub id, or a folder of images or parquet."""
    labelled: int | None = 100
    """Labelled examples, equally many of each class; None: all that have a label."""
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
        for name in ("labelled", "evaluated", "resize"):
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


class Parts(TypedDict):
    """What an experiment is: all settings of a run but its name, method, scale, seed and threads."""

    data: DataConfig
    model: Network
    training: TrainingConfig
    terms: dict[str, Term]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for one run, which need not use all of them."""

    preset: tyro.conf.Positional[str]
    """Experiment; `adversarial-dropout presets` lists them."""
    method: tyro.conf.Positional[str]
    """Method of the experiment."""
    scale: Scale
    """Length of training. "paper": the full schedule. "quick": what a small machine finishes. "tiny": two steps."""
    seed: int = 0
    """Seed of initialisation, labelled split, order and noise."""
    threads: int = 1
    """CPU threads. Their number changes the rounding, and so the results."""
    data: DataConfig = field(default_factory=DataConfig)
    model: Network = field(default_factory=SmallCnn)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    terms: dict[str, Term] = field(default_factory=dict, hash=False)
    """The regularisation terms by their kinds, in the order in which they are summed."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least("threads", self.threads, 1)

    def used(self, given: Collection[str] = ()) -> "ExperimentConfig":
        """The config of the run, in which the settings that it would not use have their defaults.

        Those in ``given``, such as "training.ramp_up", must be of use: otherwise an :class:`InvalidValueError` says why
        they are not.
        """
        for name, default, refusal in _surplus(self):
            part, *kind, setting = name.split(".")
            if name in given and setting != "ramp":  # Where nothing rises, a term does not rise either.
                raise refusal
            holder = self.terms[kind[0]] if kind else getattr(self, part)
            changed = dataclasses.replace(holder, **{setting: default})
            changes: dict[str, Any] = {part: {**self.terms, kind[0]: changed} if kind else changed}
            return dataclasses.replace(self, **changes).used(given)
        return ExperimentConfig(**vars(self))


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Settings):
    """The settings of one run. One that the run would not use must have its default, or the config is refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, term in self.terms.items():
            if kind != term.kind:
                raise InvalidValueError(f"expected terms by their kinds, got {term.kind} as {kind!r}")
            if term.task != self.model.task:
                raise InvalidValueError(
                    f"expected terms for a network that learns {self.model.task}, as {self.model.name} does, got "
                    f"{kind}, which is for {term.task}"
                )
        data, training = self.data, self.training
        if self.model.task == "images" and (training.batch_unlabelled or data.augmented or data.centre or data.whiten):
            raise InvalidValueError(
                "expected training.batch_unlabelled=0 and none of data.translate, data.flip, data.centre, data.whiten "
                "with an autoencoder: it sees every image in the same way, as pixels from 0 to 1"
            )
        for term in self.terms.values():
            if data.augmented and isinstance(term, Vadd) and term.noise == "shared" and term.views == 2:
                raise InvalidValueError(
                    'expected terms.vadd.noise="independent" with data.translate, data.flip, data.affine or '
                    "data.jitter: the two passes see two views; or terms.vadd.views=1"
                )
        searching = [kind for kind, term in self.terms.items() if term.searches]
        if searching and self.model.delta is None:
            raise InvalidValueError(f"expected model.delta, the budget of the search of {searching[0]}, got none")
        for _, _, refusal in _surplus(self):
            raise refusal

    @classmethod
    def of(cls, **settings: Any) -> "ExperimentConfig":
        """The config of ``settings`` without those that the run would not use."""
        return Settings(**settings).used()

    def changed(self, **changes: Any) -> "ExperimentConfig":
        """This config with ``changes``, without the settings that the run would then not use."""
        return self.of(**vars(self) | changes)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain containers, for JSON."""
        plain = dataclasses.asdict(self)
        return {**plain, "model": {"name": self.model.name, **plain["model"]}}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "ExperimentConfig":
        """The config that :meth:`to_dict` has written, in this version or an earlier one.

        Raises:
            InvalidValueError: a field is unknown or missing, or contradicts the others.
        """
        try:
            earlier = isinstance(plain["terms"], list)
            plain = upgraded(plain) if earlier else plain
            model = {**plain["model"]}
            parts = {
                "data": DataConfig(**plain["data"]),
                "model": find_network(model.pop("name"))(**model),
                "training": TrainingConfig(**plain["training"]),
                "terms": {kind: TERMS[kind](**term) for kind, term in plain["terms"].items()},
            }
            return (cls.of if earlier else cls)(**{**plain, **parts})
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidValueError(
                f"expected a config of this version of the program, got one with other fields ({error}); repeat the run"
            ) from error


def _surplus(settings: Settings) -> Iterator[tuple[str, object, InvalidValueError]]:
    """Unused settings that do not have their defaults: name, default, and an error that says why it is refused."""
    for name, value, default, why in _unused(settings):
        if value != default:
            yield name, default, InvalidValueError(f"expected {name}={default!r}, because {why}, got {value!r}")


def _unused(settings: Settings) -> Iterator[tuple[str, object, object, str]]:
    """Settings that the run would not use: name, value, default, and the reason."""
    data, model, training, terms = settings.data, settings.model, settings.training, settings.terms
    if training.steps_per_epoch is not None and all(term.supervised for term in terms.values()):
        yield "training.batch_unlabelled", training.batch_unlabelled, 0, "no term sees unlabelled examples"
    if training.steps_per_epoch is not None:
        yield "training.least_steps", training.least_steps, 1, "training.steps_per_epoch is given"
        yield "training.most_steps", training.most_steps, None, "training.steps_per_epoch is given"
    if training.ramp_down == 1:
        yield "training.ramp_down", training.ramp_down, 0, "the first epoch of a fall is at its height"
    if not training.batch_unlabelled:
        yield "data.overlap", data.overlap, True, "the run sees no unlabelled examples"
    if not any(term.searches for term in terms.values()):
        yield "model.delta", model.delta, None, "no term of the run searches"
        if model.p == 0:
            yield "model.rescale", model.rescale, "inverted", "with model.p=0 no unit is dropped"
    if isinstance(model, NoisyNetwork) and model.input_noise == 0:
        yield "model.noise_in_evaluation", model.noise_in_evaluation, False, "model.input_noise is 0"
    if not any(averages_weights(term) for term in terms.values()):
        yield "training.target_decay", training.target_decay, 0.99, "no term takes its target from averaged weights"
    for term in terms.values():
        if isinstance(term, Pi | Vadd) and not data.augmented:
            yield f"terms.{term.kind}.views", term.views, 2, "training images are not changed at random"
    if isinstance(model, SmallResnet) and model.place == "units":
        yield "model.granularity", model.granularity, "element", 'model.place is "units"'
    if training.ramp_up == 0:
        yield "training.ramp_delta", training.ramp_delta, False, "training.ramp_up is 0"
    elif not any(term.searches for term in terms.values()):
        yield "training.ramp_delta", training.ramp_delta, False, "no term of the run searches"
    if training.ramp_up == 0:
        yield "training.ramp_up_learning_rate", training.ramp_up_learning_rate, False, "training.ramp_up is 0"
        for term in terms.values():
            yield f"terms.{term.kind}.ramp", term.ramp, True, "training.ramp_up is 0"
    elif not (training.ramp_up_learning_rate or training.ramp_delta or any(term.ramp for term in terms.values())):
        yield "training.ramp_up", training.ramp_up, 0, "nothing rises"
    if training.optimizer == "sgd":
        yield "training.weight_decay", training.weight_decay, 0.0, "it is for Adam"
        yield "training.beta1", training.beta1, 0.9, "gradient descent has no β₁"
        yield "training.beta1_end", training.beta1_end, None, "gradient descent has no β₁"
    elif training.ramp_down == 0:
        yield "training.beta1_end", training.beta1_end, None, "training.ramp_down is 0"
    elif training.beta1_end == training.beta1:
        yield "training.beta1_end", training.beta1_end, None, "β₁ stays"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where two plain configs of any version differ: a line ``name: old → new`` for each setting."""
    before, after = _flat(_of_today(old)), _flat(_of_today(new))
    names = before.keys() | after.keys()
    if before.get("terms") != after.get("terms"):
        names = {name for name in names if not name.startswith("terms.")}
    changed = [name for name in sorted(names) if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)} → {after.get(name)}" for name in changed]


def _of_today(plain: dict[str, Any]) -> dict[str, Any]:
    """A plain config in today's layout if it can be read, otherwise as it is."""
    with contextlib.suppress(InvalidValueError):
        return ExperimentConfig.from_dict(plain).to_dict()
    return plain


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        # Only an earlier config that cannot be read has a list.
        inner = {term.get("kind"): term for term in value} if name == "terms" and isinstance(value, list) else value
        if name == "terms":
            flat["terms"] = "+".join(map(str, inner)) or "none"
        flat |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return flat


def check_seed(seed: int) -> None:
    """Raise :class:`InvalidValueError` unless PyTorch's generators accept ``seed``."""
    check_at_least("seed", seed, 0)
    if seed >= 2**63:
        raise InvalidValueError(f"expected seed to be below 2**63, got {seed}")

"""The config of a run: a complete, frozen description from which the run can be repeated."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, TypedDict

import tyro

from adversarial_dropout.errors import InvalidValueError, check_at_least
from adversarial_dropout.experiments.earlier_config import upgraded
from adversarial_dropout.experiments.models import find_network
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.sections import DataConfig as DataConfig
from adversarial_dropout.experiments.sections import OptimizerName as OptimizerName
from adversarial_dropout.experiments.sections import Precision as Precision
from adversarial_dropout.experiments.sections import TrainingConfig as TrainingConfig
from adversarial_dropout.experiments.terms import TERMS, Pi, Term, Vadd, averages_weights

Scale = Literal["tiny", "quick", "paper"]
Device = Literal["auto", "cpu", "cuda"]
"""What a run is computed on. It is not part of the config."""


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
    if training.steps_per_epoch is not None:
        if all(term.supervised for term in terms.values()):
            yield "training.batch_unlabelled", training.batch_unlabelled, 0, "no term sees unlabelled examples"
        yield "training.least_steps", training.least_steps, 1, "training.steps_per_epoch is given"
        yield "training.most_steps", training.most_steps, None, "training.steps_per_epoch is given"
    if training.ramp_down == 1:
        yield "training.ramp_down", training.ramp_down, 0, "the first epoch of a fall is at its height"
    if not training.batch_unlabelled:
        yield "data.overlap", data.overlap, True, "the run sees no unlabelled examples"
        yield "data.unlabelled", data.unlabelled, None, "the run sees no unlabelled examples"
    if not any(term.searches for term in terms.values()):
        yield "model.delta", model.delta, None, "no term of the run searches"
        if model.p == 0:
            yield "model.rescale", model.rescale, "inverted", "with model.p=0 no unit is dropped"
    yield from ((name, attrgetter(name)(settings), default, why) for name, default, why in model.unused())
    if not any(averages_weights(term) for term in terms.values()):
        yield "training.target_decay", training.target_decay, 0.99, "no term takes its target from averaged weights"
    for term in terms.values():
        if isinstance(term, Pi | Vadd) and not data.augmented:
            yield f"terms.{term.kind}.views", term.views, 2, "training images are not changed at random"
    if training.ramp_up == 0:
        yield "training.ramp_delta", training.ramp_delta, False, "training.ramp_up is 0"
        yield "training.ramp_up_learning_rate", training.ramp_up_learning_rate, False, "training.ramp_up is 0"
        for term in terms.values():
            yield f"terms.{term.kind}.ramp", term.ramp, True, "training.ramp_up is 0"
    else:
        if not any(term.searches for term in terms.values()):
            yield "training.ramp_delta", training.ramp_delta, False, "no term of the run searches"
        if not (training.ramp_up_learning_rate or training.ramp_delta or any(term.ramp for term in terms.values())):
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

"""The terms of a loss: the settings of each, its regulariser, and what it sees in a step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.mixing import InterpolationConsistency, MixupLoss
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import Task
from adversarial_dropout.experiments.step_inputs import StepInputs
from adversarial_dropout.layers import preserving_last_masks, take_last_masks
from adversarial_dropout.regularizers.adversarial_training import AdversarialTraining
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization
from adversarial_dropout.regularizers.pi_model import PiModel
from adversarial_dropout.regularizers.random_flips import RandomFlips
from adversarial_dropout.regularizers.supervised_adversarial_dropout import SupervisedAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_dropout import NoiseMode, VirtualAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_training import VirtualAdversarialTraining

Target = Literal["own", "average"]
"""Whose prediction is the target: the network's, or that of the moving average of its weights."""
Flips = Literal["found", "random"]
"""Which units VAdD flips."""


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """One regularisation term λR of the loss (eq. 6 of Park et al., AAAI 2018)."""

    kind: ClassVar[str]
    """Its name in records and on the command line."""
    supervised: ClassVar[bool] = False
    """Whether it sees the labelled images and their labels."""
    searches: ClassVar[bool] = False
    """Whether it searches for masks, so that the network needs a budget δ."""
    task: ClassVar[Task] = "classes"
    """What a network must learn for the term to fit."""
    cost: ClassVar[int]
    """Forward passes per example besides those of the cross-entropy; a backward pass counts as two."""

    weight: float = 1.0
    """Its weight λ."""
    ramp: bool = True
    """Whether the weight follows the ramp-up."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InvalidValueError(f"expected a finite weight of {self.kind}, 0 or more, got {self.weight}")
        self.build()  # This checks the other settings.

    @abstractmethod
    def build(self) -> Regularizer:
        """The regulariser with these settings."""

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        """R of one step, a scalar."""
        if self.supervised:
            return regularizer(given.model, given.images, given.labels, target=given.goal)
        return regularizer(given.model, given.second, target=given.target_of_views())


@dataclass(frozen=True, kw_only=True)
class At(Term):
    """Adversarial training."""

    kind = "at"
    supervised = True
    cost = 6

    eps: float = 0.1
    """Length of the perturbation in the L∞ norm, in units of x."""

    def build(self) -> Regularizer:
        return AdversarialTraining(eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class Vat(Term):
    """Virtual adversarial training. It computes the target itself, because all of its passes see the same noise."""

    kind = "vat"
    cost = 8

    divergence: Literal["kl", "qe", "ce"] = "kl"
    """Its divergence D."""
    eps: float = 1.0
    """Length of the perturbation in the L2 norm, in units of x."""
    per_value: bool = False
    """Whether eps is the root mean square of the perturbation, so that its length is eps · √D for D values of x."""
    xi: float | None = None
    """Step of the finite difference, in units of x; None: chosen by the precision."""

    def build(self) -> Regularizer:
        return VirtualAdversarialTraining(eps=self.eps, xi=self.xi, divergence=self.divergence)

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        if self.per_value:
            cast(VirtualAdversarialTraining, regularizer).eps = self.eps * math.sqrt(given.first[0].numel())
        return regularizer(given.model, given.first)


@dataclass(frozen=True, kw_only=True)
class Pi(Term):
    """Π-model."""

    kind = "pi"
    cost = 6

    divergence: Literal["kl", "qe", "ce"] = "qe"
    """Its divergence D."""
    views: Literal[1, 2] = 2
    """Views that its two passes see where training images are changed at random."""
    target: Target = "own"
    """Whose prediction is the target. "own": the network's. "average": that of the moving average of its weights, which
    is Mean Teacher (Tarvainen & Valpola, NeurIPS 2017)."""

    def build(self) -> Regularizer:
        _check_agreement(self)
        return PiModel(divergence=self.divergence)

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        return _agreement(self, regularizer, given)


@dataclass(frozen=True, kw_only=True)
class Sadd(Term):
    """Supervised adversarial dropout. It starts from the masks of the labelled pass: eq. 6 has one εˢ for both."""

    kind = "sadd"
    supervised = True
    searches = True
    cost = 4

    divergence: Literal["ce", "qe"] = "ce"
    """Its divergence D to the labels."""

    def build(self) -> Regularizer:
        check_choice("terms.sadd.divergence", self.divergence, ("ce", "qe"))  # To labels, "kl" is "ce".
        return SupervisedAdversarialDropout(divergence=self.divergence)


@dataclass(frozen=True, kw_only=True)
class Vadd(Term):
    """Virtual adversarial dropout."""

    kind = "vadd"
    searches = True
    cost = 7

    divergence: Literal["kl", "qe", "ce"] = "kl"
    """Its divergence D."""
    noise: NoiseMode = "independent"
    """Whether its passes draw their noise independently or share it."""
    views: Literal[1, 2] = 2
    """Views that its two passes see where training images are changed at random."""
    flips: Flips = "found"
    """Which units are flipped. "found": those that the search finds. "random": as many of each example, at random."""
    target: Target = "own"
    """Whose prediction under the base mask is the target. "own": the network's. "average": that of the moving average
    of its weights, as in Mean Teacher (Tarvainen & Valpola, NeurIPS 2017)."""

    def build(self) -> Regularizer:
        _check_agreement(self)
        check_choice("terms.vadd.flips", self.flips, get_args(Flips))
        if self.noise == "shared" and self.target == "average":
            raise InvalidValueError(
                'expected terms.vadd.noise="independent" with terms.vadd.target="average": the passes of two networks '
                "draw their own noise"
            )
        regularizer = VirtualAdversarialDropout(divergence=self.divergence, noise=self.noise)
        if self.flips == "random":
            regularizer.search = RandomFlips
        return regularizer

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        if self.noise == "shared" and given.labelled_alone:
            return regularizer(given.upper, given.hidden, target=given.target)
        if self.noise == "shared":
            return regularizer(given.model, given.first)
        return _agreement(self, regularizer, given)


@dataclass(frozen=True, kw_only=True)
class Add(Term):
    """Adversarial dropout of an autoencoder: the image must come back under the worst mask too. Noise is shared."""

    kind = "add"
    searches = True
    task = "images"
    cost = 7

    def build(self) -> Regularizer:
        return VirtualAdversarialDropout(divergence=reconstruction_error, noise="shared")

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        return regularizer(given.upper, given.hidden, target=given.goal)


@dataclass(frozen=True, kw_only=True)
class Entmin(Term):
    """Entropy minimisation."""

    kind = "entmin"
    cost = 1

    def build(self) -> Regularizer:
        return EntropyMinimization()


@dataclass(frozen=True, kw_only=True)
class Ict(Term):
    """Interpolation consistency training: the prediction of a mixture should be the mixture of the predictions."""

    kind = "ict"
    cost = 4

    divergence: Literal["kl", "qe", "ce"] = "qe"
    """Its divergence D."""
    alpha: float = 1.0
    """The shares of two images in a mixture are drawn from Beta(α, α)."""
    target: Target = "average"
    """Whose predictions are mixed. "own": the network's. "average": those of the moving average of its weights."""

    def build(self) -> Regularizer:
        check_choice("terms.ict.target", self.target, get_args(Target))
        return InterpolationConsistency(divergence=self.divergence, alpha=self.alpha)

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        target = given.target_of_average() if self.target == "average" else given.target
        return regularizer(given.model, given.first, target=target)


@dataclass(frozen=True, kw_only=True)
class Mixup(Term):
    """The loss of mixup on the labelled images, added to their cross-entropy."""

    kind = "mixup"
    supervised = True
    cost = 3

    alpha: float = 1.0
    """The shares of two images in a mixture are drawn from Beta(α, α)."""

    def build(self) -> Regularizer:
        return MixupLoss(alpha=self.alpha)


def _check_agreement(term: Pi | Vadd) -> None:
    """Check the settings that a term has in common with others that compare two passes."""
    check_choice(f"terms.{term.kind}.target", term.target, get_args(Target))
    if term.views not in (1, 2):
        raise InvalidValueError(f"expected terms.{term.kind}.views to be 1 or 2, got {term.views!r}")


def _agreement(term: Pi | Vadd, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
    """R of a term that compares a pass on one or two views with the target that the term asks for."""
    x = given.first if term.views == 1 else given.second
    if term.target == "own":
        return regularizer(given.model, x, target=given.target if term.views == 1 else given.target_of_views())
    assert given.average is not None
    target = given.target_of_average()
    with preserving_last_masks(given.model):  # The search starts from the masks of the target's pass.
        take_last_masks(given.model, given.average)
        return regularizer(given.model, x, target=target)


def averages_weights(term: Term) -> bool:
    """Whether a term takes its target from the moving average of the weights."""
    return isinstance(term, Pi | Vadd | Ict) and term.target == "average"


def by_kind(*terms: Term) -> dict[str, Term]:
    """Terms as a config has them."""
    return {term.kind: term for term in terms}


TERMS: dict[str, type[Term]] = {term.kind: term for term in (At, Vat, Pi, Sadd, Vadd, Add, Entmin, Ict, Mixup)}
"""All kinds, by name."""

"""The terms of a loss: the settings of each, its regulariser, and what it sees in a step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import Task
from adversarial_dropout.regularizers.adversarial_training import AdversarialTraining
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization
from adversarial_dropout.regularizers.pi_model import PiModel
from adversarial_dropout.regularizers.supervised_adversarial_dropout import SupervisedAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_dropout import NoiseMode, VirtualAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_training import VirtualAdversarialTraining


@dataclass(eq=False)
class StepInputs:
    """What the terms of one step can see.

    Attributes:
        model: The network.
        upper: The part of it above the cut.
        hidden: Input of that part for the labelled images, shape (N, ...).
        images: Labelled images, shape (N, C, H, W).
        labels: Their labels, shape (N,).
        goal: What the labelled pass is compared with: its logits or, for a reconstruction, the images.
        first: The images that terms without labels see, shape (M, C, H, W).
        second: Another view of them; the same tensor if there is one view.
        target: What the pass on ``second`` should agree with, if it has been computed.
        labelled_alone: Whether all terms see the labelled images.
    """

    model: nn.Module
    upper: nn.Module
    hidden: Tensor
    images: Tensor
    labels: Tensor
    goal: Tensor
    first: Tensor
    second: Tensor
    target: Tensor | None
    labelled_alone: bool

    def target_of_views(self) -> Tensor | None:
        """The target. If it is missing and there are two views, it is computed now, from the first one."""
        if self.target is None and self.second is not self.first:
            self.target = self.model(self.first)
        return self.target


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

    def build(self) -> Regularizer:
        return PiModel(divergence=self.divergence)


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

    def build(self) -> Regularizer:
        return VirtualAdversarialDropout(divergence=self.divergence, noise=self.noise)

    def value(self, regularizer: Callable[..., Tensor], given: StepInputs) -> Tensor:
        if self.noise == "shared" and given.labelled_alone:
            return regularizer(given.upper, given.hidden, target=given.target)
        return super().value(regularizer, given)


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


def by_kind(*terms: Term) -> dict[str, Term]:
    """Terms as a config has them."""
    return {term.kind: term for term in terms}


TERMS: dict[str, type[Term]] = {term.kind: term for term in (At, Vat, Pi, Sadd, Vadd, Add, Entmin)}
"""All kinds, by name."""

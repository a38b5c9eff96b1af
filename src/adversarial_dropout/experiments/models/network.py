"""What all networks have: settings, a cut in front of adversarial dropout, and a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import check_choice, check_fraction
from adversarial_dropout.layers import AdversarialDropout, Granularity, Rescale

Task = Literal["classes", "images"]
"""What a network learns: the class of an image, or to reconstruct the image."""

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """Settings of a network, and of its adversarial dropout layer."""

    name: ClassVar[str]
    """Its name in records and on the command line."""
    task: ClassVar[Task] = "classes"
    """What it learns."""
    work: ClassVar[float]
    """Cost of an image of the paper's size, relative to mnist-cnn."""

    p: float = 0.5
    """Probability of dropping a unit of the adversarial dropout layer."""
    delta: float | None = None
    """Budget δ: share of the units that a search may flip; None where no term searches."""
    rescale: Rescale = "inverted"
    """How the kept units are rescaled."""

    def __post_init__(self) -> None:
        check_choice("model.rescale", self.rescale, get_args(Rescale))
        check_fraction("model.p", self.p)
        if self.delta is not None:
            check_fraction("model.delta", self.delta)

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> "CutNetwork":
        """The network for images of ``shape``, which must not be too small, and that many classes."""

    @property
    def input_size(self) -> int | None:
        """Height and width to which the network resizes all images; ``None``: it takes them as they are.

        Images of different sizes, and larger ones, are stored at this size.
        """
        return None

    def unused(self) -> Iterator[tuple[str, object, str]]:
        """Settings of a run that have no effect beside the others here: name, default, and the reason."""
        yield from ()

    def on_images(self, trained: "CutNetwork") -> "CutNetwork":
        """The network from images to logits, given what :meth:`build` returned, trained."""
        return trained

    def groups(self, trained: "CutNetwork") -> list[dict[str, Any]]:
        """The parameters to train, for an optimiser; a group's "factor" multiplies the learning rate."""
        return [{"params": list(trained.parameters())}]

    def dropout(self, granularity: Granularity = "element") -> AdversarialDropout:
        """An adversarial dropout layer."""
        if self.delta is None:
            return AdversarialDropout(self.p, granularity=granularity, rescale=self.rescale)
        return AdversarialDropout(self.p, self.delta, granularity=granularity, rescale=self.rescale)


@dataclass(frozen=True, kw_only=True)
class NoisyNetwork(Network):
    """Settings of a network that adds Gaussian noise to its input."""

    input_noise: float = 0.15
    """Standard deviation σ of the Gaussian noise on the input in training, in units of x."""
    noise_in_evaluation: bool = False
    """Whether the noise is added in evaluation too."""

    def unused(self) -> Iterator[tuple[str, object, str]]:
        if self.input_noise == 0:
            yield "model.noise_in_evaluation", False, "model.input_noise is 0"


@dataclass(frozen=True, kw_only=True)
class PoolingNetwork(NoisyNetwork):
    """Settings of a network of Table 3 or 4, with ordinary dropout after its poolings."""

    dropout1: float = 0.5
    """Probability of dropping an activation after the first pooling (drop1)."""
    dropout2: float = 0.5
    """Probability of dropping an activation after the second pooling (drop2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("model.dropout1", self.dropout1)
        check_fraction("model.dropout2", self.dropout2)


class CutNetwork(nn.Module):
    """A network in two parts, cut in front of its first adversarial dropout layer: ``under`` maps images, shape
    (N, C, H, W), to units, shape (N, D), or to feature maps; ``upper`` maps these to logits, shape (N, classes).
    """

    def __init__(self, under: nn.Module, dropout: AdversarialDropout, head: nn.Module) -> None:
        super().__init__()
        self.under = under
        self.upper = nn.Sequential(dropout, head)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.upper(self.under(x))
        return logits


def he_initialised(network: CutNetwork) -> CutNetwork:
    """``network`` with weights from N(0, 2 / fan-in) and zero biases (He et al., ICCV 2015). Convolutions are
    channels-last, which computes the same faster.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network

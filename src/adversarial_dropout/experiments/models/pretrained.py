"""A head with adversarial dropout on the features of a pretrained backbone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice, check_fraction, check_positive
from adversarial_dropout.experiments import backbones
from adversarial_dropout.experiments.backbones import Backbone, BackboneFiles
from adversarial_dropout.experiments.models.network import CutNetwork, Network, Shape
from adversarial_dropout.experiments.models.noise import Dropout
from adversarial_dropout.layers import AdversarialDropout

Head = Literal["linear", "mlp"]

_LEAST_STD = 0.1
"""Least standard deviation of a feature, relative to the root mean square of all: rare features are not blown up."""


@dataclass(frozen=True, kw_only=True)
class Pretrained(Network):
    """A pretrained backbone and a new head on its standardised features. "linear": adversarial dropout, linear. "mlp":
    linear, ReLU, adversarial dropout, linear.

    A frozen backbone is not trained and not saved with the run: its features are computed once, and the head is trained
    on them. Otherwise the backbone is trained too, always in evaluation mode: the statistics of its BatchNorm stay, and
    its own dropout is off, so that the adversarial dropout layer is the only noise.
    """

    name = "pretrained"
    work = 10.0

    source: str = "efficientnet-lite0"
    """Backbone: a folder or hub id of an image model of transformers or timm, or efficientnet-lite0 to 4."""
    frozen: bool = True
    """Whether the backbone stays as it is; otherwise it is trained with the head."""
    head: Head = "linear"
    """"linear": adversarial dropout on the features. "mlp": on a hidden layer."""
    units: int = 512
    """Hidden units of the head "mlp"."""
    feature_dropout: float = 0.0
    """Probability of dropping a feature in front of the hidden layer of the head "mlp"."""
    size: int | None = None
    """Height and width of the images that the backbone sees, in pixels; None: its own."""
    backbone_rate: float = 0.1
    """Learning rate of a backbone that is not frozen, relative to that of the head."""
    pickle: bool = False
    """Whether the weights of the backbone may be pickled. They are read with weights_only=True."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.head", self.head, get_args(Head))
        check_at_least("model.units", self.units, 1)
        check_fraction("model.feature_dropout", self.feature_dropout)
        check_positive("model.backbone_rate", self.backbone_rate)
        if self.size is not None:
            check_at_least("model.size", self.size, 1)
        if not self.source:
            raise InvalidValueError("expected model.source, a folder or a hub id, got an empty name")

    def unused(self) -> Iterator[tuple[str, object, str]]:
        for name in ("data.centre", "data.whiten"):
            yield name, False, "a pretrained backbone has its own preprocessing"
        if self.frozen:
            views = "the views of a frozen backbone are the image and, with data.flip, its mirror image"
            for name, default in (("data.translate", 0), ("data.affine", 0.0), ("data.jitter", 0.0)):
                yield name, default, views
            yield "model.backbone_rate", 0.1, "a frozen backbone is not trained"
        if self.head == "linear":
            yield "model.units", 512, 'the head "linear" has no hidden units'
            yield "model.feature_dropout", 0.0, 'the head "linear" has no hidden units'

    @property
    def files(self) -> BackboneFiles:
        """The files of the backbone, which may be downloaded now; see :func:`..backbones.files.find`."""
        return backbones.find(self.source, size=self.size, pickle=self.pickle)

    @property
    def input_size(self) -> int | None:
        return self.files.preprocessing.size

    def build(self, shape: Shape, classes: int) -> "PretrainedNetwork":
        channels = shape[0]
        if channels not in (1, 3):
            raise InvalidValueError(f"expected images of 1 or 3 channels for a pretrained backbone, got {channels}")
        backbone = backbones.load(self.files)
        backbone.requires_grad_(not self.frozen)
        if not self.frozen:
            _freeze_unused(backbone)
        hidden, width = nn.Sequential(), backbone.width
        if self.head == "mlp":
            hidden = nn.Sequential(Dropout(self.feature_dropout), nn.Linear(width, self.units), nn.ReLU())
            nn.init.kaiming_normal_(hidden[1].weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(hidden[1].bias)  # type: ignore[arg-type]
            width = self.units
        head = nn.Linear(width, classes)
        nn.init.zeros_(head.bias)
        return PretrainedNetwork(backbone, hidden, self.dropout(), head, frozen=self.frozen)

    def on_images(self, trained: CutNetwork) -> CutNetwork:
        assert isinstance(trained, PretrainedNetwork)
        return trained.on_images()

    def groups(self, trained: CutNetwork) -> list[dict[str, Any]]:
        assert isinstance(trained, PretrainedNetwork)
        if self.frozen:
            return super().groups(trained)
        of_backbone = [weight for weight in trained.backbone.parameters() if weight.requires_grad]
        known = {id(weight) for weight in trained.backbone.parameters()}
        of_head = [weight for weight in trained.parameters() if id(weight) not in known]
        return [{"params": of_head}, {"params": of_backbone, "factor": self.backbone_rate}]


class Standardise(nn.Module):
    """Features to mean 0 and standard deviation 1: x ↦ (x - mean) · scale, shape (N, D).

    A standard deviation counts as at least a tenth of the root mean square of all of them.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Fit to features, shape (N, D); computed in float64."""
        wide = features.double()
        mean = wide.mean(dim=0)
        std = (wide - mean).square().mean(dim=0).sqrt()
        least = max(_LEAST_STD * float(std.square().mean().sqrt()), torch.finfo(torch.float32).tiny)
        scale = 1 / std.clamp(min=least) if bool(std.any()) else torch.ones_like(std)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class PretrainedNetwork(CutNetwork):
    """What is trained. With a frozen backbone, it maps *standardised features*, shape (N, D), to logits, and its
    weights are those of the head and the statistics of the features; otherwise it maps images, shape (N, C, H, W).
    """

    def __init__(
        self, backbone: Backbone, hidden: nn.Module, dropout: AdversarialDropout, head: nn.Module, *, frozen: bool
    ) -> None:
        standardise = Standardise(backbone.width)
        super().__init__(hidden if frozen else nn.Sequential(backbone, standardise, hidden), dropout, head)
        self.frozen = frozen
        if frozen:
            self.standardise = standardise
        self._parts = (backbone, standardise)  # In a tuple, a module is not part of this one: not saved, not trained.

    @property
    def backbone(self) -> Backbone:
        """The backbone."""
        return self._parts[0]

    def fit(self, features: Tensor) -> None:
        """Fit the statistics to features that are not standardised, shape (N, D)."""
        self._parts[1].fit(features)

    def standardised(self, features: Tensor) -> Tensor:
        """Features, shape (..., D), as the head takes them."""
        standardised: Tensor = self._parts[1](features)
        return standardised

    def on_images(self) -> CutNetwork:
        """The same network from images to logits, shape (N, C, H, W) to (N, classes)."""
        if not self.frozen:
            return self
        dropout, head = self.upper
        assert isinstance(dropout, AdversarialDropout)
        return CutNetwork(nn.Sequential(self.backbone, self.standardise, self.under), dropout, head)


def check_backbone(network: Pretrained, recorded: dict[str, Any], run: Path) -> None:
    """Raise :class:`InvalidValueError` unless the backbone is the one that the record of ``run`` describes."""
    found = network.files.described
    changed = [name for name in recorded if found.get(name) != recorded[name]]
    if changed:
        shown = "; ".join(f"{name}: {recorded[name]} → {found.get(name)}" for name in changed)
        raise InvalidValueError(
            f"expected the backbone that {run} was trained with in {network.source}, got another (recorded → found): "
            f"{shown}; put the former back, or repeat the run"
        )


def _freeze_unused(backbone: Backbone) -> None:
    """Do not train the weights that features do not depend on, such as those of an unused pooler."""
    size = backbone.preprocessing.size
    backbone(torch.rand(1, 3, size, size)).square().sum().backward()
    for weight in backbone.parameters():
        weight.requires_grad_(weight.grad is not None)
        weight.grad = None

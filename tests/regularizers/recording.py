"""Shared by the tests of the regularisers: modules that record each pass, and slow reference computations."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialTraining,
    EntropyMinimization,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)

FORMS = ("sequential", "methods", "features and head", "opaque")
"""The forms in which a regulariser can get a network."""

CUT = ("sequential", "methods", "features and head")

METHODS: dict[str, Callable[..., nn.Module]] = {
    "sadd": SupervisedAdversarialDropout,
    "vadd": VirtualAdversarialDropout,
    "vadd-shared": partial(VirtualAdversarialDropout, noise="shared"),
    "at": AdversarialTraining,
    "vat": VirtualAdversarialTraining,
    "pi": PiModel,
    "entropy": EntropyMinimization,
}

UNITS = 10
CLASSES = 3


@dataclass
class Run:
    """One pass through a recorder."""

    seen: Tensor
    """Its input."""
    noise: Tensor
    """Its noise, zeros if it draws none."""
    graph: bool
    """Whether its input belongs to a graph."""
    trainable: bool
    """Whether parameters take part in the graph."""
    training: bool

    @property
    def mask(self) -> Tensor:
        """The mask of the AdversarialDropout layer in front of it, provided that no activation is 0."""
        return self.seen != 0


class Recorder(nn.Module):
    """Adds Gaussian noise, in training and evaluation, and records each run. Its parameter is 1."""

    def __init__(self, std: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.std = std
        self.generator = generator
        self.scale = nn.Parameter(torch.ones(()))
        self.runs: list[Run] = []

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.zeros_like(x)
        if self.std:
            noise = torch.randn(x.shape, dtype=x.dtype, generator=self.generator)
        trainable = self.scale.requires_grad and torch.is_grad_enabled()
        self.runs.append(Run(x.detach().clone(), noise, x.requires_grad, trainable, self.training))
        return self.scale * (x + self.std * noise)


class Methods(nn.Module):
    """A model with methods ``under`` and ``upper``."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def under(self, x: Tensor) -> Tensor:
        result: Tensor = self.first(x)
        return result

    def upper(self, h: Tensor) -> Tensor:
        result: Tensor = self.second(h)
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.under(x))


class FeaturesAndHead(nn.Module):
    """A model of timm's form."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward_features(self, x: Tensor) -> Tensor:
        result: Tensor = self.first(x)
        return result

    def forward_head(self, h: Tensor) -> Tensor:
        result: Tensor = self.second(h)
        return result

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


class Opaque(nn.Module):
    """A model that cannot be cut."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


def in_form(form: str, under: list[nn.Module], upper: list[nn.Module]) -> nn.Module:
    """The network in the given form. ``upper`` starts with the AdversarialDropout layer."""
    if form == "sequential":
        return nn.Sequential(*under, *upper)
    if form == "methods":
        return Methods(nn.Sequential(*under), nn.Sequential(*upper))
    if form == "features and head":
        return FeaturesAndHead(nn.Sequential(*under), nn.Sequential(*upper))
    assert form == "opaque"
    return Opaque(*under, *upper)


@dataclass
class Net:
    """``head(above(layer(below(stem(x)))))`` and its parts; ``std`` is the noise of both recorders."""

    model: nn.Module
    stem: nn.Module
    below: Recorder
    layer: AdversarialDropout
    above: Recorder
    head: nn.Module
    std: float
    parameters: list[nn.Parameter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = [*self.stem.parameters(), *self.head.parameters()]

    def h(self, x: Tensor, noise: Tensor) -> Tensor:
        """The input of the layer, computed without recorder and layer."""
        result: Tensor = self.stem(x) + self.std * noise
        return result

    def logits(self, masked: Tensor, noise: Tensor) -> Tensor:
        """The logits for the output of the layer, computed without recorder and layer."""
        result: Tensor = self.head(masked + self.std * noise)
        return result

    def grads(self, loss: Tensor) -> list[Tensor]:
        """Gradients of ``loss`` in the parameters of stem and head."""
        return list(torch.autograd.grad(loss, self.parameters, retain_graph=True, materialize_grads=True))


def build(
    form: str = "sequential",
    *,
    p: float = 0.5,
    delta: float = 0.3,
    rescale: Literal["inverted", "sum", "none"] = "inverted",
    std: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Net:
    """A small float64 network with 10 units, 3 flips, and positive activations, which show the mask."""
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Linear(6, UNITS), nn.Softplus())
    head = nn.Sequential(nn.Linear(UNITS, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    below, above = Recorder(std, generator), Recorder(std, generator)
    layer = AdversarialDropout(p, delta, rescale=rescale)
    model = in_form(form, [stem, below], [layer, above, head])
    model.double()
    return Net(model, stem, below, layer, above, head, std)


def batch(n: int = 5, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs (n, 6) and labels (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def plain(divergence: str, target: Tensor, logits: Tensor) -> Tensor:
    """The three divergences by their formulas, one value per example."""
    q = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    if target.is_floating_point():
        t = target.exp() / target.exp().sum(dim=1, keepdim=True)
    else:
        t = torch.eye(logits.shape[1], dtype=logits.dtype)[target]
    if divergence == "qe":
        return ((t - q) ** 2).sum(dim=1) / logits.shape[1]
    cross = -(t * q.log()).sum(dim=1)
    if divergence == "ce" or not target.is_floating_point():
        return cross
    return cross + (t * t.log()).sum(dim=1)


def flipped(base: Tensor, jacobian: Tensor, flips: int) -> Tensor:
    """Algorithm 1 as a loop over examples and units: flip the units with the largest positive gain."""
    result = base.flatten(1).clone()
    for row, slopes in zip(result, jacobian.flatten(1).tolist(), strict=True):
        gains = [-slope if kept else slope for kept, slope in zip(row.tolist(), slopes, strict=True)]
        for unit in sorted(range(len(gains)), key=lambda i: (-gains[i], i))[:flips]:
            if gains[unit] > 0:
                row[unit] = ~row[unit]
    return result.view_as(base)


def rescaled(mask: Tensor, p: float, rescale: str) -> Tensor:
    """The factors that training applies for ``mask``."""
    factors = mask.double()
    if rescale == "inverted":
        return factors / (1 - p)
    if rescale == "sum":
        return torch.stack([row * row.numel() / max(row.sum().item(), 1) for row in factors])
    return factors


def assert_same(actual: list[Tensor] | Tensor, expected: list[Tensor] | Tensor) -> None:
    """Values agree to float64 rounding."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)

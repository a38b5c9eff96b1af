"""The network of Table 4."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice, check_fraction
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.models.network import CutNetwork, PoolingNetwork, Shape, he_initialised
from adversarial_dropout.experiments.models.noise import Dropout, GaussianNoise

_LEAK = 0.1
_EPS = 1e-6  # From the authors' code; the paper gives none.
_SMALLEST = 12

Norm = Literal["batch", "mean-only"]


@dataclass(frozen=True, kw_only=True)
class ConvLarge(PoolingNetwork):
    """The SVHN and CIFAR-10 network (Table 4 of Park et al., AAAI 2018; Laine & Aila, ICLR 2017): Gaussian noise; 3 ×
    conv 3×3, 128; pooling, dropout; 3 × conv 3×3, 256; pooling (in the family ``authors/``, dropout); conv 3×3, 512 (no
    padding); conv 1×1, 256; conv 1×1, 128; global average pooling; adversarial dropout on 128 units; the output. Every
    convolution is followed by normalisation and LeakyReLU(0.1). For images of 12 × 12 pixels or more.

    The table prints only the first dropout; the authors' code and Laine & Aila have both. Pooling comes before
    LeakyReLU here, which gives the same result and costs less.
    """

    name = "conv-large"
    work = 100.0

    width: int = 128
    """Channels of the first block; the later ones have 2 and 4 times as many."""
    norm: Norm = "batch"
    """Normalisation."""
    norm_momentum: float = 0.1
    """Share of the newest batch in the running statistics."""
    norm_logits: bool = False
    """Whether the logits are normalised too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.norm", self.norm, get_args(Norm))
        check_fraction("model.norm_momentum", self.norm_momentum)
        check_at_least("model.width", self.width, 1)

    def build(self, shape: Shape, classes: int) -> CutNetwork:
        channels, height, width = shape
        if min(height, width) < _SMALLEST:
            raise InvalidValueError(
                f"expected images of {_SMALLEST} × {_SMALLEST} pixels or more for conv-large, got {height} × {width}; "
                f"enlarge them with --data.resize {_SMALLEST}, or take --model.name small-cnn"
            )
        w = self.width

        def norm(features: int) -> nn.Module:
            if self.norm == "mean-only":
                return MeanOnlyBatchNorm(features, self.norm_momentum)
            return nn.BatchNorm2d(features, eps=_EPS, momentum=self.norm_momentum)

        def block(inner: int, out: int, kernel_size: int = 3, padding: int = 0, p: float | None = None) -> nn.Module:
            pool = [] if p is None else [nn.MaxPool2d(2)]
            dropout = [] if p is None else [Dropout(p)]
            convolution = nn.Conv2d(inner, out, kernel_size, padding=padding, bias=False)
            return nn.Sequential(convolution, norm(out), *pool, nn.LeakyReLU(_LEAK), *dropout)

        under = nn.Sequential(
            GaussianNoise(self.input_noise, in_evaluation=self.noise_in_evaluation),
            block(channels, w, padding=1),
            block(w, w, padding=1),
            block(w, w, padding=1, p=self.dropout1),
            block(w, 2 * w, padding=1),
            block(2 * w, 2 * w, padding=1),
            block(2 * w, 2 * w, padding=1, p=self.dropout2),
            block(2 * w, 4 * w),
            block(4 * w, 2 * w, 1),
            block(2 * w, w, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        head: list[nn.Module] = [nn.Linear(w, classes)]
        if self.norm_logits:
            head.append(nn.BatchNorm1d(classes, eps=_EPS, momentum=self.norm_momentum))
        return he_initialised(CutNetwork(under, self.dropout(), nn.Sequential(*head)))

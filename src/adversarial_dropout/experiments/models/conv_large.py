"""The network of Table 4."""

from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.experiments.models.cut import CutNetwork, he_initialised
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.models.noise import Dropout, GaussianNoise
from adversarial_dropout.layers import AdversarialDropout

_LEAK = 0.1
_EPS = 1e-6  # The authors' code; the paper names none.
_SMALLEST = 12


def conv_large(
    config: ModelConfig, dropout: AdversarialDropout, shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """The SVHN and CIFAR-10 network (Table 4 of Park et al., AAAI 2018; Laine & Aila, ICLR 2017): Gaussian noise; 3 ×
    conv 3×3, 128; pooling, dropout; 3 × conv 3×3, 256; pooling (in the family ``authors/``, dropout); conv 3×3, 512 (no
    padding); conv 1×1, 256; conv 1×1, 128; global average pooling; adversarial dropout on 128 units; the output. Every
    convolution is followed by normalisation and LeakyReLU(0.1).

    The table prints the first dropout alone, the authors' code and Laine & Aila have both. Pooling comes before
    LeakyReLU here, which gives the same and costs less.

    Args:
        config: Uses ``width`` (128 in the table), ``norm``, ``norm_momentum``, ``norm_logits``, ``dropout1``,
            ``dropout2``, ``input_noise`` and ``noise_in_evaluation``.
        dropout: The layer in front of the output.
        shape: Of an image, (C, H, W), 12 × 12 pixels or more.
        classes: Number of classes.

    Raises:
        InvalidValueError: the images are too small.
    """
    channels, height, width = shape
    if min(height, width) < _SMALLEST:
        raise InvalidValueError(
            f"expected images of {_SMALLEST} × {_SMALLEST} pixels or more for conv-large, got {height} × {width}; "
            f"enlarge them with --data.resize {_SMALLEST}, or take --model.name small-cnn"
        )
    w = config.width

    def norm(features: int) -> nn.Module:
        if config.norm == "mean-only":
            return MeanOnlyBatchNorm(features, config.norm_momentum)
        return nn.BatchNorm2d(features, eps=_EPS, momentum=config.norm_momentum)

    def block(inner: int, out: int, kernel_size: int = 3, *, padding: int = 0, p: float | None = None) -> nn.Sequential:
        pool = [] if p is None else [nn.MaxPool2d(2)]
        dropout = [] if p is None else [Dropout(p)]
        convolution = nn.Conv2d(inner, out, kernel_size, padding=padding, bias=False)
        return nn.Sequential(convolution, norm(out), *pool, nn.LeakyReLU(_LEAK), *dropout)

    under = nn.Sequential(
        GaussianNoise(config.input_noise, in_evaluation=config.noise_in_evaluation),
        block(channels, w, padding=1),
        block(w, w, padding=1),
        block(w, w, padding=1, p=config.dropout1),
        block(w, 2 * w, padding=1),
        block(2 * w, 2 * w, padding=1),
        block(2 * w, 2 * w, padding=1, p=config.dropout2),
        block(2 * w, 4 * w),
        block(4 * w, 2 * w, 1),
        block(2 * w, w, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    head: list[nn.Module] = [nn.Linear(w, classes)]
    if config.norm_logits:
        head.append(nn.BatchNorm1d(classes, eps=_EPS, momentum=config.norm_momentum))
    return he_initialised(CutNetwork(under, dropout, nn.Sequential(*head)))

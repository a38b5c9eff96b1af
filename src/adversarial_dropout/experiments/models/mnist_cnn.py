"""The network of Table 3."""

from torch import nn

from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.experiments.models.cut import CutNetwork, he_initialised
from adversarial_dropout.experiments.models.noise import Dropout, GaussianNoise
from adversarial_dropout.layers import AdversarialDropout

_CHANNELS = (32, 64, 128)
_DENSE = 625


def mnist_cnn(config: ModelConfig, dropout: AdversarialDropout, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The MNIST network (Table 3 of Park et al., AAAI 2018): three convolutions of 32, 64, 128 channels, each followed
    by ReLU and 2 × 2 pooling (28 → 14 → 7 → 4 pixels), dropout after the first two poolings, adversarial dropout on
    4·4·128 = 2,048 units, 625 units with ReLU, the output. 1,379,557 parameters with 3 × 3 kernels, 10 classes and grey
    images of 28 × 28 pixels.

    The table prints 1 × 1 kernels, and no activation after the 625 units. Pooling comes before ReLU here, which gives
    the same and costs less.

    Args:
        config: Uses ``kernel_size`` (odd), ``dropout1``, ``dropout2``, ``input_noise`` and ``noise_in_evaluation``.
        dropout: The layer in front of the dense ones.
        shape: Of an image, (C, H, W).
        classes: Number of classes.
    """
    channels, height, width = shape
    layers: list[nn.Module] = [GaussianNoise(config.input_noise, in_evaluation=config.noise_in_evaluation)]
    for out, p in zip(_CHANNELS, (config.dropout1, config.dropout2, 0), strict=True):
        layers += [
            nn.Conv2d(channels, out, config.kernel_size, padding="same"),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
        ]
        layers += [Dropout(p)] if p else []
        channels, height, width = out, -(-height // 2), -(-width // 2)
    head = nn.Sequential(nn.Linear(channels * height * width, _DENSE), nn.ReLU(), nn.Linear(_DENSE, classes))
    return he_initialised(CutNetwork(nn.Sequential(*layers, nn.Flatten()), dropout, head))

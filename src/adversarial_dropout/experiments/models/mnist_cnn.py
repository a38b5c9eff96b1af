"""The network of Table 3."""

from dataclasses import dataclass

from torch import nn

from adversarial_dropout.errors import InvalidValueError, check_at_least
from adversarial_dropout.experiments.models.network import CutNetwork, PoolingNetwork, Shape, he_initialised
from adversarial_dropout.experiments.models.noise import Dropout, GaussianNoise

_CHANNELS = (32, 64, 128)
_DENSE = 625


@dataclass(frozen=True, kw_only=True)
class MnistCnn(PoolingNetwork):
    """The MNIST network (Table 3 of Park et al., AAAI 2018): three convolutions of 32, 64, 128 channels, each followed
    by ReLU and 2 × 2 pooling (28 → 14 → 7 → 4 pixels), dropout after the first two poolings, adversarial dropout on
    4·4·128 = 2,048 units, 625 units with ReLU, the output. 1,379,557 parameters with 3 × 3 kernels, 10 classes and grey
    images of 28 × 28 pixels.

    The table prints 1 × 1 kernels and no activation after the 625 units. Pooling comes before ReLU here, which gives
    the same result and costs less.
    """

    name = "mnist-cnn"
    work = 1.0

    kernel_size: int = 3
    """Width of the kernels in pixels, odd; the paper prints 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("model.kernel_size", self.kernel_size, 1)
        if self.kernel_size % 2 == 0:
            raise InvalidValueError(f"expected model.kernel_size to be odd, got {self.kernel_size}")

    def build(self, shape: Shape, classes: int) -> CutNetwork:
        channels, height, width = shape
        layers: list[nn.Module] = [GaussianNoise(self.input_noise, in_evaluation=self.noise_in_evaluation)]
        for out, p in zip(_CHANNELS, (self.dropout1, self.dropout2, 0), strict=True):
            layers += [
                nn.Conv2d(channels, out, self.kernel_size, padding="same"),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.ReLU(),
            ]
            layers += [Dropout(p)] if p else []
            channels, height, width = out, -(-height // 2), -(-width // 2)
        head = nn.Sequential(nn.Linear(channels * height * width, _DENSE), nn.ReLU(), nn.Linear(_DENSE, classes))
        return he_initialised(CutNetwork(nn.Sequential(*layers, nn.Flatten()), self.dropout(), head))

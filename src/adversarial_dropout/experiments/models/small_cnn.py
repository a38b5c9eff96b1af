"""A small network for small images."""

from dataclasses import dataclass

from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.models.network import CutNetwork, NoisyNetwork, Shape
from adversarial_dropout.experiments.models.noise import GaussianNoise

_SMALLEST = 4


@dataclass(frozen=True, kw_only=True)
class SmallCnn(NoisyNetwork):
    """Three 3 × 3 convolutions with ReLU, two poolings, and adversarial dropout before the linear output, for images of
    4 × 4 pixels or more. With 8 × 8 pixels the dropout layer has 256 units.
    """

    name = "small-cnn"
    work = 0.1

    def build(self, shape: Shape, classes: int) -> CutNetwork:
        channels, height, width = shape
        if min(height, width) < _SMALLEST:
            raise InvalidValueError(
                f"expected images of {_SMALLEST} × {_SMALLEST} pixels or more for small-cnn, got {height} × {width}"
            )
        under = nn.Sequential(
            GaussianNoise(self.input_noise, in_evaluation=self.noise_in_evaluation),
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        units = 64 * (height // 4) * (width // 4)
        return CutNetwork(under, self.dropout(), nn.Linear(units, classes))

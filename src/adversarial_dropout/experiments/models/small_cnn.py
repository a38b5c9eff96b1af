"""A small network for small images."""

from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.experiments.models.cut import CutNetwork
from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.layers import AdversarialDropout

_SMALLEST = 4


def small_cnn(
    config: ModelConfig, dropout: AdversarialDropout, shape: tuple[int, int, int], classes: int
) -> CutNetwork:
    """Three 3 × 3 convolutions with ReLU, two poolings, and adversarial dropout before the linear output.

    For images of 8 × 8 pixels the dropout layer has 256 units.

    Args:
        config: Uses ``input_noise`` and ``noise_in_evaluation``.
        dropout: The layer between the last pooling and the output.
        shape: Of an image, (C, H, W), 4 × 4 pixels or more.
        classes: Number of classes.

    Raises:
        InvalidValueError: the images are too small.
    """
    channels, height, width = shape
    if min(height, width) < _SMALLEST:
        raise InvalidValueError(
            f"expected images of {_SMALLEST} × {_SMALLEST} pixels or more for small-cnn, got {height} × {width}"
        )
    under = nn.Sequential(
        GaussianNoise(config.input_noise, in_evaluation=config.noise_in_evaluation),
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
    return CutNetwork(under, dropout, nn.Linear(units, classes))

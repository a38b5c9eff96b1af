"""The autoencoder of Figures 2 and 3, and the error that it is trained and judged by."""

from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.experiments.models.cut import CutNetwork, he_initialised
from adversarial_dropout.layers import AdversarialDropout

_NORMAL = 0.01


class Autoencoder(CutNetwork):
    """A network whose output is its input again, flattened: images (N, C, H, W) to (N, C·H·W) in [0, 1]."""


def autoencoder(
    config: ModelConfig, dropout: AdversarialDropout, shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """One hidden layer: linear, ReLU, adversarial dropout, linear, sigmoid. 784–256–784 on MNIST, 402,448 parameters.

    The paper gives sizes and ReLU; sigmoid keeps the output in the range of the pixels.

    Args:
        config: Uses ``width``, the number of hidden units, and ``initialization``.
        dropout: The layer on the hidden units.
        shape: Of an image, (C, H, W).
        classes: Not used.
    """
    channels, height, width = shape
    pixels = channels * height * width
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, config.width), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(config.width, pixels), nn.Sigmoid())
    network = Autoencoder(encoder, dropout, decoder)
    return he_initialised(network) if config.initialization == "he" else _normal_initialised(network)


def _normal_initialised(network: nn.Module) -> nn.Module:
    """``network`` with weights from N(0, 0.01²) and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=_NORMAL)
            nn.init.zeros_(module.bias)
    return network


def reconstruction_error(target: Tensor, prediction: Tensor) -> Tensor:
    """Mean over the pixels of the squared difference: a divergence for networks whose output is an image.

    Args:
        target: The image, or another reconstruction of it, shape (N, D).
        prediction: The reconstruction, shape (N, D).

    Returns:
        Values ≥ 0 in squared units of a pixel, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidValueError: the shapes differ.
    """
    if target.shape != prediction.shape:
        raise InvalidValueError(
            f"expected a target of the reconstruction's shape {tuple(prediction.shape)}, got {tuple(target.shape)}; "
            f"flatten the images: x.flatten(1)"
        )
    return (target - prediction).square().flatten(1).mean(dim=1)

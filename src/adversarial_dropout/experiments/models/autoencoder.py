"""The autoencoder of Figures 2 and 3, and the error that it is trained and judged by."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice
from adversarial_dropout.experiments.models.network import CutNetwork, Network, Shape, he_initialised

_NORMAL = 0.01


Initialization = Literal["he", "normal"]


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Network):
    """One hidden layer: linear, ReLU, adversarial dropout, linear, sigmoid. 784–256–784 on MNIST, 402,448 parameters.

    The output is the input again, flattened: images (N, C, H, W) to (N, C·H·W) in [0, 1]. The paper gives sizes and
    ReLU; sigmoid keeps the output in the range of the pixels.
    """

    name = "autoencoder"
    task = "images"
    work = 0.1

    width: int = 256
    """Hidden units."""
    initialization: Initialization = "he"
    """Of the weights: "he": N(0, 2 / fan-in). "normal": N(0, 0.01²)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.initialization", self.initialization, get_args(Initialization))
        check_at_least("model.width", self.width, 1)

    def build(self, shape: Shape, classes: int) -> CutNetwork:
        channels, height, width = shape
        pixels = channels * height * width
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, self.width), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(self.width, pixels), nn.Sigmoid())
        network = CutNetwork(encoder, self.dropout(), decoder)
        return he_initialised(network) if self.initialization == "he" else _normal_initialised(network)


def _normal_initialised(network: CutNetwork) -> CutNetwork:
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

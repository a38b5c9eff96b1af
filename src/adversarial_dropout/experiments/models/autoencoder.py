"""The autoencoder of Figures 2 and 3, and the error with which it is trained and evaluated."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice
from adversarial_dropout.experiments.models.network import CutNetwork, Network, Shape, he_initialised

Initialization = Literal["he", "normal"]


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Network):
    """One hidden layer: linear, ReLU, adversarial dropout, linear, sigmoid. 784–256–784 on MNIST, 402,448 parameters.

    The output has the shape (N, C·H·W) and values in [0, 1]. The paper gives the sizes and ReLU; sigmoid keeps the
    output in the range of the pixels.
    """

    name = "autoencoder"
    task = "images"
    work = 0.1

    width: int = 256
    """Hidden units."""
    initialization: Initialization = "he"
    """Initialisation of the weights. "he": N(0, 2 / fan-in). "normal": N(0, 0.01²)."""

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
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return network


def reconstruction_error(target: Tensor, prediction: Tensor) -> Tensor:
    """Mean squared difference of the pixels: a divergence for networks whose output is an image.

    Both arguments have the shape (N, D) and get gradients; the result has the shape (N,).
    """
    if target.shape != prediction.shape:
        raise InvalidValueError(
            f"expected a target of the reconstruction's shape {tuple(prediction.shape)}, got {tuple(target.shape)}; "
            f"flatten the images: x.flatten(1)"
        )
    return (target - prediction).square().flatten(1).mean(dim=1)

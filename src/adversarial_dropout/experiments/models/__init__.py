"""Networks by name. Each has ``under`` and ``upper``, so that regularisers know where to cut."""

from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.models.autoencoder import Autoencoder
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.models.network import Network, Shape
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.models.small_resnet import SmallResnet

NETWORKS: dict[str, type[Network]] = {
    network.name: network for network in (SmallCnn, SmallResnet, MnistCnn, ConvLarge, Autoencoder, Pretrained)
}
"""All networks, by name."""


def find_network(name: str) -> type[Network]:
    """Settings of the network of that name; an unknown name is an :class:`InvalidValueError`."""
    check_choice("model.name", name, tuple(NETWORKS))
    return NETWORKS[name]


def load(network: Network, shape: Shape, classes: int, weights: Path) -> nn.Module:
    """Build the network on the CPU in evaluation mode, with the saved weights of the file ``weights`` (safetensors).

    It takes images, also where it was trained on features of them.
    """
    model = network.build(shape, classes)
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise InvalidValueError(
            f"cannot read the weights {weights}: {error}; delete its folder and repeat the run"
        ) from error
    return network.on_images(model).eval()

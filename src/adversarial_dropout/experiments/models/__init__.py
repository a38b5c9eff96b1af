"""Networks by name. Each offers ``under`` and ``upper``, so that regularisers know where to cut."""

from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from adversarial_dropout.errors import InvalidValueError, did_you_mean
from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.experiments.models.autoencoder import autoencoder
from adversarial_dropout.experiments.models.conv_large import conv_large
from adversarial_dropout.experiments.models.mnist_cnn import mnist_cnn
from adversarial_dropout.experiments.models.small_cnn import small_cnn
from adversarial_dropout.layers import AdversarialDropout

Shape = tuple[int, int, int]
"""Of an image: channels, height, width."""

_MODELS: dict[str, Callable[[ModelConfig, AdversarialDropout, Shape, int], nn.Module]] = {
    "small-cnn": small_cnn,
    "mnist-cnn": mnist_cnn,
    "conv-large": conv_large,
    "autoencoder": autoencoder,
}


def build(config: ModelConfig, shape: Shape, classes: int) -> nn.Module:
    """Build the network that ``config`` describes, for images of ``shape`` and that many classes.

    Raises:
        InvalidValueError: there is no network of that name, a setting of it is out of range, or the images are too
            small for it.
    """
    if config.name not in _MODELS:
        raise InvalidValueError(
            f"expected a model of {', '.join(_MODELS)}, got {config.name!r}{did_you_mean(config.name, _MODELS)}"
        )
    dropout = AdversarialDropout(config.p, config.delta, granularity=config.granularity, rescale=config.rescale)
    return _MODELS[config.name](config, dropout, shape, classes)


def load(config: ModelConfig, shape: Shape, classes: int, weights: Path) -> nn.Module:
    """Build the network and read its saved weights (safetensors), on the CPU, in evaluation mode.

    Raises:
        InvalidValueError: the file is damaged, or belongs to another network.
    """
    model = build(config, shape, classes)
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise InvalidValueError(
            f"cannot read the weights {weights}: {error}; delete its folder and repeat the run"
        ) from error
    return model.eval()

"""Networks by name. Each offers ``under`` and ``upper``, so that regularisers know where to cut."""

from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from adversarial_dropout.errors import InvalidValueError, did_you_mean
from adversarial_dropout.experiments.config import ModelConfig
from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.experiments.models.small_cnn import SmallCNN
from adversarial_dropout.layers import AdversarialDropout

_MODELS: dict[str, Callable[[GaussianNoise, AdversarialDropout, int], nn.Module]] = {"small-cnn": SmallCNN}


def build(config: ModelConfig, classes: int) -> nn.Module:
    """Build the network that ``config`` describes, for that many classes.

    Raises:
        InvalidValueError: there is no network of that name, or a setting of its dropout layer is out of range.
    """
    if config.name not in _MODELS:
        raise InvalidValueError(
            f"expected a model of {', '.join(_MODELS)}, got {config.name!r}{did_you_mean(config.name, _MODELS)}"
        )
    dropout = AdversarialDropout(config.p, config.delta, granularity=config.granularity, rescale=config.rescale)
    return _MODELS[config.name](GaussianNoise(config.input_noise), dropout, classes)


def load(config: ModelConfig, classes: int, weights: Path) -> nn.Module:
    """Build the network and read its saved weights (safetensors), on the CPU, in evaluation mode.

    Raises:
        InvalidValueError: the file is damaged, or belongs to another network.
    """
    model = build(config, classes)
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise InvalidValueError(
            f"cannot read the weights {weights}: {error}; delete its folder and repeat the run"
        ) from error
    return model.eval()

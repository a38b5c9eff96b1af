"""Pretrained networks that turn images into features: where their files are, and how each library loads them."""

import torch

from adversarial_dropout.experiments.backbones.backbone import Backbone as Backbone
from adversarial_dropout.experiments.backbones.backbone import Preprocessing as Preprocessing
from adversarial_dropout.experiments.backbones.files import BackboneError as BackboneError
from adversarial_dropout.experiments.backbones.files import BackboneFiles as BackboneFiles
from adversarial_dropout.experiments.backbones.files import find as find


def load(found: BackboneFiles) -> Backbone:
    """Load the backbone on the CPU. The random numbers of the caller are left as they are.

    Raises:
        InvalidValueError: a package is missing, it is no image model, its weights do not belong to it, or it cannot
            take images of the size asked for.
    """
    with torch.random.fork_rng([]):
        if found.library == "transformers":
            from adversarial_dropout.experiments.backbones.of_transformers import network
        elif found.library == "timm":
            from adversarial_dropout.experiments.backbones.of_timm import network
        else:
            from adversarial_dropout.experiments.backbones.efficientnet_lite import network
        return Backbone(network(found), found.preprocessing, found.source)

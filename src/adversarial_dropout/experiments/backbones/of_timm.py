"""Image models of timm (Wightman, PyTorch Image Models)."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.backbones.backbone import Interpolation, Preprocessing
from adversarial_dropout.experiments.backbones.files import BackboneError, BackboneFiles

_SHOWN = 200  # Characters of a message of timm.


def preprocessing(folder: Path, config: dict[str, Any], where: str, size: int | None) -> Preprocessing:
    """Read what the config says of the images."""
    given = config.get("pretrained_cfg", config)
    try:
        interpolation = str(given["interpolation"])
        mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (given["mean"], given["std"]))
        own = int(given["input_size"][-1])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidValueError(
            f"expected pretrained_cfg with input_size, mean, std and interpolation in config.json of {where}, as timm "
            f"writes it, got {type(error).__name__}: {error}; download config.json again"
        ) from error
    known = interpolation if interpolation in ("nearest", "bilinear", "bicubic") else "bicubic"
    return Preprocessing(size or own, mean, std, cast(Interpolation, known))


def network(found: BackboneFiles) -> nn.Module:
    """Build the model without its classifier, so that it returns features, and load its weights."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise InvalidValueError(
            f"--model.source {found.source} is a model of timm, which needs {error.name}; pip install timm torchvision"
        ) from error
    loaded: list[nn.Module] = []
    try:
        for seed in (0, 1):  # timm does not always say which weights are missing: those differ between the two.
            torch.manual_seed(seed)
            loaded.append(timm.create_model(f"local-dir:{found.folder}", pretrained=True, num_classes=0))
    except OSError as error:
        raise BackboneError(f"cannot read {found.weights[0]}: {error}; download it again") from error
    except Exception as error:  # timm raises many kinds of errors.
        cause = " ".join(str(error).split())[:_SHOWN]
        raise InvalidValueError(
            f"expected a model of timm in {found.source}, got {found.config['architecture']}, which timm cannot build "
            f"with these weights: {type(error).__name__}: {cause}"
        ) from error
    first, second = loaded
    for (name, weight), other in zip(first.named_parameters(), second.parameters(), strict=True):
        if not torch.equal(weight, other):
            raise InvalidValueError(
                f"expected all weights of {found.config['architecture']} in {found.source}, got none for {name}; the "
                f"file belongs to another model"
            )
    return first

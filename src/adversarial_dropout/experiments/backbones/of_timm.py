"""Image models of timm (Wightman, PyTorch Image Models)."""

from pathlib import Path
from typing import Any, cast

from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.backbones.backbone import Interpolation, Preprocessing
from adversarial_dropout.experiments.backbones.files import BackboneError, BackboneFiles


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
    try:
        model: nn.Module = timm.create_model(f"local-dir:{found.folder}", pretrained=True, num_classes=0)
    except OSError as error:
        raise BackboneError(f"cannot read {found.weights[0]}: {error}; download it again") from error
    except Exception as error:  # timm raises many kinds of errors.
        raise InvalidValueError(
            f"expected a model of timm in {found.source}, got {found.config['architecture']}, which timm cannot build "
            f"with these weights: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    return model

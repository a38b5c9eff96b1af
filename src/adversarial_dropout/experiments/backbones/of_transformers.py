"""Image models of Hugging Face transformers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.backbones.backbone import Interpolation, Preprocessing
from adversarial_dropout.experiments.backbones.files import BackboneFiles, read_json

_INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers. PyTorch has no Lanczos (1); bicubic is nearest to it."""
_BRIGHTEST = 255.0
_MAPS = 4  # Dimensions of (N, C, H, W).
_NOT_NEEDED = ("mask_token", "num_batches_tracked", "position_ids")
"""Weights that features do not depend on."""


def preprocessing(folder: Path, config: dict[str, Any], where: str, size: int | None) -> Preprocessing:
    """Read preprocessor_config.json: size or crop, mean, std, and how images are resized.

    A crop is not made: the whole image is resized to the size of the crop.
    """
    missing = (
        f"expected preprocessor_config.json in {where}, which says how its images are normalised; download it too, or "
        f'write one: {{"size": 224, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}} with its figures'
    )
    path = folder / "preprocessor_config.json"
    given = read_json(path, missing) if path.exists() else read_json(folder / "processor_config.json", missing)
    given = given.get("image_processor", given)
    try:
        factor = float(given.get("rescale_factor", 1 / _BRIGHTEST)) if given.get("do_rescale", True) else 1.0
        offset = 1.0 if given.get("rescale_offset") else 0.0
        normalised = given.get("do_normalize", True)
        mean = [float(value) for value in (given["image_mean"] if normalised else [0.0] * 3)]
        std = [float(value) for value in (given["image_std"] if normalised else [1.0] * 3)]
        # ((255 x factor - offset) - mean) / std on the scale from 0 to 1.
        scale = _BRIGHTEST * factor
        red, green, blue = ((value + offset) / scale for value in mean)
        of_red, of_green, of_blue = (value / scale for value in std)
        return Preprocessing(
            size or _size(given, config),
            (red, green, blue),
            (of_red, of_green, of_blue),
            _INTERPOLATIONS.get(given.get("resample", 2), "bilinear"),
            bool(given.get("do_flip_channel_order", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidValueError(
            f"expected size, image_mean and image_std of three channels in preprocessor_config.json of {where}, got "
            f"{type(error).__name__}: {error}; complete it"
        ) from error


def _size(given: dict[str, Any], config: dict[str, Any]) -> int:
    crop = given.get("crop_size") if given.get("do_center_crop") else None
    for size in (crop, given.get("size"), config.get("image_size")):
        if isinstance(size, dict):
            size = next((size[name] for name in ("height", "shortest_edge", "longest_edge") if size.get(name)), None)
        if isinstance(size, list):
            size = size[0]
        if size is not None:
            return int(size)
    raise KeyError("size")


class TransformersNetwork(nn.Module):
    """A model of transformers, from normalised images to features.

    Args:
        model: The model.
        pooled: Whether its pooled output is used where it has one.
        class_token: Whether its first position stands for the image otherwise; if not, the mean over all positions.
    """

    def __init__(self, model: nn.Module, *, pooled: bool, class_token: bool) -> None:
        super().__init__()
        self.model = model
        self.pooled = pooled
        self.class_token = class_token
        self._of_two = hasattr(type(model), "get_image_features")  # It has a part for text as well.

    def forward(self, x: Tensor) -> Tensor:
        output: Any = self.model.get_image_features(pixel_values=x) if self._of_two else self.model(pixel_values=x)  # type: ignore[operator]
        pooled = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        if pooled is not None and self.pooled:
            features: Tensor = pooled.flatten(1)
            return features
        maps: Tensor = output.last_hidden_state
        if maps.dim() == _MAPS:
            return maps.mean(dim=(2, 3))
        return maps[:, 0] if self.class_token else maps.mean(dim=1)


def network(found: BackboneFiles) -> nn.Module:
    """Load the model without a head. Code in its folder is never run.

    Features are the pooled output. Without one, or if the weights have no trained pooler, they are the class token or,
    in a model without one, the mean over all positions.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise InvalidValueError(
            f"--model.source {found.source} is a model of transformers; pip install 'adversarial-dropout[pretrained]'"
        ) from error
    with _quiet():
        kind = _model_class(found)
        try:
            model, about = transformers.AutoModel.from_pretrained(
                found.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=not found.pickled,
                weights_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises many kinds of errors.
            raise InvalidValueError(
                f"expected weights of a {kind.__name__} in {found.source}, got files that cannot be loaded: "
                f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            ) from error
    absent = {str(name) for name in about["missing_keys"] if not any(part in str(name) for part in _NOT_NEEDED)}
    untrained = {name for name in absent if "pooler" in name.split(".")}
    if absent - untrained:
        raise InvalidValueError(
            f"expected all weights of a {kind.__name__} in {found.source}, got none for {len(absent - untrained)} of "
            f"them, such as {min(absent - untrained)}; the file belongs to another model"
        )
    class_token = any("cls_token" in name for name, _ in model.named_parameters())
    return TransformersNetwork(model, pooled=not untrained, class_token=class_token)


def _model_class(found: BackboneFiles) -> type[Any]:
    """The class of the model, before its weights are read; raise if it does not take images."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        config = transformers.AutoConfig.from_pretrained(found.folder, local_files_only=True, trust_remote_code=False)
        kind: Any = MODEL_MAPPING[type(config)]
    except Exception as error:  # transformers raises many kinds of errors.
        cause = str(error).strip().partition("\n")[0]
        if "auto_map" in found.config:
            cause = "its code is in its folder, and code from there is never run"
        raise InvalidValueError(
            f"expected a model that transformers {transformers.__version__} knows in {found.source}, got "
            f"{found.config.get('model_type', 'no model_type')!r} in config.json: {cause}"
        ) from error
    kind = kind[0] if isinstance(kind, tuple) else kind
    if kind.main_input_name != "pixel_values" and not hasattr(kind, "get_image_features"):
        raise InvalidValueError(
            f"expected an image model as model.source, got {found.source}, a {kind.__name__}, which takes "
            f"{kind.main_input_name}; give another --model.source"
        )
    return kind  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Load without transformers' notes and progress bars: what matters of them is checked here."""
    from transformers.utils import logging as typed

    logging: Any = typed
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

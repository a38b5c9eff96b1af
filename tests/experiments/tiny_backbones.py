"""Image models of transformers with random weights, small enough for a test, and their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SIZE = 32


def resnet() -> Any:
    return transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    )


def vit() -> Any:
    return transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=20,
            image_size=SIZE,
            patch_size=8,
        )
    )


def convnext() -> Any:
    return transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2))


def mobilenet() -> Any:
    return transformers.MobileNetV2Model(
        transformers.MobileNetV2Config(depth_multiplier=0.1, min_depth=4, image_size=SIZE)
    )


def swin() -> Any:
    return transformers.SwinModel(
        transformers.SwinConfig(
            image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
    )


def dino() -> Any:
    return transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIZE, patch_size=8
        )
    )


def clip() -> Any:
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "image_size": SIZE,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 20,
        "intermediate_size": 20,
    }
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))


def bert() -> Any:
    return transformers.BertModel(
        transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, vocab_size=30
        )
    )


def built(make: Callable[[], Any] = resnet, seed: int = 0) -> Any:
    """The model whose weights :func:`write` writes."""
    torch.manual_seed(seed)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # Others than the first ones, so that they matter.
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model


def write(
    folder: Path, make: Callable[[], Any] = resnet, *, seed: int = 0, pickle: bool = False, **preprocessing: Any
) -> Path:
    """Write a model and its preprocessing to ``folder``; with ``pickle``, weights as older versions wrote them."""
    model = built(make, seed)
    model.save_pretrained(folder)
    if pickle:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    given = {
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 3,
        **preprocessing,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return folder

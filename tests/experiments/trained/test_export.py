"""`export`: the files that it writes say, without this package's loop and data, what the network said."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.trained.trained import Trained

from .. import small_data
from ..calling import fails, printed_by

SHAPES = {"mnist-cnn": (1, 28, 28), "conv-large": (3, 16, 20), "whitened": (1, 8, 8)}


def config_of(name: str, data: Path) -> ExperimentConfig:
    """A short run of the network; "whitened" is small-cnn on whitened images."""
    config = presets.get("paper/mnist-all" if name == "mnist-cnn" else "images", "plain", "tiny")
    training = dataclasses.replace(config.training, epochs=1, steps_per_epoch=15, batch_labelled=16, ramp_up=0)
    if name == "mnist-cnn":
        return config.changed(training=training)
    source = dataclasses.replace(config.data, name=str(data), whiten=name == "whitened", translate=0)
    model = SmallCnn() if name == "whitened" else config.model
    return config.changed(training=training, data=source, model=model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """A finished run of a network, made when it is first asked for."""
    made: dict[str, Record] = {}

    def run(name: str) -> Record:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            if name == "mnist-cnn":
                small_data.hub_files(folder / "data", "mnist")
            else:
                small_data.image_folder(folder / "data", shape=SHAPES[name], each=40)
            config = config_of(name, folder / "data")
            made[name] = loop.run(config, folder / "run", location=DataLocation(folder / "data"))
        return made[name]

    return run


def stored(name: str, number: int) -> Tensor:
    """Images that nobody was trained on, as they are stored."""
    return torch.stack([image for image, _ in small_data.pictures(SHAPES[name], 3, number, seed=50)])


def exported(record: Record, folder: Path, *options: str) -> dict[str, Any]:
    """Export a run and return what the config.json there says."""
    printed = printed_by("export", record.folder, "--out", folder, *options)
    assert set(printed.splitlines()) == {f"wrote {path}" for path in folder.iterdir()}
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize("name", SHAPES)
def test_weights_and_config_make_the_network_again(name: str, trained: Callable[[str], Record], tmp_path: Path) -> None:
    record = trained(name)
    content = exported(record, tmp_path / "export")
    whitening = {"whitening.safetensors"} if name == "whitened" else set()
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"model.safetensors", "config.json", *whitening}
    config = ExperimentConfig.from_dict(content["config"])
    assert config == record.config
    assert tuple(content["data"]["shape"]) == SHAPES[name]
    classes = list(small_data.DIGITS if name == "mnist-cnn" else small_data.FRUIT)
    assert content["data"]["classes"] == classes

    channels, height, width = content["data"]["shape"]
    model = config.model.build((channels, height, width), len(classes))
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "export" / "model.safetensors"))
    x = stored(name, 5).float() / content["data"]["brightest"] - (0.5 if config.data.centre else 0.0)
    if config.data.whiten:
        saved = safetensors.torch.load_file(tmp_path / "export" / "whitening.safetensors")
        x = ((x.flatten(1) - saved["mean"]) @ saved["matrix"]).view_as(x)
    network = Trained.load(record)
    with torch.no_grad():
        logits = model.eval()(x)
        assert torch.equal(logits, network.model(network.pixels(stored(name, 5))))
    assert len(set(logits.argmax(dim=1).tolist())) > 1, "the images differ for it"


@pytest.mark.parametrize("name", SHAPES)
def test_onnx_gives_the_same_probabilities(name: str, trained: Callable[[str], Record], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    record = trained(name)
    exported(record, tmp_path / "export", "--onnx")
    model = onnx.load(tmp_path / "export" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["probabilities"]
    sizes = [(one.dim_param, one.dim_value) for one in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes[0][0], "the number of images is open"
    assert tuple(value for _, value in sizes[1:]) == SHAPES[name]
    outside = reference.ReferenceEvaluator(model)
    network = Trained.load(record)
    for number in (1, 2, 5):
        images = stored(name, number)
        with torch.no_grad():
            expected = network.model(network.pixels(images)).softmax(dim=1).numpy()
        (said,) = outside.run(None, {"images": images.float().numpy()})
        assert said.shape == (number, 10 if name == "mnist-cnn" else 3)
        np.testing.assert_allclose(said, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(said.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the images differ for it"


def test_the_usual_place_and_a_second_time(trained: Callable[[str], Record], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained("whitened").folder, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        printed_by("export", folder)
        assert {path.name for path in (folder / "export").iterdir()} == {
            "model.safetensors",
            "whitening.safetensors",
            "config.json",
        }
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [record.folder for record in records.find_records(tmp_path)] == [folder], "an export is no run"


def test_onnx_without_onnxscript(
    trained: Callable[[str], Record],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, printed = fails(capsys, "export", trained("whitened").folder, "--onnx", "--out", tmp_path / "export")
    assert code == 2
    assert "--onnx needs onnxscript; pip install 'adversarial-dropout[onnx]'" in printed


def test_a_place_that_cannot_be_written(
    trained: Callable[[str], Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, printed = fails(capsys, "export", trained("whitened").folder, "--out", tmp_path / "file" / "export")
    assert code == 1
    assert f"cannot write {tmp_path / 'file' / 'export'}" in printed

"""Exports a trained network: safetensors with its config, and ONNX."""

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.experiments.trained.trained import Trained


def export(trained: Trained, folder: Path, *, onnx: bool = False) -> list[Path]:
    """Write weights and config of ``trained`` to ``folder``, and the network with its preprocessing as ONNX.

    The ONNX model takes "images", float32 of shape (N, C, H, W) with stored pixel values (0 to 255 for usual images),
    and returns "probabilities", (N, classes), in the order of config.json's classes.
    Returns the files written.
    """
    run = trained.record.folder
    if records.is_finished(folder):
        raise InvalidValueError(f"expected a folder for the export alone, got {folder}, which holds a run")
    names = [records.WEIGHTS, *([records.WHITENING] if trained.pixels.whitening is not None else [])]
    for name in names:
        records.write_bytes(folder / name, (run / name).read_bytes())
    content = {"config": trained.record.config.to_dict(), "data": trained.record.final["data"]}
    if "backbone" in trained.record.final:
        content["backbone"] = trained.record.final["backbone"]
    records.write_json(folder / records.CONFIG, content)
    names.append(records.CONFIG)
    if onnx:
        names.append("model.onnx")
        records.write_bytes(folder / names[-1], _onnx(trained))
    return [folder / name for name in names]


def _onnx(trained: Trained) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidValueError("--onnx needs onnxscript; pip install 'adversarial-dropout[onnx]'") from error
    if trained.task == "images":
        raise InvalidValueError(
            f"--onnx is for networks that predict classes, got an autoencoder in {trained.record.folder}; leave it out"
        )
    for module in trained.model.modules():
        if isinstance(module, GaussianNoise):
            module.in_evaluation = False  # An export has no noise, whatever its preset says.
    example = torch.zeros(2, *trained.shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own internals.
        program = torch.onnx.export(
            nn.Sequential(trained.pixels, trained.model, nn.Softmax(dim=1)).eval(),
            (example,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("examples")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())

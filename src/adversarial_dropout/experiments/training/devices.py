"""The device that a run is computed on, and the precision of its products."""

import contextlib
import os
from collections.abc import Iterator
from typing import get_args

import torch

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.config import Device, Precision


def check_device(device: Device) -> None:
    """Raise :class:`InvalidValueError` unless ``device`` is known and there."""
    check_choice("device", device, get_args(Device))
    if device != "cuda" or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        why = f"PyTorch {torch.__version__} is built without CUDA; install a build with it"
    else:
        why = (
            f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, but sees no driver or no GPU "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}); see what nvidia-smi says"
        )
    raise InvalidValueError(f"expected a CUDA GPU for --device cuda, got none: {why}, or give --device cpu")


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Compute matrix products of float32 in TF32, if that is asked for."""
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

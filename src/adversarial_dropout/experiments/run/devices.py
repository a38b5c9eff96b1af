"""The device that a run is computed on, and the precision of its products."""

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import get_args

import torch

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.config import Device, Precision


def check_device(device: Device, processes: int = 1, *, capture: bool = False) -> None:
    """Raise :class:`InvalidValueError` unless ``device`` is known, there for each of this machine's processes, and one
    on which a step can be recorded if it is to be.
    """
    check_choice("device", device, get_args(Device))
    if capture and (device == "cpu" or not torch.cuda.is_available()):
        raise InvalidValueError("expected a CUDA GPU for --capture, which records a step there; leave it out")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError(
            f"expected a CUDA GPU for --device cuda, got none: {_why_no_cuda()}, or give --device cpu"
        )
    gpus = torch.cuda.device_count()
    if device != "cpu" and 0 < gpus < processes:
        raise InvalidValueError(
            f"expected a process for each of the {gpus} GPUs of {platform.node()} at the most, got {processes}; give "
            f"torchrun --nproc-per-node {gpus}, or --device cpu"
        )


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA; install a build with it"
    return (
        f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, but sees no driver or no GPU "
        f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}); see what nvidia-smi says"
    )


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Compute products and convolutions of float32 on a GPU in TF32 if that is asked for, else in float32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_products(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def set_products(precision: Precision) -> None:
    """As :func:`products`, from now on."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"

"""The device that a run is computed on, and the precision of its products."""

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import get_args

import torch

from adversarial_dropout.errors import InvalidValueError, check_choice
from adversarial_dropout.experiments.config import Device, Precision

_OLDEST_FOR_CAPTURE = "2.10"
"""PyTorch in which random streams can be marked and rewound while a CUDA graph is captured."""


def check_device(device: Device, processes: int = 1, *, capture: bool = False) -> None:
    """Raise :class:`InvalidValueError` unless this machine has ``device`` for each of its ``processes``.

    With ``capture``, it must be a device on which steps can be recorded as CUDA graphs.
    """
    check_choice("device", device, get_args(Device))
    if capture and (device == "cpu" or not torch.cuda.is_available()):
        raise InvalidValueError("expected a CUDA GPU for --capture, which records a step there; leave it out")
    if capture and torch.__version__ < _OLDEST_FOR_CAPTURE:
        raise InvalidValueError(
            f"expected PyTorch {_OLDEST_FOR_CAPTURE} or later for --capture, got {torch.__version__}; leave it out"
        )
    if device == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None:
            cause = f"PyTorch {torch.__version__} is built without CUDA; install a build with it"
        else:
            cause = (
                f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, but sees no driver or no GPU "
                f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}); see what nvidia-smi says"
            )
        raise InvalidValueError(f"expected a CUDA GPU for --device cuda, got none: {cause}, or give --device cpu")
    gpus = torch.cuda.device_count()
    if device != "cpu" and 0 < gpus < processes:
        raise InvalidValueError(
            f"expected at most one process for each of the {gpus} GPUs of {platform.node()}, got {processes}; give "
            f"torchrun --nproc-per-node {gpus}, or --device cpu"
        )


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Compute products and convolutions of float32 on a GPU in TF32 if that is asked for, else in float32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]

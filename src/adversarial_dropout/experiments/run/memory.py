"""A step that does not fit into the memory of the GPU: what the error says."""

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.run.step import Batch, Step

_GIB = 2**30
_NOT_COUNTED = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Of errors that mean a lack of memory and that Accelerate does not count."""


class GpuMemoryError(AdversarialDropoutError, MemoryError):
    """A step does not fit into the memory of the GPU."""


def explaining(step: Step) -> Step:
    """``step``, with an error that says what to do where the memory does not suffice.

    Accelerate decides what is a lack of memory (``accelerate.utils.memory.should_reduce_batch_size``), but for two
    messages that it does not count.

    Raises:
        GpuMemoryError: (when called) the step does not fit.
    """

    def explained(batch: Batch, ramp: float) -> dict[str, Tensor]:
        try:
            return step(batch, ramp)
        except RuntimeError as error:
            if not _lacks_memory(error):
                raise
            raise GpuMemoryError(_explanation(batch, str(error))) from error

    return explained


def _lacks_memory(error: RuntimeError) -> bool:
    return should_reduce_batch_size(error) or any(sign in str(error) for sign in _NOT_COUNTED)


def _explanation(batch: Batch, message: str) -> str:
    size, options = f"{len(batch.images)} images", "--training.batch-labelled"
    if batch.unlabelled is not None:
        size = f"{len(batch.images)} labelled and {len(batch.unlabelled)} unlabelled images"
        options += " and --training.batch-unlabelled"
    said = ". ".join(message.splitlines()[0].split(". ")[:2]).rstrip(".")
    return (
        f"out of memory at a step with {size} in this process{_memory(batch.images.device)}: {said}. Lower {options}, "
        f"for example to half, with another --out, or start more processes. The checkpoint of the epoch before stays"
    )


def _memory(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_allocated(device)
    return f" ({total / _GIB:.1f} GiB, of which {free / _GIB:.1f} are free and {own / _GIB:.1f} this run's own)"

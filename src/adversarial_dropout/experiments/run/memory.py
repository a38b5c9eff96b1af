"""A step that does not fit into the memory of the GPU: what the error says."""

import torch
from torch import Tensor

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.run.step import Batch, Step

_GIB = 2**30
_NOT_COUNTED = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of errors that mean a lack of memory and that Accelerate does not count."""


class GpuMemoryError(AdversarialDropoutError, MemoryError):
    """A step does not fit into the memory of the GPU."""


def explaining(step: Step) -> Step:
    """``step``, which raises :class:`GpuMemoryError` with advice if it does not fit into the memory of the GPU."""

    def explained(batch: Batch, ramp: float) -> dict[str, Tensor]:
        try:
            return step(batch, ramp)
        except RuntimeError as error:
            if not _lacks_memory(error):
                raise
            raise GpuMemoryError(_explanation(batch, str(error))) from error

    return explained


def _lacks_memory(error: RuntimeError) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size  # Here, because this import takes long.

    return should_reduce_batch_size(error) or any(sign in str(error) for sign in _NOT_COUNTED)


def _explanation(batch: Batch, message: str) -> str:
    size, options = f"{len(batch.images)} images", "--training.batch-labelled"
    if batch.unlabelled is not None:
        size = f"{len(batch.images)} labelled and {len(batch.unlabelled)} unlabelled images"
        options += " and --training.batch-unlabelled"
    cause = ". ".join(message.splitlines()[0].split(". ")[:2]).rstrip(".")
    free, total = torch.cuda.mem_get_info(batch.images.device)
    used = torch.cuda.memory_allocated(batch.images.device)
    return (
        f"out of memory at a step with {size} in this process ({total / _GIB:.1f} GiB, of which {free / _GIB:.1f} are "
        f"free and {used / _GIB:.1f} used by this run): {cause}. Lower {options}, for example to half, with another "
        f"--out, or start more processes. The checkpoint of the epoch before is unchanged"
    )

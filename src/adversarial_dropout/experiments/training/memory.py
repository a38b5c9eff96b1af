"""A GPU out of memory: how much there is, and which batch would fit."""

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.training.objective import Batch
from adversarial_dropout.experiments.training.step import Step
from adversarial_dropout.layers import preserving_last_masks
from adversarial_dropout.regularizers.passes import Noise

_GIB = 2**30
_TAKE_LESS = (
    "lower --training.batch-labelled and --training.batch-unlabelled, with another --out, or start more processes"
)
_SMALLEST = 2  # Batch normalisation has no use for one image.
_SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Of errors that mean the same as ``torch.OutOfMemoryError``, in libraries that do not raise it."""


class GpuMemoryError(AdversarialDropoutError, MemoryError):
    """A step does not fit into the memory of the GPU."""


def explaining(
    step: Step,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Step:
    """``step``, with an error that says which batch would fit where the memory does not suffice.

    Args:
        step: Of training.
        objective: What it computes.
        optimizer: What it updates.
        backward: Computes the gradients of the loss.

    Raises:
        GpuMemoryError: (when called) the step does not fit. Batches of half the size are tried until one fits; model,
            optimiser and random streams are left as they were when the step failed. With several processes none is
            tried, because the others would wait.
    """

    def explained(batch: Batch, ramp: float) -> dict[str, Tensor]:
        try:
            return step(batch, ramp)
        except RuntimeError as error:
            if not _lacks_memory(error):
                raise
            said = ". ".join(str(error).split(". ")[:2])
        device = next(objective.parameters()).device
        if isinstance(objective, nn.parallel.DistributedDataParallel):  # The others would not join in a trial.
            raise GpuMemoryError(f"{_state(batch, device, said)}, its share of a step; {_TAKE_LESS}")
        gc.collect()  # The frames that the error held, and what they computed.
        fits = _that_fits(objective, optimizer, backward, batch, ramp)
        raise GpuMemoryError(_explanation(batch, fits, device, said))

    return explained


def _lacks_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)


def _that_fits(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None],
    batch: Batch,
    ramp: float,
) -> Batch | None:
    tried = batch
    while max(_sizes(tried)) > _SMALLEST:
        tried = _halved(tried)
        if _fits(objective, optimizer, backward, tried, ramp):
            return tried
    return None


def _fits(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None],
    batch: Batch,
    ramp: float,
) -> bool:
    optimizer.zero_grad()
    if batch.images.is_cuda:
        torch.cuda.empty_cache()
    try:
        with _undone(objective, batch.images):
            parameters = list(objective.parameters())
            # Adam keeps two numbers for each parameter, from its first step on.
            reserve = [] if optimizer.state else [torch.empty_like(p) for p in parameters for _ in range(2)]
            backward(objective(batch, ramp)[0])
            del reserve
    except RuntimeError as error:
        if not _lacks_memory(error):
            raise
        return False
    finally:
        optimizer.zero_grad()
    return True


@contextlib.contextmanager
def _undone(objective: nn.Module, x: Tensor) -> Iterator[None]:
    """Leave buffers, kept masks and random streams as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    try:
        with preserving_last_masks(objective), Noise(objective, x).unchanged():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _sizes(batch: Batch) -> tuple[int, int]:
    return len(batch.images), 0 if batch.unlabelled is None else len(batch.unlabelled)


def _halved(batch: Batch) -> Batch:
    def half(tensor: Tensor) -> Tensor:
        return tensor[: max(_SMALLEST, len(tensor) // 2)]

    return Batch(
        half(batch.images),
        half(batch.labels),
        None if batch.unlabelled is None else half(batch.unlabelled),
        None if batch.second is None else half(batch.second),
    )


def _explanation(batch: Batch, fits: Batch | None, device: torch.device, said: str) -> str:
    state = _state(batch, device, said)
    if fits is None:
        return f"{state}. Not even {_SMALLEST} images fit; free the GPU, or take a smaller --model.width"
    labelled, unlabelled = _sizes(fits)
    options = f"--training.batch-labelled {labelled}"
    if unlabelled:
        options += f" --training.batch-unlabelled {unlabelled}"
    return (
        f"{state}. What fits is {options}: another run, so give another --out too. The checkpoint of the epoch before "
        f"stays"
    )


def _state(batch: Batch, device: torch.device, said: str) -> str:
    labelled, unlabelled = _sizes(batch)
    size = f"{labelled} labelled and {unlabelled} unlabelled images" if unlabelled else f"{labelled} images"
    return f"the GPU is out of memory at a step with {size}{_memory(device)}: {said}"


def _memory(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_allocated(device)
    return f" ({total / _GIB:.1f} GiB, of which {free / _GIB:.1f} are free and {own / _GIB:.1f} this run's own)"

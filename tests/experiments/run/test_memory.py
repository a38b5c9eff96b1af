"""A step that does not fit: what the error says."""

import pytest
import torch
from torch import Tensor

from adversarial_dropout import AdversarialDropoutError
from adversarial_dropout.experiments.run.step import Batch, GpuMemoryError, Step, explaining


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would say of its memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**30, 139.8 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**31)


LACK = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB")


def failing(error: Exception) -> Step:
    def step(batch: Batch, ramp: float) -> dict[str, Tensor]:
        raise error

    return step


def batch(labelled: int, unlabelled: int = 0) -> Batch:
    others = torch.rand(unlabelled, 1, 2, 2) if unlabelled else None
    return Batch(torch.rand(labelled, 1, 2, 2), torch.arange(labelled) % 10, others)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "size", "options"),
    [
        (32, 128, "32 labelled and 128 unlabelled images", "batch-labelled and --training.batch-unlabelled, for"),
        (100, 0, "100 images", "batch-labelled, for"),
    ],
)
def test_it_says_how_large_the_step_was_and_what_to_lower(
    labelled: int, unlabelled: int, size: str, options: str
) -> None:
    with pytest.raises(GpuMemoryError) as caught:
        explaining(failing(LACK))(batch(labelled, unlabelled), 1.0)
    message = str(caught.value)
    assert (
        f"with {size} in this process (139.8 GiB, of which 3.0 are free and 2.0 used by this run): CUDA out of memory. "
        f"Tried to allocate 2.00 GiB. Lower --training.{options}" in message
    )
    assert "with another --out" in message
    assert isinstance(caught.value, AdversarialDropoutError)
    assert isinstance(caught.value, MemoryError)
    assert caught.value.__cause__ is LACK


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_what_else_is_a_lack_of_memory(error: RuntimeError) -> None:
    with pytest.raises(GpuMemoryError) as caught:
        explaining(failing(error))(batch(4), 1.0)
    assert str(error).splitlines()[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_and_values_pass() -> None:
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError) as caught:
        explaining(failing(error))(batch(4), 1.0)
    assert caught.value is error
    assert explaining(lambda seen, ramp: {"loss": seen.images.sum() * ramp})(batch(4), 0.0) == {"loss": 0.0}

"""A step that does not fit: what the error says, and what it leaves alone."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropoutError
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.terms import Vadd, by_kind
from adversarial_dropout.experiments.training import memory
from adversarial_dropout.experiments.training.memory import GpuMemoryError, explaining
from adversarial_dropout.experiments.training.objective import Batch, Objective
from adversarial_dropout.experiments.training.step import eager_step


class Limited(Objective):
    """Runs out of memory above a number of images, in the middle of a step."""

    most = 10
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB")

    def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = super().forward(batch, ramp)
        if len(batch.images) + (0 if batch.unlabelled is None else len(batch.unlabelled)) > self.most:
            raise self.error
        return loss, values


def limited(most: int) -> tuple[Limited, torch.optim.Adam]:
    config = ConvLarge(width=4, norm="batch", norm_logits=True, p=0.5, delta=0.5)
    made = Limited(config.build((1, 12, 12), 10), by_kind(Vadd()))
    made.most = most
    return made, torch.optim.Adam(made.parameters(), lr=1e-3)


def batch(labelled: int, unlabelled: int) -> Batch:
    others = torch.rand(unlabelled, 1, 12, 12) if unlabelled else None
    return Batch(torch.rand(labelled, 1, 12, 12), torch.arange(labelled) % 10, others)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "most", "options"),
    [
        (32, 128, 45, "--training.batch-labelled 8 --training.batch-unlabelled 32"),
        (32, 128, 10, "--training.batch-labelled 2 --training.batch-unlabelled 8"),
        (2, 16, 12, "--training.batch-labelled 2 --training.batch-unlabelled 8"),
        (100, 0, 60, "--training.batch-labelled 50"),
    ],
)
def test_which_batch_fits(labelled: int, unlabelled: int, most: int, options: str) -> None:
    objective, optimizer = limited(most)
    step = explaining(eager_step(objective, optimizer), objective, optimizer)
    with pytest.raises(GpuMemoryError) as caught:
        step(batch(labelled, unlabelled), 1.0)
    message = str(caught.value)
    assert f"What fits is {options}: another run, so give another --out too" in message
    assert "CUDA out of memory. Tried to allocate 2.00 GiB. What" in message
    assert f"{labelled} labelled and {unlabelled} unlabelled images" in message or f"with {labelled} images" in message
    assert isinstance(caught.value, AdversarialDropoutError)
    assert isinstance(caught.value, MemoryError)


def test_nothing_fits() -> None:
    objective, optimizer = limited(1)
    step = explaining(eager_step(objective, optimizer), objective, optimizer)
    with pytest.raises(GpuMemoryError, match=r"Not even 2 images fit; free the GPU, or take a smaller --model\.width"):
        step(batch(8, 0), 1.0)


def test_the_trial_leaves_no_trace() -> None:
    objective, optimizer = limited(12)
    step = explaining(eager_step(objective, optimizer), objective, optimizer)
    step(batch(4, 8), 1.0)
    before = copy.deepcopy((objective.state_dict(), optimizer.state_dict()))
    (layer,) = (module for module in objective.modules() if type(module).__name__ == "AdversarialDropout")
    kept = layer._last_mask
    random = []

    class Failing(nn.Module):
        def forward(self, batch: Batch, ramp: float) -> tuple[Tensor, dict[str, Tensor]]:
            random.append(torch.get_rng_state())
            raise torch.OutOfMemoryError("CUDA out of memory")

    failing = explaining(eager_step(Failing(), optimizer), objective, optimizer)
    with pytest.raises(
        GpuMemoryError, match=r"What fits is --training\.batch-labelled 4 --training\.batch-unlabelled 8"
    ):
        failing(batch(8, 16), 1.0)
    for old, new in zip(before, (objective.state_dict(), optimizer.state_dict()), strict=True):
        assert str(old) == str(new)
    assert all(torch.equal(value, objective.state_dict()[name]) for name, value in before[0].items())
    assert torch.equal(random[0], torch.get_rng_state())
    assert layer._last_mask is kept
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_other_errors_pass() -> None:
    objective, optimizer = limited(1)
    objective.error = RuntimeError("something else")  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"^something else$"):
        explaining(eager_step(objective, optimizer), objective, optimizer)(batch(4, 0), 1.0)
    objective.error = RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling")  # type: ignore[assignment]
    with pytest.raises(GpuMemoryError):
        explaining(eager_step(objective, optimizer), objective, optimizer)(batch(4, 0), 1.0)


def test_how_much_the_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**30, 139.8 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**31)
    assert memory._memory(torch.device("cuda")) == " (139.8 GiB, of which 3.0 are free and 2.0 this run's own)"


def test_with_several_processes_none_is_tried(tmp_path: Path) -> None:
    """The others would wait in vain to join in it."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        objective, optimizer = limited(10)
        calls = 0

        def counted(module: nn.Module, inputs: object) -> None:
            nonlocal calls
            calls += 1

        objective.register_forward_pre_hook(counted)
        wrapped = nn.parallel.DistributedDataParallel(objective)
        step = explaining(eager_step(wrapped, optimizer), wrapped, optimizer)
        with pytest.raises(GpuMemoryError, match=r"with 32 images.*, its share of a step; lower --training\.batch"):
            step(batch(32, 0), 1.0)
        assert calls == 1
    finally:
        torch.distributed.destroy_process_group()

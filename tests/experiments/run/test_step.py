"""Which step is chosen, and what that loads."""

import subprocess
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout.experiments.run.captured import CapturedStep
from adversarial_dropout.experiments.run.run import choose_step
from adversarial_dropout.experiments.run.step import Batch, GpuMemoryError, Objective


class OnGpu(nn.Module):
    """Says that it is on a GPU, and finds no memory there."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter([types.SimpleNamespace(device=torch.device("cuda"))])  # type: ignore[list-item]

    def forward(self, batch: Batch, ramp: float) -> tuple[Tensor, dict[str, Tensor]]:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def adam() -> torch.optim.Adam:
    return torch.optim.Adam(nn.Linear(2, 2).parameters())


def test_a_step_is_recorded_only_if_asked_for() -> None:
    objective = Objective(nn.Linear(2, 2), {})
    assert not isinstance(choose_step(objective, adam()), CapturedStep)
    assert isinstance(choose_step(objective, adam(), capture=True), CapturedStep)


def test_a_step_on_a_gpu_explains_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    with pytest.raises(GpuMemoryError, match="out of memory at a step with 3 images"):
        choose_step(OnGpu(), adam())(Batch(torch.rand(3, 2), torch.arange(3)), 1.0)


def test_a_step_that_is_not_recorded_does_not_load_the_recorder() -> None:
    code = """
import sys, torch
from adversarial_dropout.experiments.run import loop
model = torch.nn.Linear(2, 2)
from adversarial_dropout.experiments.run.run import choose_step
choose_step(model, torch.optim.Adam(model.parameters()))
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    room = "adversarial_dropout.experiments.run"
    assert f"{room}.step" in loaded
    assert f"{room}.captured" not in loaded

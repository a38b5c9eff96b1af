"""One step of training: loss, gradients, update."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adversarial_dropout.experiments.training.objective import Batch

Step = Callable[[Batch, float], dict[str, Tensor]]
"""From a batch and the factor of the weights that rise to the step's detached values: "loss" and those of the terms."""


def eager_step(
    objective: nn.Module, optimizer: torch.optim.Optimizer, backward: Callable[[Tensor], None] = Tensor.backward
) -> Step:
    """A step that runs operation by operation, on any device.

    Args:
        objective: From a batch and the factor to the loss and the values of its terms.
        optimizer: Of the objective's parameters.
        backward: Computes the gradients of the loss.
    """

    def step(batch: Batch, ramp: float) -> dict[str, Tensor]:
        loss, values = objective(batch, ramp)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        return {"loss": loss.detach(), **values}

    return step


def choose_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None] = Tensor.backward,
    *,
    capture: bool = False,
) -> Step:
    """The step for the device of the objective; on a GPU, with an error that helps where memory does not suffice.

    Args:
        objective: From a batch and the factor of the weights that rise to the loss and the values of its terms.
        optimizer: Of the objective's parameters; Adam where the step is recorded.
        backward: Computes the gradients of the loss.
        capture: Whether to record it as one CUDA graph; otherwise it runs operation by operation.

    Raises:
        CaptureError: it is to be recorded and cannot be.
    """
    # Both modules below build on this one, and most runs need neither.
    step: Step
    if capture:
        from adversarial_dropout.experiments.training.captured import CapturedStep, check_capture

        check_capture(objective)
        step = CapturedStep(objective, optimizer, backward)
    else:
        step = eager_step(objective, optimizer, backward)
    if next(objective.parameters()).device.type == "cuda":
        from adversarial_dropout.experiments.training.memory import explaining

        step = explaining(step)
    return step

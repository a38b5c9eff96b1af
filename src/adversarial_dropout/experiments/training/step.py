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

"""The optimiser of a run, and its settings in each epoch."""

from collections.abc import Iterator

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import TrainingConfig
from adversarial_dropout.experiments.run.schedules import ramp_down, ramp_up


def build(training: TrainingConfig, parameters: Iterator[nn.Parameter], *, capture: bool = False) -> Optimizer:
    """The optimiser that ``training`` names: Adam, or gradient descent without momentum.

    Args:
        training: Uses ``optimizer`` and ``learning_rate``.
        parameters: What it moves.
        capture: Whether its steps are recorded as one CUDA graph.

    Raises:
        InvalidValueError: steps of gradient descent are to be recorded.
    """
    if training.optimizer == "adam":
        return Adam(parameters, lr=training.learning_rate)
    if capture:
        raise InvalidValueError(
            f'expected training.optimizer="adam" to record a step as a CUDA graph, got {training.optimizer!r}; train '
            f"without recording"
        )
    return SGD(parameters, lr=training.learning_rate)


def follow_schedule(training: TrainingConfig, epoch: int, optimizer: Optimizer) -> float:
    """Set the optimiser for an epoch; return the factor of the weights that rise."""
    epochs = training.epochs
    rising = ramp_up(epoch, min(training.ramp_up, epochs))
    falling = ramp_down(epoch, min(training.ramp_down, epochs), epochs)
    group = optimizer.param_groups[0]
    group["lr"] = training.learning_rate * falling * (rising if training.ramp_up_learning_rate else 1.0)
    if training.optimizer == "adam":
        group["betas"] = (training.beta1 * falling + training.last_beta1 * (1 - falling), group["betas"][1])
    return rising

"""The optimiser of a run, and the schedule of its settings (Laine & Aila, ICLR 2017; Park et al., AAAI 2018)."""

import math

from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import TrainingConfig


def build(training: TrainingConfig, groups: ParamsT, *, capture: bool = False) -> Optimizer:
    """Adam, AdamW, or gradient descent without momentum; with ``capture``, it must not be the last.

    ``groups`` are parameters, or those of :meth:`~..models.network.Network.groups`.
    """
    if training.optimizer == "adam" and training.weight_decay:
        return AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay)
    if training.optimizer == "adam":
        return Adam(groups, lr=training.learning_rate)
    if capture:
        raise InvalidValueError('expected training.optimizer="adam" for --capture, got "sgd"; leave one of them out')
    return SGD(groups, lr=training.learning_rate)


def follow_schedule(training: TrainingConfig, epoch: int, optimizer: Optimizer) -> float:
    """Set the learning rate and β₁ for an epoch; return the factor of the weights that rise."""
    epochs = training.epochs
    rising = ramp_up(epoch, min(training.ramp_up, epochs))
    falling = ramp_down(epoch, min(training.ramp_down, epochs), epochs)
    rate = training.learning_rate * falling * (rising if training.ramp_up_learning_rate else 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
        if training.optimizer == "adam":
            group["betas"] = (training.beta1 * falling + training.last_beta1 * (1 - falling), group["betas"][1])
    return rising


def ramp_up(epoch: float, length: float) -> float:
    """exp(-5 (1 - T)²) with T = epoch / length rising from 0 to 1; 1 from ``length`` on."""
    if epoch >= length:
        return 1.0
    return math.exp(-5 * (1 - epoch / length) ** 2)


def ramp_down(epoch: float, length: float, epochs: float) -> float:
    """1 until ``length`` epochs before the end, then exp(-12.5 T²) with T rising from 0 to 1 at ``epochs``."""
    start = epochs - length
    if epoch <= start:
        return 1.0
    return math.exp(-12.5 * ((epoch - start) / length) ** 2)

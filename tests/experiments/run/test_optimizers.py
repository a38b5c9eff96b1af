"""The optimisers: their steps written out, their schedules, a run with plain gradient descent."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.run import loop, optimizers
from adversarial_dropout.experiments.run.optimizers import ramp_down, ramp_up

from ..runs import interrupt, result, small, trained


def test_gradient_descent_has_no_momentum() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = optimizers.build(TrainingConfig(optimizer="sgd", learning_rate=0.5), iter([weight]))
    for gradient, expected in (([1.0, 2.0], [0.5, -3.0]), ([0.0, 0.0], [0.5, -3.0]), ([-1.0, 0.0], [1.0, -3.0])):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        assert weight.tolist() == expected
    assert isinstance(optimizer, SGD)


def test_adam_is_the_default() -> None:
    optimizer = optimizers.build(TrainingConfig(learning_rate=0.25), iter([nn.Parameter(torch.ones(1))]), capture=True)
    assert isinstance(optimizer, Adam)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_weight_decay_is_decoupled() -> None:
    """θ ← θ - α·w·θ - α·m̂ / √v̂, where m̂ / √v̂ is the sign of the first gradient (Loshchilov & Hutter, 2019)."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = optimizers.build(TrainingConfig(learning_rate=0.5, weight_decay=0.1), iter([weight]))
    weight.grad = torch.tensor([3.0, -0.25])
    optimizer.step()
    assert weight.tolist() == pytest.approx([1 * 0.95 - 0.5, -2 * 0.95 + 0.5], abs=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_both_follow_the_schedule(name: str) -> None:
    training = TrainingConfig(
        optimizer=name,  # type: ignore[arg-type]
        learning_rate=2.0,
        epochs=8,
        ramp_up=3,
        ramp_down=3,
        ramp_up_learning_rate=True,
        beta1_end=0.5,
    )
    optimizer = optimizers.build(training, iter([nn.Parameter(torch.ones(1))]))
    group = optimizer.param_groups[0]
    for epoch in range(8):
        rising = optimizers.follow_schedule(training, epoch, optimizer)
        falling = ramp_down(epoch, 3, 8)
        assert rising == ramp_up(epoch, 3)
        assert group["lr"] == pytest.approx(2.0 * rising * falling)
        if name == "adam":
            assert group["betas"] == pytest.approx((0.9 * falling + 0.5 * (1 - falling), 0.999))
    assert ("betas" in group) == (name == "adam")


def descending(epochs: int = 3) -> ExperimentConfig:
    config = small("vadd-qe", epochs=epochs, learning_rate=0.1)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, optimizer="sgd"))


def test_a_run_with_gradient_descent_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    config = descending()
    expected = trained(config, tmp_path / "whole")
    interrupt(config, tmp_path / "interrupted", after=1)
    loop.run(config, tmp_path / "interrupted")
    assert result(tmp_path / "interrupted") == expected
    adam = dataclasses.replace(config, training=dataclasses.replace(config.training, optimizer="adam"))
    assert trained(adam, tmp_path / "adam") != expected


def test_another_optimizer_is_another_run(tmp_path: Path) -> None:
    loop.run(small(epochs=1), tmp_path)
    config = small(epochs=1)
    other = dataclasses.replace(config, training=dataclasses.replace(config.training, optimizer="sgd"))
    with pytest.raises(InvalidValueError, match=r"training\.optimizer: adam → sgd"):
        loop.run(other, tmp_path)


def test_gradient_descent_is_not_recorded() -> None:
    with pytest.raises(InvalidValueError, match=r'training.optimizer="adam" for --capture, got "sgd"'):
        optimizers.build(descending().training, iter([nn.Parameter(torch.ones(1))]), capture=True)

"""The ramps, against values computed by hand and against their shape."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adversarial_dropout.experiments.run.optimizers import ramp_down, ramp_up

LENGTHS = st.integers(1, 200)


@pytest.mark.parametrize(
    ("epoch", "length", "factor"),
    [
        (0, 20, 0.006737946999085467),  # exp(-5)
        (5, 20, 0.060054667895307945),  # exp(-2.8125)
        (10, 20, 0.2865047968601901),  # exp(-1.25)
        (15, 20, 0.7316156289466418),  # exp(-0.3125)
        (19, 20, 0.9875778004938814),  # exp(-0.0125)
        (20, 20, 1.0),
        (50, 20, 1.0),
        (0, 1, 0.006737946999085467),
        (0, 0, 1.0),
    ],
)
def test_ramp_up(epoch: int, length: int, factor: float) -> None:
    assert ramp_up(epoch, length) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "length", "epochs", "factor"),
    [
        (0, 15, 50, 1.0),
        (35, 15, 50, 1.0),
        (36, 15, 50, 0.9459594689067654),  # exp(-12.5 / 225)
        (40, 15, 50, 0.24935220877729622),  # exp(-12.5 / 9)
        (45, 15, 50, 0.003865920139472808),  # exp(-50 / 9)
        (50, 15, 50, 3.726653172078671e-06),  # exp(-12.5)
        (1, 1, 2, 1.0),
        (2, 0, 2, 1.0),
    ],
)
def test_ramp_down(epoch: int, length: int, epochs: int, factor: float) -> None:
    assert ramp_down(epoch, length, epochs) == pytest.approx(factor, rel=1e-12)


@given(length=LENGTHS)
def test_ramp_up_rises_from_almost_nothing_to_one(length: int) -> None:
    values = [ramp_up(epoch, length) for epoch in range(length + 3)]
    assert all(before < after for before, after in itertools.pairwise(values[: length + 1]))
    assert values[0] < 0.01
    assert values[length:] == [1.0] * 3


@given(length=LENGTHS, before=st.integers(0, 50))
def test_ramp_down_falls_at_the_end_alone(length: int, before: int) -> None:
    epochs = before + length
    values = [ramp_down(epoch, length, epochs) for epoch in range(epochs + 1)]
    assert values[: before + 1] == [1.0] * (before + 1)
    falling = values[before:]
    assert all(left > right > 0 for left, right in itertools.pairwise(falling))
    assert falling[-1] < 1e-5

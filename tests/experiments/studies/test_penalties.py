"""The penalties of eqs. 13 and 16, example by example: closed forms, scale, how many are active, what is dropped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.studies.theory import theory
from adversarial_dropout.experiments.studies.theory.equations import random_problems
from adversarial_dropout.experiments.studies.theory.penalties import (
    TERMS,
    activity,
    dropped_beyond_k,
    penalties,
    rescalings,
)

Problem = tuple[Tensor, Tensor, Tensor]


def drawn(n: int = 40, d: int = 6, seed: int = 0) -> Problem:
    """A random problem without zeros: w, x and y."""
    generator = torch.Generator().manual_seed(seed)
    w, x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((d,), (n, d), (n,)))
    return w, x, y


def by_loop(problem: Problem, delta: float, k: int) -> list[list[float]]:
    """The four penalties of each example from their closed forms, in plain Python."""
    w, x, y = (part.tolist() for part in problem)
    columns: list[list[float]] = [[], [], [], []]
    for features, target in zip(x, y, strict=True):
        added = [value * weight for value, weight in zip(features, w, strict=True)]
        r = target - sum(added)
        norm = sum(abs(weight) for weight in w)
        worst = sorted((a for a in added if a * r > 0), key=abs, reverse=True)[:k]
        columns[0].append(2 * delta * abs(r) * norm)
        columns[1].append((delta * norm) ** 2)
        columns[2].append(2 * abs(r) * sum(map(abs, worst)))
        columns[3].append(sum(worst) ** 2)
    return columns


@given(seed=st.integers(0, 1000), k=st.integers(0, 6), delta=st.sampled_from([0.0, 0.1, 3.0]))
def test_penalties_are_the_closed_forms(seed: int, k: int, delta: float) -> None:
    problem = drawn(n=5, seed=seed)
    expected = torch.tensor(by_loop(problem, delta, k), dtype=torch.float64)
    torch.testing.assert_close(penalties(*problem, delta=delta, k=k), expected, rtol=1e-10, atol=1e-12)


def test_their_sums_are_the_terms_of_the_equations() -> None:
    problem = drawn()
    training = theory.decompose_training(*problem, delta=0.3)
    dropout = theory.decompose_dropout(*problem, k=2)
    terms = [training.first_order, training.quadratic, dropout.first_order, dropout.quadratic]
    torch.testing.assert_close(penalties(*problem, delta=0.3, k=2).sum(dim=1), torch.stack(terms))


def test_what_scaling_does() -> None:
    """The Discussion's first difference: at the same residual only adversarial dropout sees the scale of x_i."""
    by_change = {row["change"]: row for row in rescalings(*drawn(), delta=0.3, k=2, factor=10.0)}
    factors = {
        "features of a data point × 10, its residual unchanged": (1, 1, 10, 100),
        "features and target of a data point × 10": (10, 1, 100, 100),
        "δ × 10": (10, 100, 1, 1),
    }
    for change, expected in factors.items():
        row = by_change.pop(change)
        assert row["lowest"] == pytest.approx(expected)
        assert row["highest"] == pytest.approx(expected)
    same_target = by_change.pop("features of a data point × 10, its target unchanged")
    assert (same_target["lowest"][1], same_target["highest"][1]) == pytest.approx((1, 1))
    for term in (0, 2, 3):  # The residual changes, and so does the second term of adversarial training.
        assert same_target["highest"][term] > 2 * same_target["lowest"][term]
    units = by_change.pop("one feature of all data points × 10, its coefficient / 10")
    assert (*units["lowest"][2:], *units["highest"][2:]) == pytest.approx((1, 1, 1, 1))
    assert max(units["highest"][:2]) < 1
    more = by_change.pop("k = 3 for k = 2")
    assert (*more["lowest"][:2], *more["highest"][:2]) == pytest.approx((1, 1, 1, 1))
    assert min(more["highest"][2:]) > 1.1
    assert min(more["lowest"]) == pytest.approx(1)
    assert not by_change
    assert all(len(row["lowest"]) == len(TERMS) for row in (same_target, units, more))


def test_how_many_pairs_have_a_penalty() -> None:
    """The Discussion's second difference, and where "always" does not hold."""
    w, x, y = drawn()
    shares = activity(w, x, y, flips=(0, 1, 3, 6))
    negative = x * theory.input_gradients(w, x, y) < 0
    expected = [float(negative.sum(dim=1).clamp(max=k).sum()) / negative.numel() for k in (0, 1, 3, 6)]
    assert shares["training"] == 1
    assert shares["dropout"] == pytest.approx(expected)
    assert shares["dropout"][0] == 0
    assert shares["dropout"][3] < 1
    w[:2] = 0
    y[:20] = (x @ w)[:20]  # No residual in half of the examples.
    sparse = activity(w, x, y, flips=(6,))
    assert sparse["training"] == pytest.approx(0.5 * 4 / 6)
    assert sparse["dropout"][0] < sparse["training"]


def test_the_print_drops_more_than_k_only_where_there_are_zeros_or_ties() -> None:
    normal, whole = (
        [(w, x, y, k) for w, x, y, _, k in random_problems(200, 0, whole=whole)] for whole in (False, True)
    )
    none = dropped_beyond_k(normal)
    assert none.pop("examples") > 0
    assert set(none.values()) == {0}
    assert set(dropped_beyond_k([(*drawn(), 0)]).values()) == {0}
    some = dropped_beyond_k(whole)
    expected = []
    for w, x, y, k in whole:
        for row in (x * theory.input_gradients(w, x, y)).tolist() if k else ():
            s = sorted(row)[k - 1]
            expected.append((sum(value <= min(s, 0) for value in row), k))
    assert some["examples"] == len(expected)
    assert some["printed"] == sum(count > k for count, k in expected) > 0
    assert some["printed_squared"] == sum(count > k * k for count, k in expected) > 0
    assert some["most"] == max(count - k for count, k in expected)
    assert some["ours"] == 0


def test_bad_arguments() -> None:
    w, x, y = drawn()
    with pytest.raises(InvalidValueError, match="between 0 and D = 6, got 7"):
        penalties(w, x, y, delta=0.1, k=7)
    with pytest.raises(InvalidValueError, match="delta to be finite and 0 or more"):
        penalties(w, x, y, delta=-1, k=1)
    with pytest.raises(InvalidTypeError, match="x to be a float64 tensor"):
        activity(w, x.float(), y, flips=(1,))
    with pytest.raises(InvalidValueError, match=r"x of shape \(N, D\)"):
        rescalings(w, x[:3], y, delta=0.1, k=1, factor=10.0)
    with pytest.raises(InvalidValueError, match="between 0 and D"):
        dropped_beyond_k([(w, x, y, 7)])

"""The paper's equations on linear regression: against loops, closed forms and brute force."""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.studies.theory import theory

Problem = tuple[Tensor, Tensor, Tensor]
DELTAS = (0.0, 0.01, 0.3, 5.0)
EXACT = 1e-10


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """w, x and y of up to five examples and features; eighths, so that zeros and ties are frequent, or any numbers."""
    n, d = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    entries = draw(st.sampled_from([st.integers(-16, 16).map(lambda v: v / 8), st.integers(-(10**6), 10**6)]))

    def table(size: int) -> Tensor:
        return torch.tensor(draw(st.lists(entries, min_size=size, max_size=size)), dtype=torch.float64)

    return table(d), table(n * d).view(n, d), table(n)


def drawn(n: int = 7, d: int = 5, seed: int = 0) -> Problem:
    """A random problem without ties or zeros; w wants a gradient."""
    generator = torch.Generator().manual_seed(seed)
    w, x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((d,), (n, d), (n,)))
    return w.requires_grad_(), x, y


def rows(w: Tensor, x: Tensor, y: Tensor) -> list[tuple[float, list[float]]]:
    """Residual and contributions x_ij w_j of each example, in plain Python."""
    pairs = []
    for features, target in zip(x.tolist(), y.tolist(), strict=True):
        added = [value * weight for value, weight in zip(features, w.tolist(), strict=True)]
        pairs.append((target - sum(added), added))
    return pairs


def best_drop(added: list[float], k: int) -> float:
    """Sum of the k largest positive ones."""
    return sum(sorted((max(a, 0.0) for a in added), reverse=True)[:k])


def worst_perturbation(w: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """The perturbation with entries in [−δ, δ] that raises each squared residual the most, shape (N, D).

    It is that of eq. 22, but with a sign where r_i = 0, too: there eq. 22 does nothing, although any direction harms.
    """
    r = theory.residuals(w.detach(), x, y)
    return -delta * torch.outer(torch.where(r >= 0, 1.0, -1.0).to(r), w.detach().sign())


def sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


def scale(w: Tensor, x: Tensor, y: Tensor) -> float:
    """What rounding is measured against: the size of the numbers that go in."""
    return float((y.abs() + x.abs() @ w.abs()).square().sum()) or 1.0


# Eqs. 12, 13, 22 to 24


@pytest.mark.parametrize("delta", DELTAS)
@given(problem=problems())
def test_adversarial_training_equals_its_decomposition(problem: Problem, delta: float) -> None:
    w, x, y = problem
    size = float(((y.abs() + (x.abs() + delta) @ w.abs()).square()).sum()) or 1.0
    direct = theory.adversarial_training(w, x, y, delta=delta)
    parts = theory.decompose_training(w, x, y, delta=delta)
    assert float(direct) == pytest.approx(float(parts.total), rel=EXACT, abs=1e-14 * size)
    assert float(parts.loss) == pytest.approx(sum(r * r for r, _ in rows(*problem)), rel=EXACT, abs=1e-14 * size)


@pytest.mark.parametrize("delta", DELTAS)
@given(problem=problems())
def test_adversarial_training_is_the_closed_form_where_no_residual_is_0(problem: Problem, delta: float) -> None:
    w, x, y = problem
    residuals = [r for r, _ in rows(*problem)]
    assume(min(abs(r) for r in residuals) > 1e-6)
    norm = sum(abs(weight) for weight in w.tolist())
    expected = sum((abs(r) + delta * norm) ** 2 for r in residuals)
    assert float(theory.adversarial_training(w, x, y, delta=delta)) == pytest.approx(expected, rel=EXACT)
    worst = x + worst_perturbation(w, x, y, delta=delta)
    assert float(theory.squared_error(w, worst, y)) == pytest.approx(expected, rel=EXACT)


def test_gamma_of_adversarial_training_is_the_sum_of_outer_products() -> None:
    w, x, y = drawn()
    gamma = theory.decompose_training(w, x, y, delta=0.3).gamma
    expected = [[0.0] * 5 for _ in range(5)]
    for r, _ in rows(w, x, y):
        signs = [-sign(r) * sign(weight) for weight in w.tolist()]
        for i in range(5):
            for j in range(5):
                expected[i][j] += signs[i] * signs[j]
    assert gamma.tolist() == expected
    assert not gamma.requires_grad


def test_input_gradients_are_those_of_autograd() -> None:
    w, x, y = drawn()
    (expected,) = torch.autograd.grad((y - x.requires_grad_() @ w).square().sum(), x)
    torch.testing.assert_close(theory.input_gradients(w, x, y), expected, rtol=EXACT, atol=0)
    assert torch.equal(theory.sign_perturbation(w, x, y, delta=0.3), 0.3 * expected.sign())


def test_a_residual_of_0_is_not_perturbed_by_eq_22_but_by_the_worst_perturbation() -> None:
    w, x, y = vector(1, -2), vector(3, 1).view(1, 2), vector(1)
    assert float(theory.adversarial_training(w, x, y, delta=0.5)) == 0
    assert float(theory.decompose_training(w, x, y, delta=0.5).total) == 0
    worst = x + worst_perturbation(w, x, y, delta=0.5)
    assert float(theory.squared_error(w, worst, y)) == (0 + 0.5 * 3) ** 2


def test_a_coefficient_of_0_leaves_its_feature_alone() -> None:
    w, x, y = vector(1, 0), vector(3, 1).view(1, 2), vector(1)
    assert theory.sign_perturbation(w, x, y, delta=0.5).tolist() == [[0.5, 0]]
    assert worst_perturbation(w, x, y, delta=0.5).tolist() == [[0.5, 0]]
    assert theory.dropout_masks(w, x, y, k=2).tolist() == [[1, 1]]


def test_gamma_of_adversarial_training_knows_nothing_of_the_features() -> None:
    w, x, y = drawn()
    w = w.detach()
    signs = w.sign()
    parts = theory.decompose_training(w, x, y, delta=0.3)
    assert torch.equal(parts.gamma, 7 * torch.outer(signs, signs))
    assert float(parts.quadratic) == pytest.approx(0.3**2 * 7 * float(w.abs().sum()) ** 2)
    inner = float(parts.loss + parts.first_order) + 0.3**2 * float(parts.gamma.trace() * (w @ w))
    assert abs(inner / float(theory.adversarial_training(w, x, y, delta=0.3)) - 1) > 1e-3  # Γ as a number


# Eqs. 14 to 16, 25 to 31

RULES = pytest.mark.parametrize("printed", [False, True], ids=["ours", "printed"])


@RULES
@given(problem=problems(), data=st.data())
def test_adversarial_dropout_equals_its_decomposition(problem: Problem, printed: bool, data: st.DataObject) -> None:
    w, x, y = problem
    k = data.draw(st.integers(0, len(w)))
    direct = float(theory.adversarial_dropout(w, x, y, k=k, printed=printed))
    parts = theory.decompose_dropout(w, x, y, k=k, printed=printed)
    assert direct == pytest.approx(float(parts.total), rel=EXACT, abs=1e-14 * scale(*problem))


@given(problem=problems(), data=st.data())
def test_adversarial_dropout_is_the_closed_form(problem: Problem, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(problem[0])))
    pairs = rows(*problem)
    assume(min(abs(r) for r, _ in pairs) > 1e-6)
    expected = sum((abs(r) + best_drop([sign(r) * a for a in added], k)) ** 2 for r, added in pairs)
    assert float(theory.adversarial_dropout(*problem, k=k)) == pytest.approx(expected, rel=EXACT)


@given(problem=problems(), data=st.data())
def test_masks_are_the_lowest_of_all_that_the_rule_allows(problem: Problem, data: st.DataObject) -> None:
    w, x, y = problem
    k = data.draw(st.integers(0, len(w)))
    masks = theory.dropout_masks(w, x, y, k=k)
    jacobian = x * theory.input_gradients(w, x, y)
    for mask, row in zip(masks.tolist(), jacobian.tolist(), strict=True):
        allowed = [set(drop) for size in range(k + 1) for drop in combinations(range(len(row)), size)]
        dropped = {unit for unit, kept in enumerate(mask) if not kept}
        assert dropped in allowed
        sums = [sum(row[unit] for unit in drop) for drop in allowed]
        assert sum(row[unit] for unit in dropped) == pytest.approx(min(sums), rel=1e-12)
        assert all(row[unit] < 0 for unit in dropped)


@given(problem=problems(), data=st.data())
def test_the_printed_rule_is_eq_14_and_drops_all_that_we_drop(problem: Problem, data: st.DataObject) -> None:
    w, x, y = problem
    k = data.draw(st.integers(1, len(w)))
    jacobian = (x * theory.input_gradients(w, x, y)).tolist()
    ours, printed = (theory.dropout_masks(w, x, y, k=k, printed=p).tolist() for p in (False, True))
    for row, mask, printed_mask in zip(jacobian, ours, printed, strict=True):
        s = sorted(row)[k - 1]
        assert printed_mask == [0 if value <= min(s, 0) else 1 for value in row]
        assert all(kept or not kept_by_print for kept, kept_by_print in zip(mask, printed_mask, strict=True))
        more = {value for value, kept, by_print in zip(row, mask, printed_mask, strict=True) if kept > by_print}
        assert more <= {0, min(s, 0)}  # What goes beyond ours has x ∂l/∂x = 0, or ties with s.
        if 0 not in row and row.count(s) == 1:
            assert mask == printed_mask


@RULES
def test_without_flips_nothing_is_dropped(printed: bool) -> None:
    w, x, y = vector(0, 0), vector(1, 2).view(1, 2), vector(0)
    assert theory.dropout_masks(w, x, y, k=0, printed=printed).tolist() == [[1, 1]]
    parts = theory.decompose_dropout(vector(1, -1), x, y, k=0, printed=printed)
    assert (float(parts.first_order), float(parts.quadratic)) == (0, 0)


def test_the_sign_condition_keeps_what_helps() -> None:
    """docs/theory.md, "Adversarial dropout": x = (1, 2), y = 0, w = (1, −1), k = 2; x ∂l/∂x = (−2, 4)."""
    w, x, y = vector(1, -1), vector(1, 2).view(1, 2), vector(0)
    assert (x * theory.input_gradients(w, x, y)).tolist() == [[-2, 4]]
    for printed in (False, True):
        assert theory.dropout_masks(w, x, y, k=2, printed=printed).tolist() == [[0, 1]]
        assert float(theory.adversarial_dropout(w, x, y, k=2, printed=printed)) == 4
        parts = theory.decompose_dropout(w, x, y, k=2, printed=printed)
        assert [float(t) for t in (parts.loss, parts.first_order, parts.quadratic, parts.total)] == [1, 2, 1, 4]


@pytest.mark.parametrize(
    ("name", "w", "x", "y", "k", "ours", "printed"),
    [
        ("residual of 0", (1, 2, 3), (1, 1, 1), 6, 1, [1, 1, 1], [0, 0, 0]),
        ("feature and coefficient of 0", (1, 2, 0, 1), (1, 0, 5, -3), -1, 1, [0, 1, 1, 1], [0, 1, 1, 1]),
        ("the same, two to drop", (1, 2, 0, 1), (1, 0, 5, -3), -1, 2, [0, 1, 1, 1], [0, 0, 0, 1]),
        ("tie", (1, 1, 1), (1, 1, -1), 3, 1, [0, 1, 1], [0, 0, 1]),
    ],
)
def test_the_printed_rule_drops_more_than_k(
    name: str, w: tuple[float, ...], x: tuple[float, ...], y: float, k: int, ours: list[int], printed: list[int]
) -> None:
    """docs/theory.md, "Adversarial dropout", the examples; eq. 16 holds in each."""
    problem = vector(*w), vector(*x).view(1, -1), vector(y)
    assert theory.dropout_masks(*problem, k=k).tolist() == [ours], name
    assert theory.dropout_masks(*problem, k=k, printed=True).tolist() == [printed]
    direct = float(theory.adversarial_dropout(*problem, k=k, printed=True))
    assert float(theory.decompose_dropout(*problem, k=k, printed=True).total) == direct


def test_values_by_hand_where_the_residual_is_0() -> None:
    """docs/theory.md: x = (1, 1, 1), y = 6, w = (1, 2, 3): eq. 15 as printed is y² = 36, all of it third term."""
    problem = vector(1, 2, 3), vector(1, 1, 1).view(1, 3), vector(6)
    parts = theory.decompose_dropout(*problem, k=1, printed=True)
    assert [float(t) for t in (parts.loss, parts.first_order, parts.quadratic)] == [0, 0, 36]
    assert float(theory.adversarial_dropout(*problem, k=1, printed=True)) == 36
    assert float(theory.adversarial_dropout(*problem, k=1)) == 0


def test_a_dropped_feature_without_effect_has_a_kink_in_eq_16() -> None:
    """docs/theory.md: x = (2, 1), y = 0, w = (0, 1), k = 2: the slopes by w_0 are 0 and 4."""
    w, x, y = vector(0, 1).requires_grad_(), vector(2, 1).view(1, 2), vector(0)
    assert theory.dropout_masks(w, x, y, k=2, printed=True).tolist() == [[0, 1]]
    assert theory.dropout_masks(w, x, y, k=2).tolist() == [[1, 1]]
    direct, parts = (
        theory.adversarial_dropout(w, x, y, k=2, printed=True),
        theory.decompose_dropout(w, x, y, k=2, printed=True),
    )
    assert (direct.item(), parts.total.item()) == (1, 1)
    slopes = [float(gradient[0]) for gradient in gradients_by_w(w, direct, parts.total)]
    assert slopes == [0, 4]


@pytest.mark.parametrize("k", range(6))
def test_the_first_two_terms_are_eq_9_and_the_third_is_what_it_leaves_out(k: int) -> None:
    w, x, y = drawn()
    w = w.detach()
    masks = theory.dropout_masks(w, x, y, k=k)
    ones = torch.ones_like(x).requires_grad_()
    loss = theory.squared_error(w, ones * x, y)
    (jacobian,) = torch.autograd.grad(loss, ones)
    expansion = float(loss.detach()) + float(((masks - 1) * jacobian).sum())
    parts = theory.decompose_dropout(w, x, y, k=k)
    assert float(parts.loss + parts.first_order) == pytest.approx(expansion, rel=EXACT)
    left_out = float(theory.adversarial_dropout(w, x, y, k=k)) - expansion
    assert float(parts.quadratic) == pytest.approx(left_out, rel=EXACT, abs=1e-12)


def test_gamma_of_adversarial_dropout_is_the_sum_of_outer_products() -> None:
    w, x, y = drawn()
    masks, gamma = theory.dropout_masks(w, x, y, k=2), theory.decompose_dropout(w, x, y, k=2).gamma
    pairs = zip(masks.tolist(), x.tolist(), strict=True)
    dropped = [[0.0 if kept else value for kept, value in zip(*pair, strict=True)] for pair in pairs]
    expected = [[sum(row[i] * row[j] for row in dropped) for j in range(5)] for i in range(5)]
    torch.testing.assert_close(gamma, torch.tensor(expected, dtype=torch.float64), rtol=EXACT, atol=1e-12)


@given(problem=problems(), data=st.data())
def test_the_worst_mask_is_that_of_brute_force(problem: Problem, data: st.DataObject) -> None:
    w, x, y = problem
    k = data.draw(st.integers(0, len(w)))
    masks = theory.worst_masks(w, x, y, k=k)
    assert (masks == 0).sum(dim=1).le(k).all()
    assert ((masks == 0) | (masks == 1)).all()
    reached = (y - (masks * x) @ w).square().tolist()
    linearised = (y - (theory.dropout_masks(w, x, y, k=k) * x) @ w).square().tolist()
    for value, lower, (r, added) in zip(reached, linearised, rows(*problem), strict=True):
        subsets = (drop for size in range(k + 1) for drop in combinations(added, size))
        best = max((r + sum(drop)) ** 2 for drop in subsets)
        assert value == pytest.approx(best, rel=EXACT, abs=1e-14 * scale(*problem))
        assert lower <= best * (1 + EXACT) + 1e-14 * scale(*problem)


def test_the_linearised_mask_misses_the_worst_one_where_it_overshoots() -> None:
    """docs/theory.md, "The worst mask": x = (1, 1), w = (1, −4), k = 1, residual 1."""
    w, x, y = vector(1, -4), vector(1, 1).view(1, 2), vector(-2)
    assert theory.dropout_masks(w, x, y, k=1).tolist() == [[0, 1]]
    assert float(theory.adversarial_dropout(w, x, y, k=1)) == 4
    worst = theory.worst_masks(w, x, y, k=1)
    assert worst.tolist() == [[1, 0]]
    assert float(theory.squared_error(w, worst * x, y)) == 9


def test_the_linearised_objective_jumps_where_a_residual_crosses_0() -> None:
    """docs/theory.md, "The worst mask": x = (1, 1), w = (2, −1), k = 1; 4 and 1 on the two sides, 0 between."""
    w, x, step = vector(2, -1), vector(1, 1).view(1, 2), 1e-9
    sides = [float(theory.adversarial_dropout(w, x, vector(1 + s), k=1)) for s in (step, 0, -step)]
    assert sides == pytest.approx([4, 0, 1], rel=1e-7)
    sides = [float(theory.adversarial_dropout(w + s, x, vector(1), k=1)) for s in (-step, 0, step)]
    assert sides == pytest.approx([4, 0, 1], rel=1e-7)
    for s in (-step, 0, step):
        worst = x * theory.worst_masks(w + s, x, vector(1), k=1)
        assert float(theory.squared_error(w + s, worst, vector(1))) == pytest.approx(4, rel=1e-7)


@given(problem=problems(), other_w=st.lists(st.integers(-20, 20), min_size=5, max_size=5), data=st.data())
def test_the_worst_objectives_are_convex(problem: Problem, other_w: list[int], data: st.DataObject) -> None:
    w, x, y = problem
    k = data.draw(st.integers(0, len(w)))
    ends = (w, torch.tensor(other_w[: len(w)], dtype=torch.float64))
    worst_inputs: list[Callable[[Tensor], Tensor]] = [
        lambda w: x * theory.worst_masks(w, x, y, k=k),
        lambda w: x + worst_perturbation(w, x, y, delta=0.5),
    ]
    for worst in worst_inputs:
        first, middle, last = (
            float(theory.squared_error(w, worst(w), y)) for w in (ends[0], (ends[0] + ends[1]) / 2, ends[1])
        )
        assert middle <= (first + last) / 2 * (1 + EXACT)


# Gradients


def gradients_by_w(w: Tensor, *values: Tensor) -> list[Tensor]:
    return [torch.autograd.grad(value, w)[0] for value in values]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("delta", DELTAS)
def test_gradient_of_adversarial_training(delta: float, seed: int) -> None:
    w, x, y = drawn(seed=seed)
    closed = ((y - x @ w).abs() + delta * w.abs().sum()).square().sum()
    parts = theory.decompose_training(w, x, y, delta=delta)
    direct, decomposed, expected = gradients_by_w(
        w, theory.adversarial_training(w, x, y, delta=delta), parts.total, closed
    )
    torch.testing.assert_close(direct, expected, rtol=EXACT, atol=0)
    torch.testing.assert_close(decomposed, expected, rtol=EXACT, atol=0)
    assert torch.autograd.gradcheck(lambda w: theory.adversarial_training(w, x, y, delta=delta), (w,))


@RULES
@pytest.mark.parametrize("k", range(6))
def test_gradient_of_adversarial_dropout(k: int, printed: bool) -> None:
    w, x, y = drawn()
    parts = theory.decompose_dropout(w, x, y, k=k, printed=printed)
    direct, decomposed = gradients_by_w(w, theory.adversarial_dropout(w, x, y, k=k, printed=printed), parts.total)
    torch.testing.assert_close(decomposed, direct, rtol=EXACT, atol=1e-12)
    assert torch.autograd.gradcheck(lambda w: theory.adversarial_dropout(w, x, y, k=k, printed=printed), (w,))
    signs = (y - x @ w).sign().unsqueeze(1)
    closed = ((y - x @ w).abs() + (signs * x * w).clamp(min=0).topk(k, dim=1).values.sum(dim=1)).square().sum()
    torch.testing.assert_close(direct, gradients_by_w(w, closed)[0], rtol=EXACT, atol=1e-12)


# Bad arguments

W, X, Y = torch.ones(2).double(), torch.ones(3, 2).double(), torch.ones(3).double()
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "squared_error": theory.squared_error,
    "input_gradients": theory.input_gradients,
    "adversarial_training": partial(theory.adversarial_training, delta=0.1),
    "decompose_training": partial(theory.decompose_training, delta=0.1),
    "sign_perturbation": partial(theory.sign_perturbation, delta=0.1),
    "adversarial_dropout": partial(theory.adversarial_dropout, k=1),
    "decompose_dropout": partial(theory.decompose_dropout, k=1),
    "worst_masks": partial(theory.worst_masks, k=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("w", "x", "y", "error", "message"),
    [
        (W.float(), X, Y, InvalidTypeError, "w to be a float64 tensor, got torch.float32"),
        (W, X.long(), Y, InvalidTypeError, "x to be a float64 tensor, got torch.int64"),
        (W, X, Y.numpy(), InvalidTypeError, r"y to be a float64 tensor, got ndarray; use .*double\(\)"),
        (W, X[0], Y, InvalidValueError, r"x to have 2 dimensions, got shape \(2,\)"),
        (X, X, Y, InvalidValueError, r"w to have 1 dimension, got shape \(3, 2\)"),
        (Y, X, Y, InvalidValueError, r"\(N, D\) = \(3, 3\), to fit y and w, got \(3, 2\)"),
        (W, X, vector(1, math.nan, 1), InvalidValueError, "y to be finite"),
        (vector(1, math.inf), X, Y, InvalidValueError, "w to be finite"),
    ],
)
def test_bad_data(name: str, w: Tensor, x: Tensor, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FUNCTIONS[name](w, x, y)


@pytest.mark.parametrize("function", [theory.dropout_masks, theory.worst_masks, theory.decompose_dropout])
@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (6, InvalidValueError, "k, a number of features, between 0 and D = 5, got 6"),
        (-1, InvalidValueError, "whole number, 0 or more, got -1"),
        (1.0, InvalidTypeError, r"k, a number of features, to be a whole number, 0 or more, got 1\.0"),
        (True, InvalidTypeError, "whole number, 0 or more, got True"),
    ],
)
def test_bad_k(function: Callable[..., Any], k: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(*drawn(), k=k)


@pytest.mark.parametrize("function", [theory.sign_perturbation, theory.adversarial_training, theory.decompose_training])
@pytest.mark.parametrize(
    ("delta", "error", "message"),
    [
        (-0.1, InvalidValueError, r"delta to be finite and 0 or more, got -0\.1"),
        (math.inf, InvalidValueError, "0 or more, got inf"),
        (math.nan, InvalidValueError, "0 or more, got nan"),
        ("1", InvalidTypeError, r"delta to be a number, got '1' \(str\)"),
        (False, InvalidTypeError, "delta to be a number, got False"),
    ],
)
def test_bad_delta(function: Callable[..., Any], delta: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(*drawn(), delta=delta)

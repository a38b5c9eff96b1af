"""Coefficient paths: a proof of the minimum, exact zeros, saturation and scale; the study of the page."""

import itertools
import math
from typing import Any

import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.studies.theory.equations import equations
from adversarial_dropout.experiments.studies.theory.paths import (
    SETTINGS,
    coefficient_path,
    fit,
    least_delta_of_zero,
)
from adversarial_dropout.experiments.studies.theory.study import measure

CASES: list[tuple[str, float]] = [
    ("adversarial training", 0.1),
    ("adversarial training", 0.4),
    ("adversarial dropout", 1),
    ("adversarial dropout", 2),
]


def drawn(n: int = 40, d: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random regression, standardised and centred; features share a part, and the last one does not matter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d + 1, generator=generator, dtype=torch.float64)
    x = x[:, 1:] + x[:, :1]
    w = torch.arange(d - 1, -1, -1, dtype=torch.float64)
    y = x @ w + torch.randn(n, generator=generator, dtype=torch.float64)
    return (x - x.mean(dim=0)) / x.std(dim=0), y - y.mean()


def choices(method: str, x: Tensor, setting: float) -> Tensor:
    """All inputs among which the worst one is, shape (C, N, D): the corners of the cube, or the masks."""
    d = x.shape[1]
    if method == "adversarial training":
        return x + setting * torch.tensor([*itertools.product((-1.0, 1.0), repeat=d)]).double().unsqueeze(1)
    masks = [mask for mask in itertools.product((0.0, 1.0), repeat=d) if mask.count(0) <= setting]
    return x * torch.tensor(masks).double().unsqueeze(1)


def objective(w: Tensor, inputs: Tensor, y: Tensor) -> float:
    return float((y - inputs @ w).square().amax(dim=0).sum())


def lower_bound(w: Tensor, inputs: Tensor, y: Tensor) -> float:
    """No coefficients have a lower objective.

    The worst case is at least any mixture of the inputs, and least squares minimises that exactly. Of the inputs that
    are worst at w, the mixture with the least slope at w is taken: it has its minimum there if w is one.
    """
    error = y - inputs @ w
    worst = error.square() >= (1 - 1e-6) * error.square().amax(dim=0)
    rows, example = inputs[worst], worst.nonzero()[:, 1]
    belongs = torch.nn.functional.one_hot(example, len(y)).double()
    conditions = torch.cat([error[worst].unsqueeze(1) * rows, len(y) * belongs], dim=1)
    wanted = torch.cat([torch.zeros_like(w), torch.full_like(y, len(y))])
    share = torch.from_numpy(nnls(conditions.T.numpy(), wanted.numpy())[0])
    share /= (share @ belongs)[example]
    root = share.sqrt()
    a, b = root.unsqueeze(1) * rows, root * y[example]
    best = torch.linalg.lstsq(a, b.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    return float((b - a @ best).square().sum())


@pytest.mark.parametrize(("method", "setting"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_is_a_minimum(method: str, setting: float, seed: int) -> None:
    x, y = drawn(d=6, seed=seed)
    w = fit(method, x, y, setting)
    inputs = choices(method, x, setting)
    reached = objective(w, inputs, y)
    assert w.any()
    assert (1 - 1e-7) * reached <= lower_bound(w, inputs, y) <= (1 + 1e-12) * reached


@pytest.mark.parametrize(("method", "setting"), CASES)
def test_the_bound_is_below_the_minimum_wherever_it_is_taken(method: str, setting: float) -> None:
    x, y = drawn(d=3)
    w = fit(method, x, y, setting)
    inputs = choices(method, x, setting)
    for size in (1e-3, 0.1, 1.0):
        elsewhere = w + size * torch.randn(3).double()
        assert lower_bound(elsewhere, inputs, y) < objective(w, inputs, y) < objective(elsewhere, inputs, y)


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("features", [1, 4])
def test_without_an_adversary_it_is_least_squares(method: str, features: int) -> None:
    x, y = drawn(d=features)
    expected = torch.linalg.lstsq(x, y.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(fit(method, x, y, 0), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_least_delta_of_zero_is_exact(seed: int) -> None:
    x, y = drawn(seed=seed)
    delta = least_delta_of_zero(x, y)
    zero = fit("adversarial training", x, y, 1e6 * delta)
    assert zero.tolist() == [0, 0, 0, 0]
    assert lower_bound(zero, choices("adversarial training", x, delta), y) == pytest.approx(float(y @ y), rel=1e-9)
    assert fit("adversarial training", x, y, 0.999 * delta).count_nonzero() == 1


def test_dropping_all_features_gives_zero() -> None:
    assert fit("adversarial dropout", *drawn(), 4).tolist() == [0, 0, 0, 0]


def test_the_objective_of_adversarial_dropout_rises_with_k() -> None:
    x, y = drawn()
    reached = [
        objective(fit("adversarial dropout", x, y, k), choices("adversarial dropout", x, k), y) for k in range(5)
    ]
    assert reached[0] < reached[1] < reached[2] <= reached[3] * (1 + 1e-7) <= reached[4] * (1 + 2e-7)


def test_one_feature_by_hand() -> None:
    """Σ (|r_i| + δ|w|)² of x = (1, −1), y = (1, −1): 2 (1 − w + δw)² for w in [0, 1], least at w = 1, 2δ²; or lower."""
    x, y = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([1.0, -1.0]).double()
    assert fit("adversarial training", x, y, 0.5).tolist() == pytest.approx([1], abs=1e-6)
    assert least_delta_of_zero(x, y) == 1
    # k = 1: 2 max(1 − w + w, w − 1)², which is 2 for w in [0, 2].
    assert 0 <= fit("adversarial dropout", x, y, 1) <= 2


def test_two_copies_of_a_feature_share_its_weight() -> None:
    """docs/theory.md, "Coefficient paths": x = (1, 1), y = 1, k = 1; least at w = (2/3, 2/3), where it is 1/9."""
    x, y = torch.ones(1, 2).double(), torch.ones(1).double()
    w = fit("adversarial dropout", x, y, 1)
    assert w.tolist() == pytest.approx([2 / 3, 2 / 3], abs=1e-6)
    assert objective(w, choices("adversarial dropout", x, 1), y) == pytest.approx(1 / 9)


@pytest.mark.parametrize(("method", "setting"), [*CASES[1:]])
def test_scale_of_a_feature(method: str, setting: float) -> None:
    x, y = drawn(d=6)
    scaled = x.clone()
    scaled[:, 0] *= 10
    w, scaled_w = fit(method, x, y, setting), fit(method, scaled, y, setting)
    assert w[0] != 0
    change = float((scaled @ scaled_w - x @ w).abs().max() / y.std())
    if method == "adversarial training":
        assert change > 0.01
    else:
        assert change < 1e-6
        scaled_w[0] *= 10
        torch.testing.assert_close(scaled_w, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", SETTINGS)
def test_path(method: str) -> None:
    x, y = drawn()
    grid = [0, 1, 2] if SETTINGS[method] == "k" else [0.01, 0.3, 3.0]
    path = coefficient_path(method, x, y, [*reversed(grid), grid[0]])
    assert (path["method"], path["grid"]) == (method, grid)
    for setting, coefficients, r_squared in zip(grid, path["coefficients"], path["r_squared"], strict=True):
        w = fit(method, x, y, setting)
        assert coefficients == w.tolist()
        assert r_squared == pytest.approx(1 - float((y - x @ w).square().sum() / y.square().sum()))
    first, second, third = path["r_squared"]
    assert first > second > third or third == 0


# The study


@pytest.fixture(scope="module")
def small_study() -> dict[str, Any]:
    return measure(problems=20, seed=0, deltas=(0.0, 0.0125), flips=())


def test_what_should_hold_does_and_the_other_readings_do_not(small_study: dict[str, Any]) -> None:
    deviations = small_study["deviations"]
    assert {deviation["equation"] for deviation in deviations} == {"9", "10", "11", "13", "16", "J(εˢ)"}
    for deviation in deviations:
        worst = max(deviation["value"], deviation["gradient"] or 0.0)
        assert worst < 1e-10 if deviation["holds"] else worst > 0.1, deviation["claim"]
    assert [deviation["holds"] for deviation in deviations].count(False) == 8
    assert 0 < small_study["overshoot"] < 0.5


def test_adversarial_dropout_saturates_on_diabetes(small_study: dict[str, Any]) -> None:
    _, path = small_study["paths"]
    assert (path["method"], path["grid"]) == ("adversarial dropout", list(range(11)))
    assert [w.count(0) for w in path["coefficients"]] == [0] * 4 + [10] * 7


def test_the_discussions_two_differences_on_diabetes(small_study: dict[str, Any]) -> None:
    same_residual = small_study["rescalings"][0]
    assert same_residual["lowest"] == pytest.approx((1, 1, 10, 100))
    assert same_residual["highest"] == pytest.approx((1, 1, 10, 100))
    by_coefficients = {(row["data"], row["coefficients"].split(",")[0]): row for row in small_study["activities"]}
    everywhere = by_coefficients["diabetes", "least squares"]
    assert everywhere["training"] == 1
    assert everywhere["flips"] == [1, 2, 5, 10]
    assert everywhere["dropout"][0] == pytest.approx(0.1)
    assert max(everywhere["dropout"]) < 0.6
    assert by_coefficients["diabetes", "adversarial training"]["training"] == pytest.approx(0.4)
    assert by_coefficients["random", "random"]["training"] == 1


def test_the_print_drops_more_than_k_on_diabetes_where_coefficients_are_0(small_study: dict[str, Any]) -> None:
    diabetes = [row for row in small_study["dropped"] if row["flips"]]
    over = {(row["data"].split(",")[1], row["flips"]): row["printed"] for row in diabetes}
    assert over.pop((" adversarial training", 5)) == 442
    assert 0 < over.pop((" adversarial training", 1)) < 442
    assert set(over.values()) == {0}
    assert {row["ours"] for row in small_study["dropped"]} == {0}


def test_the_study_is_repeatable_and_its_settings_are_checked(small_study: dict[str, Any]) -> None:
    assert equations(problems=20, seed=0) == small_study["deviations"]
    with pytest.raises(InvalidValueError, match="problems to be a whole number, 1 or more, got 0"):
        measure(problems=0, seed=0, deltas=(), flips=())


def test_without_settings_the_path_of_adversarial_training_ends_at_zero() -> None:
    training, _ = measure(problems=1, seed=0, deltas=(), flips=(0,))["paths"]
    assert (training["grid"][0], len(training["grid"])) == (0, 26)
    assert [w.count(0) for w in training["coefficients"]][::25] == [0, 10]


# Bad arguments


@pytest.mark.parametrize("method", SETTINGS)
def test_bad_data(method: str) -> None:
    x, y = drawn()
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (x, y * 0, InvalidValueError, "targets that vary, got 0 alone"),
        (x, y * math.nan, InvalidValueError, "y to be finite"),
        (x[:, 0], y, InvalidValueError, r"x to have 2 dimensions, got shape \(40,\)"),
        (x[:5], y, InvalidValueError, r"x of shape \(N, D\) = \(40, 4\)"),
        (x.float(), y, InvalidTypeError, "x to be a float64 tensor, got torch.float32"),
        (x, y.long(), InvalidTypeError, "y to be a float64 tensor, got torch.int64"),
    ]
    for features, targets, error, message in cases:
        with pytest.raises(error, match=message):
            fit(method, features, targets, 1)
    with pytest.raises(InvalidValueError, match="targets that vary"):
        least_delta_of_zero(x, y * 0)


@pytest.mark.parametrize("method", SETTINGS)
def test_a_feature_of_zeros_has_no_coefficient(method: str) -> None:
    x, y = drawn()
    x[:, 2] = 0
    w = fit(method, x, y, 1 if SETTINGS[method] == "k" else 0.1)
    assert w[2] == 0


@pytest.mark.parametrize(
    ("method", "setting", "error", "message"),
    [
        ("adversarial training", -1, InvalidValueError, "delta to be finite and 0 or more, got -1"),
        ("adversarial training", "1", InvalidTypeError, "delta to be a number"),
        ("adversarial dropout", 5, InvalidValueError, "between 0 and D = 4, got 5"),
        ("adversarial dropout", 1.5, InvalidTypeError, r"whole number, 0 or more, got 1\.5"),
        ("adversarial drpout", 1, InvalidValueError, "method to be one of .*, got 'adversarial drpout'; did you mean"),
    ],
)
def test_bad_settings(method: str, setting: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(method, *drawn(), setting)

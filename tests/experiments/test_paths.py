"""Coefficient paths: optimality against another minimiser, exact zeros, saturation and scale; the study of the page."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize  # type: ignore[import-untyped]
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.analysis import paths
from adversarial_dropout.experiments.analysis.equations import equations
from adversarial_dropout.experiments.analysis.paths import (
    METHODS,
    SETTINGS,
    Method,
    Minimum,
    coefficient_path,
    fit,
    fit_adversarial_dropout,
    fit_adversarial_training,
    least_delta_of_zero,
)
from adversarial_dropout.experiments.analysis.theory import squared_error
from adversarial_dropout.experiments.analysis.theory_study import Study, study

Data = tuple[Tensor, Tensor]
CASES: list[tuple[Method, float]] = [
    ("adversarial training", 0.1),
    ("adversarial training", 0.4),
    ("adversarial dropout", 1),
    ("adversarial dropout", 2),
]


def drawn(n: int = 40, d: int = 4, seed: int = 0) -> Data:
    """A random regression, standardised and centred; features share a part, and the last one does not matter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d + 1, generator=generator, dtype=torch.float64)
    x = x[:, 1:] + x[:, :1]
    w = torch.arange(d - 1, -1, -1, dtype=torch.float64)
    y = x @ w + torch.randn(n, generator=generator, dtype=torch.float64)
    return (x - x.mean(dim=0)) / x.std(dim=0), y - y.mean()


@pytest.fixture(scope="module")
def diabetes() -> Data:
    x, y = load_diabetes(return_X_y=True)
    return torch.from_numpy(x), torch.from_numpy(y - y.mean())


def minimum(method: Method, data: Data, setting: float) -> Minimum:
    if method == "adversarial training":
        return fit_adversarial_training(*data, delta=setting)
    return fit_adversarial_dropout(*data, k=int(setting))


def objective(method: Method, w: Tensor, data: Data, setting: float) -> Tensor:
    """The closed form, written out once more; for autograd, too."""
    x, y = data
    r, added = y - x @ w, x * w
    if method == "adversarial training":
        return (r.abs() + setting * w.abs().sum()).square().sum()
    up, down = (a.clamp(min=0).topk(int(setting), dim=1).values.sum(dim=1) for a in (added, -added))
    return torch.maximum(r + up, down - r).square().sum()


def by_lbfgs(method: Method, data: Data, setting: float, start: Tensor) -> tuple[Tensor, float]:
    """w = u − v with u, v ≥ 0, so that coefficients can be exactly 0, by scipy's L-BFGS-B."""
    d = len(start)

    def value_and_gradient(parts: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, Any]:
        u_and_v = torch.tensor(parts, dtype=torch.float64, requires_grad=True)
        if method == "adversarial training":
            r = data[1] - data[0] @ (u_and_v[:d] - u_and_v[d:])
            value = (r.abs() + setting * u_and_v.sum()).square().sum()
        else:
            value = objective(method, u_and_v[:d] - u_and_v[d:], data, setting)
        (gradient,) = torch.autograd.grad(value, u_and_v)
        return float(value.detach()), gradient.numpy()

    parts = torch.cat([start.clamp(min=0), (-start).clamp(min=0)]).numpy()
    options = {"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-10}
    found = minimize(
        value_and_gradient, parts, jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * d), options=options
    )
    return torch.from_numpy(found.x[:d] - found.x[d:]), float(found.fun)


@pytest.mark.parametrize(("method", "setting"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_is_a_minimum(method: Method, setting: float, seed: int) -> None:
    data = drawn(d=6, seed=seed)
    found = minimum(method, data, setting)
    assert 0 <= found.gap <= 2e-10 * found.objective
    assert found.objective == pytest.approx(float(objective(method, found.coefficients, data, setting)), rel=1e-12)
    lowest = found.objective - found.gap
    for size in (1e-6, 1e-3, 0.1, 1.0):
        for change in size * torch.randn(50, 6, dtype=torch.float64):
            assert float(objective(method, found.coefficients + change, data, setting)) >= lowest


@pytest.mark.parametrize(("method", "setting"), CASES)
def test_another_minimiser_reaches_the_same_objective_from_any_start(method: Method, setting: float) -> None:
    data = drawn(d=6)
    found = minimum(method, data, setting)
    assert found.coefficients.any()
    reached = [by_lbfgs(method, data, setting, 3 * torch.randn(6, dtype=torch.float64))[1] for _ in range(3)]
    assert min(reached) >= found.objective - found.gap
    assert min(reached) == pytest.approx(found.objective, rel=1e-4)  # L-BFGS-B stalls at the kinks


@pytest.mark.parametrize(("method", "setting"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_the_gap_is_sound_where_the_search_stops_early(
    method: Method, setting: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = drawn(d=2, seed=seed)
    exact = minimum(method, data, setting)
    for tolerance in (0.3, 0.1, 0.03, 0.01):
        monkeypatch.setattr(paths, "_TOLERANCE", tolerance)
        early = minimum(method, data, setting)
        assert early.objective - early.gap <= exact.objective * (1 + 1e-12)
        assert early.objective >= exact.objective - exact.gap


@pytest.mark.parametrize("depth", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_cut_ellipsoid_is_the_smallest_around_the_part(d: int, depth: float) -> None:
    centre, shape = torch.randn(d, dtype=torch.float64), torch.randn(d, d, dtype=torch.float64)
    direction = nn.functional.normalize(torch.randn(d, dtype=torch.float64), dim=0)
    new_centre, new_shape = paths.cut_ellipsoid(centre, shape, direction, depth=depth)
    across = torch.randn(2000, d, dtype=torch.float64)
    across = nn.functional.normalize(across - torch.outer(across @ direction, direction), dim=1)
    height = torch.linspace(depth, 1, 2000, dtype=torch.float64).unsqueeze(1)  # from the rim of the cut to the far end
    surface = across * (d > 1) * (1 - height**2).sqrt() - height * direction
    seen = torch.linalg.solve(new_shape, (surface @ shape.T + centre - new_centre).T).norm(dim=0)
    assert seen.max() <= 1 + 1e-9
    assert (seen[0], seen[-1]) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("share", [0.03, 0.3, 0.9])
def test_adversarial_training_on_diabetes_has_the_zeros_that_bounds_give(diabetes: Data, share: float) -> None:
    delta = share * least_delta_of_zero(*diabetes)
    found = fit_adversarial_training(*diabetes, delta=delta)
    other, reached = by_lbfgs("adversarial training", diabetes, delta, torch.zeros(10, dtype=torch.float64))
    assert reached == pytest.approx(found.objective, rel=1e-7)
    assert (found.coefficients == 0).any()
    assert torch.equal(found.coefficients == 0, other == 0)


def test_adversarial_dropout_on_diabetes_equals_another_minimiser(diabetes: Data) -> None:
    found = fit_adversarial_dropout(*diabetes, k=1)
    other, reached = by_lbfgs("adversarial dropout", diabetes, 1, torch.zeros(10, dtype=torch.float64))
    assert reached == pytest.approx(found.objective, rel=1e-5)
    assert reached >= found.objective - found.gap
    torch.testing.assert_close(
        diabetes[0] @ found.coefficients, diabetes[0] @ other, rtol=0, atol=0.5
    )  # of 321 at most
    assert (found.coefficients != 0).all()


@pytest.mark.parametrize("features", [1, 2, 4])
def test_without_an_adversary_it_is_least_squares(features: int) -> None:
    x, y = drawn(d=features)
    expected = torch.linalg.lstsq(x, y.unsqueeze(1)).solution.squeeze(1)
    for found in (fit_adversarial_training(x, y, delta=0), fit_adversarial_dropout(x, y, k=0)):
        torch.testing.assert_close(found.coefficients, expected, rtol=1e-10, atol=1e-12)
        assert found.objective == pytest.approx(float(squared_error(expected, x, y)), rel=1e-12)
    torch.testing.assert_close(fit("ridge", x, y, 1e-12), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(fit("lasso", x, y, 1e-12), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_least_delta_of_zero_is_exact(seed: int) -> None:
    x, y = drawn(seed=seed)
    delta = least_delta_of_zero(x, y)
    assert fit_adversarial_training(x, y, delta=1.001 * delta).coefficients.tolist() == [0, 0, 0, 0]
    assert fit_adversarial_training(x, y, delta=0.999 * delta).coefficients.count_nonzero() == 1
    largest = float((x.T @ y).abs().max()) / len(y)
    assert [int(fit("lasso", x, y, f * largest).count_nonzero()) for f in (1.001, 0.999)] == [0, 1]
    below = float(objective("adversarial training", vector_at(x, y, 1e-6), (x, y), 0.999 * delta))
    above = float(objective("adversarial training", vector_at(x, y, 1e-6), (x, y), 1.001 * delta))
    assert below < float(y @ y) < above


def vector_at(x: Tensor, y: Tensor, size: float) -> Tensor:
    """The direction that helps first: along the feature with the largest |xᵀy|."""
    correlation = x.T @ y
    w = torch.zeros_like(correlation)
    w[correlation.abs().argmax()] = size * correlation[correlation.abs().argmax()].sign()
    return w


def test_dropping_all_features_gives_zero() -> None:
    x, y = drawn()
    found = fit_adversarial_dropout(x, y, k=4)
    assert found.coefficients.tolist() == [0, 0, 0, 0]
    assert found.objective == pytest.approx(float(y @ y), rel=1e-12)


def test_the_objective_of_adversarial_dropout_rises_with_k() -> None:
    data = drawn()
    reached = [fit_adversarial_dropout(*data, k=k).objective for k in range(5)]
    assert reached == sorted(reached)
    assert reached[0] < reached[1] < reached[2]


def test_one_feature_by_hand() -> None:
    """Σ (|r_i| + δ|w|)² of x = (1, −1), y = (1, −1): 2 (1 − w + δw)² for w in [0, 1], least at w = 1, 2δ²; or lower."""
    x, y = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([1.0, -1.0]).double()
    found = fit_adversarial_training(x, y, delta=0.5)
    assert found.coefficients.tolist() == pytest.approx([1])
    assert found.objective == pytest.approx(2 * 0.5**2)
    assert least_delta_of_zero(x, y) == 1
    # k = 1: 2 max(1 − w + w, w − 1)², which is 2 for w in [0, 2]: 0 is as good as any, and is taken.
    assert fit_adversarial_dropout(x, y, k=1).coefficients.tolist() == [0]


def test_two_copies_of_a_feature_share_its_weight() -> None:
    """docs/theory.md, "Coefficient paths": x = (1, 1), y = 1, k = 1; least at w = (2/3, 2/3), where it is 1/9."""
    data = torch.ones(1, 2).double(), torch.ones(1).double()
    grid = [torch.tensor([a / 6, b / 6], dtype=torch.float64) for a in range(-12, 13) for b in range(-12, 13)]
    value, best = min((float(objective("adversarial dropout", w, data, 1)), w.tolist()) for w in grid)
    assert value == pytest.approx(1 / 9)
    assert best == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize(("method", "setting", "changes"), [
    ("adversarial dropout", 1, False),
    ("adversarial dropout", 2, False),
    ("adversarial training", 0.2, True),
    ("ridge", 10.0, True),
    ("lasso", 0.3, True),
])  # fmt: skip
@pytest.mark.parametrize("feature", range(3))
def test_scale_of_a_feature(method: Method, setting: float, changes: bool, feature: int) -> None:
    x, y = drawn(d=6)
    scaled = x.clone()
    scaled[:, feature] *= 10
    w, other = fit(method, x, y, setting), fit(method, scaled, y, setting)
    assert w[feature] != 0
    change = float((scaled @ other - x @ w).abs().max() / y.std())
    assert change > 0.01 if changes else change < 1e-4
    if not changes:
        other[feature] *= 10
        torch.testing.assert_close(other, w, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_path(method: Method) -> None:
    x, y = drawn()
    grid = [0, 1, 2] if SETTINGS[method] == "k" else [0.01, 0.3, 3.0]
    path = coefficient_path(method, x, y, grid)
    assert (path.method, path.grid) == (method, tuple(grid))
    for setting, coefficients, r_squared in zip(path.grid, path.coefficients, path.r_squared, strict=True):
        w = fit(method, x, y, setting)
        assert coefficients == tuple(w.tolist())
        assert r_squared == pytest.approx(1 - float((y - x @ w).square().sum() / y.square().sum()))
    assert path.r_squared[0] > path.r_squared[1] > path.r_squared[2] or path.r_squared[2] == 0
    assert coefficient_path(method, x, y, grid) == path


# The study


@pytest.fixture(scope="module")
def small_study() -> Study:
    return study(problems=20, levels=4)


def test_what_should_hold_does_and_the_other_readings_do_not(small_study: Study) -> None:
    assert {deviation.equation for deviation in small_study.deviations} == {"9", "10", "11", "13", "16", "J(εˢ)"}
    for deviation in small_study.deviations:
        worst = max(deviation.value, deviation.gradient or 0.0)
        assert worst < 1e-10 if deviation.holds else worst > 0.1, deviation.claim
    assert [deviation.holds for deviation in small_study.deviations].count(False) == 8
    assert 0 < small_study.overshoot < 0.5


def test_adversarial_dropout_saturates_on_diabetes(small_study: Study) -> None:
    (path,) = (path for path in small_study.paths if path.method == "adversarial dropout")
    assert path.grid == tuple(range(11))
    assert [sum(value == 0 for value in w) for w in path.coefficients] == [0] * 4 + [10] * 7


def test_only_adversarial_dropout_ignores_the_scale_of_a_feature(small_study: Study) -> None:
    changes = {row.method: row.change for row in small_study.scale}
    assert changes.pop("adversarial dropout") < 1e-3
    assert len(changes) == 3
    assert min(changes.values()) > 0.05


def test_the_discussions_two_differences_on_diabetes(small_study: Study) -> None:
    residual_kept = small_study.rescalings[0]
    assert residual_kept.lowest == pytest.approx((1, 1, 10, 100))
    assert residual_kept.highest == pytest.approx((1, 1, 10, 100))
    by_coefficients = {(one.data, one.coefficients.split(",")[0]): one for one in small_study.activities}
    everywhere = by_coefficients["diabetes", "least squares"]
    assert everywhere.training == 1
    assert everywhere.flips == (1, 2, 5, 10)
    assert everywhere.dropout[0] == pytest.approx(0.1)
    assert max(everywhere.dropout) < 0.6
    assert by_coefficients["diabetes", "adversarial training"].training == pytest.approx(0.4)
    assert by_coefficients["random", "random"].training == 1


def test_the_print_drops_more_than_k_on_diabetes_where_coefficients_are_0(small_study: Study) -> None:
    over = {(one.data.split(",")[1], one.flips): one.printed for one in small_study.dropped if one.flips}
    assert over.pop((" adversarial training", 5)) == 442
    assert 0 < over.pop((" adversarial training", 1)) < 442
    assert set(over.values()) == {0}
    assert {one.ours for one in small_study.dropped} == {0}


def test_the_study_is_repeatable_and_its_settings_are_checked(small_study: Study) -> None:
    assert equations(problems=20, seed=0) == small_study.deviations
    with pytest.raises(InvalidValueError, match="problems to be finite and above 0, got 0"):
        study(problems=0)
    with pytest.raises(InvalidValueError, match="factor"):
        study(factor=-1)
    with pytest.raises(InvalidValueError, match="levels"):
        study(levels=1)


# Bad arguments


@pytest.mark.parametrize("method", METHODS)
def test_bad_data(method: Method) -> None:
    x, y = drawn()
    setting = 1 if SETTINGS[method] == "k" else 0.1
    gone = x.clone()
    gone[:, 2] = 0
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (gone, y, InvalidValueError, r"each feature to vary, got 0 alone in columns \[2\]; take them out"),
        (0 * x, y, InvalidValueError, r"in columns \[0, 1, 2, 3\]"),
        (x[:, [0, 1, 2, 3, 0]], y, InvalidValueError, r"independent columns, got x of shape \(40, 5\) and rank 4"),
        (x[:3], y[:3], InvalidValueError, "rank 3; .* add examples"),
        (x, y * 0 + 3, InvalidValueError, r"targets that vary, got 3\.0 alone"),
        (x, y * math.nan, InvalidValueError, "y to be finite"),
        (x[:, 0], y, InvalidValueError, r"x to have 2 dimensions, got shape \(40,\)"),
        (x[:5], y, InvalidValueError, r"x of shape \(N, D\) = \(40, 4\)"),
        (x.float(), y, InvalidTypeError, "x to be a float64 tensor, got torch.float32"),
        (x, y.long(), InvalidTypeError, "y to be a float64 tensor, got torch.int64"),
    ]  # fmt: skip
    for features, targets, error, message in cases:
        with pytest.raises(error, match=message):
            fit(method, features, targets, setting)
    with pytest.raises(InvalidValueError, match="targets that vary"):
        least_delta_of_zero(x, y * 0)


@pytest.mark.parametrize(
    ("method", "setting", "error", "message"),
    [
        ("adversarial training", -1, InvalidValueError, "delta to be finite and 0 or more, got -1"),
        ("adversarial training", "1", InvalidTypeError, "delta to be a number"),
        ("adversarial dropout", 5, InvalidValueError, "between 0 and D = 4, got 5"),
        ("adversarial dropout", 1.5, InvalidTypeError, r"whole number, got 1\.5"),
        ("ridge", 0, InvalidValueError, "the penalty to be finite and above 0, got 0"),
        ("lasso", math.nan, InvalidValueError, "the penalty to be finite and above 0, got nan"),
        ("laso", 1, InvalidValueError, "method to be one of .*, got 'laso'; did you mean \"lasso\""),
    ],
)
def test_bad_settings(method: Any, setting: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(method, *drawn(), setting)

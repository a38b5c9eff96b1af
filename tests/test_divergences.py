"""The three divergences: values and gradients against plain floats, closed forms and torch's own losses."""

import math
from typing import Any

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from adversarial_dropout.divergences import (
    Divergence,
    cross_entropy,
    kl_divergence,
    quadratic_error,
    resolve_divergence,
)
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidTypeError, InvalidValueError

FUNCTIONS: dict[str, Divergence] = {"ce": cross_entropy, "kl": kl_divergence, "qe": quadratic_error}
NAMES = sorted(FUNCTIONS)


def pair(n: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random logits of target and prediction, ready for gradients."""
    target, prediction = (3 * torch.randn(n, classes, dtype=torch.float64)).to(dtype), torch.randn(n, classes)
    return target.requires_grad_(), prediction.to(dtype).requires_grad_()


def expected_values(name: str, target: Tensor, prediction: Tensor) -> Tensor:
    """Row by row in plain floats; ``target`` holds logits or labels."""
    values = []
    for t, logits in zip(target.tolist(), prediction.tolist(), strict=True):
        distribution = oracles.softmax(t) if isinstance(t, list) else oracles.one_hot(t, len(logits))
        values.append(oracles.VALUES[name](distribution, logits))
    return torch.tensor(values, dtype=torch.float64)


def expected_gradients(name: str, target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    rows = zip(target.tolist(), prediction.tolist(), strict=True)
    by_target, by_prediction = zip(*(oracles.GRADIENTS[name](t, q) for t, q in rows), strict=True)
    return torch.tensor(by_target, dtype=torch.float64), torch.tensor(by_prediction, dtype=torch.float64)


def gradients(name: str, target: Tensor, prediction: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(FUNCTIONS[name](target, prediction).sum(), (target, prediction))


# Values and gradients


@pytest.mark.parametrize("classes", [2, 5, 100])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_equal_plain_floats(name: str, classes: int) -> None:
    target, prediction = pair(classes=classes)
    values = FUNCTIONS[name](target, prediction)
    assert values.shape == (6,)
    torch.testing.assert_close(values, expected_values(name, target, prediction), rtol=1e-12, atol=1e-14)
    expected = expected_gradients(name, target, prediction)
    torch.testing.assert_close(gradients(name, target, prediction), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name: str) -> None:
    assert torch.autograd.gradcheck(FUNCTIONS[name], pair(n=3, classes=4))
    labels, (_, prediction) = torch.tensor([0, 3, 1]), pair(n=3, classes=4)
    assert torch.autograd.gradcheck(lambda logits: FUNCTIONS[name](labels, logits), (prediction,))


def of_torch(name: str, target: Tensor, prediction: Tensor) -> Tensor:
    """The same from ``torch.nn.functional``."""
    if name == "ce":
        return F.cross_entropy(prediction, target.softmax(1), reduction="none")
    if name == "kl":
        log_t, log_q = target.log_softmax(1), prediction.log_softmax(1)
        return F.kl_div(log_q, log_t, reduction="none", log_target=True).sum(1)
    return F.mse_loss(prediction.softmax(1), target.softmax(1), reduction="none").mean(1)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_equal_those_of_torch(name: str) -> None:
    target, prediction = pair(n=50, classes=10)
    torch.testing.assert_close(FUNCTIONS[name](target, prediction), of_torch(name, target, prediction))
    expected = torch.autograd.grad(of_torch(name, target, prediction).sum(), (target, prediction))
    torch.testing.assert_close(gradients(name, target, prediction), expected)


def test_kl_by_hand_shows_its_direction() -> None:
    target, prediction = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)  # (3/4, 1/4) ‖ (1/2, 1/2)
    forward, backward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert kl_divergence(target, prediction).item() == pytest.approx(forward, rel=1e-6)
    assert kl_divergence(prediction, target).item() == pytest.approx(backward, rel=1e-6)


# Extreme logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_stable_at_extreme_logits(name: str, dtype: torch.dtype) -> None:
    big = 1e4
    target = torch.tensor(
        [[big, -big, 0.0], [-big, big, 0], [big, big, -big], [1, 2, 3], [big, -big, -big]], dtype=dtype
    )
    prediction = torch.tensor([[-big, big, 0.0], [-big, big, 1], [0, -big, big], [0, 0, -big], [0, 1, 2]], dtype=dtype)
    target, prediction = target.requires_grad_(), prediction.requires_grad_()
    values = FUNCTIONS[name](target, prediction)
    torch.testing.assert_close(values.double(), expected_values(name, target, prediction), rtol=1e-6, atol=1e-7)
    got = tuple(gradient.double() for gradient in gradients(name, target, prediction))
    # 2 · 10⁴ nats are rounded at 10⁻³ in float32, and that is what the target's gradient is made of
    torch.testing.assert_close(got, expected_gradients(name, target, prediction), rtol=1e-5, atol=1e-3)
    by_prediction = got[1], expected_gradients(name, target, prediction)[1]
    torch.testing.assert_close(*by_prediction, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_stable_at_extreme_logits_with_labels(name: str) -> None:
    prediction = torch.tensor([[1e4, -1e4], [1e4, -1e4], [-1e4, -1e4]], requires_grad=True)
    labels = torch.tensor([0, 1, 1])
    values = FUNCTIONS[name](labels, prediction)
    torch.testing.assert_close(values.double(), expected_values(name, labels, prediction), rtol=1e-6, atol=1e-7)
    (got,) = torch.autograd.grad(values.sum(), prediction)
    expected = [[0.0, 0.0], [0.0, 0.0], [0.25, -0.25]] if name == "qe" else [[0.0, 0.0], [1.0, -1.0], [0.5, -0.5]]
    torch.testing.assert_close(got, torch.tensor(expected))


# Invariances and bounds


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_added_to_the_logits_changes_nothing(name: str) -> None:
    target, prediction = pair()
    shifted = FUNCTIONS[name](target + torch.randn(6, 1), prediction + torch.randn(6, 1))
    torch.testing.assert_close(shifted, FUNCTIONS[name](target, prediction))


@pytest.mark.parametrize("name", NAMES)
def test_each_row_stands_for_itself(name: str) -> None:
    target, prediction = pair()
    rows = [FUNCTIONS[name](target[i : i + 1], prediction[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(FUNCTIONS[name](target, prediction), torch.cat(rows))


logits = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3)


@given(target=logits, prediction=logits)
def test_kl_is_not_negative_and_is_cross_entropy_without_the_entropy(
    target: list[float], prediction: list[float]
) -> None:
    t, q = torch.tensor([target], dtype=torch.float64), torch.tensor([prediction], dtype=torch.float64)
    t, q = t - 60, q - 60  # so that nothing looks like probabilities
    assert kl_divergence(t, q).item() >= -1e-12
    assert kl_divergence(t, t).item() == 0
    torch.testing.assert_close(kl_divergence(t, q), cross_entropy(t, q) - cross_entropy(t, t), rtol=1e-9, atol=1e-9)


@given(target=logits, prediction=logits)
def test_quadratic_error_is_symmetric_and_within_its_bounds(target: list[float], prediction: list[float]) -> None:
    t, q = torch.tensor([target]) - 60, torch.tensor([prediction]) - 60
    assert 0 <= quadratic_error(t, q).item() <= 2 / 3 + 1e-6
    assert quadratic_error(t, q).item() == quadratic_error(q, t).item()
    assert quadratic_error(t, t).item() == 0


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_quadratic_error_is_the_mean_over_classes(classes: int) -> None:
    opposite = 1e4 * torch.eye(classes)[:2]
    assert quadratic_error(opposite[:1], opposite[1:]).item() == pytest.approx(2 / classes)
    assert quadratic_error(torch.tensor([1]), opposite[:1]).item() == pytest.approx(2 / classes)


# Labels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("name", NAMES)
def test_labels_are_one_hot(name: str, dtype: torch.dtype) -> None:
    _, prediction = pair()
    labels = torch.tensor([0, 1, 2, 3, 4, 2], dtype=dtype)
    values = FUNCTIONS[name](labels, prediction)
    torch.testing.assert_close(values, expected_values(name, labels, prediction), rtol=1e-12, atol=1e-14)
    saturated = 1e4 * F.one_hot(labels.long(), 5).double()
    torch.testing.assert_close(values, FUNCTIONS[name](saturated, prediction))
    (got,) = torch.autograd.grad(values.sum(), prediction)
    torch.testing.assert_close(got, expected_gradients(name, saturated, prediction)[1], rtol=1e-10, atol=1e-14)


def test_kl_with_labels_is_cross_entropy() -> None:
    _, prediction = pair()
    labels = torch.tensor([4, 0, 0, 3, 1, 2])
    assert torch.equal(kl_divergence(labels, prediction), cross_entropy(labels, prediction))
    expected = F.cross_entropy(prediction, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(labels, prediction), expected)


# Shapes and dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    target, prediction = pair(dtype=dtype)
    values = FUNCTIONS[name](target, prediction)
    assert values.dtype == torch.float32
    assert torch.equal(values, FUNCTIONS[name](target.float(), prediction.float()))
    torch.testing.assert_close(values.double(), expected_values(name, target, prediction), rtol=1e-5, atol=1e-6)
    tolerance = torch.finfo(dtype).eps
    for got, expected in zip(
        gradients(name, target, prediction), expected_gradients(name, target, prediction), strict=True
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance**2)


@pytest.mark.parametrize("name", NAMES)
def test_no_example(name: str) -> None:
    target, prediction = pair(n=0)
    assert FUNCTIONS[name](target, prediction).shape == (0,)
    assert FUNCTIONS[name](torch.zeros(0, dtype=torch.long), prediction).shape == (0,)
    assert [gradient.shape for gradient in gradients(name, target, prediction)] == [(0, 5), (0, 5)]


LABELS, LOGITS = torch.tensor([0, 2]), torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])


@pytest.mark.parametrize(
    ("target", "prediction", "error", "message"),
    [
        (LOGITS[0], LOGITS[0], InvalidValueError, r"prediction to be logits of shape \(N, C\), got \(3,\)"),
        (LABELS, LOGITS[0], InvalidValueError, r"prediction to be logits of shape \(N, C\), got \(3,\)"),
        (LOGITS[None], LOGITS[None], InvalidValueError, r"prediction to be logits of .*, got \(1, 2, 3\)"),
        (LABELS, LOGITS[None], InvalidValueError, r"prediction to be logits of .*, got \(1, 2, 3\)"),
        (LOGITS[:, :0], LOGITS[:, :0], InvalidValueError, r"logits of shape \(N, C\), got \(2, 0\)"),
        (LOGITS[:, :2], LOGITS, InvalidValueError, r"logits of the prediction's shape \(2, 3\), got \(2, 2\)"),
        (LOGITS[:1], LOGITS, InvalidValueError, r"logits of the prediction's shape \(2, 3\), got \(1, 3\)"),
        (LABELS.float(), LOGITS, InvalidValueError, r"logits of the prediction's shape \(2, 3\), got \(2,\)"),
        (LABELS[:, None], LOGITS, InvalidValueError, r"labels of shape \(2,\), got \(2, 1\)"),
        (LABELS[:1], LOGITS, InvalidValueError, r"labels of shape \(2,\), got \(1,\)"),
        (LABELS + 1, LOGITS, InvalidValueError, r"labels in \[0, 3\) for 3 classes, got values from 1 to 3"),
        (LABELS - 1, LOGITS, InvalidValueError, r"labels in \[0, 3\) for 3 classes, got values from -1 to 1"),
        (LABELS == 0, LOGITS, InvalidTypeError, r"integer labels or floating logits, got torch\.bool"),
        (LOGITS.to(torch.complex64), LOGITS, InvalidTypeError, r"or floating logits, got torch\.complex64"),
        (LABELS * 0, LOGITS[:, :1], InvalidValueError, r"two or more classes, got \(2, 1\).*bernoulli_kl"),
        (LOGITS[:, :1], LOGITS[:, :1], InvalidValueError, r"two or more classes, got \(2, 1\).*squared_error"),
        (LABELS, LOGITS.long(), InvalidTypeError, r"prediction to be floating logits, got torch\.int64"),
        (LOGITS, LOGITS.long(), InvalidTypeError, r"prediction to be floating logits, got torch\.int64"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name: str, target: Tensor, prediction: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FUNCTIONS[name](target, prediction)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_warn(name: str) -> None:
    probabilities = LOGITS.softmax(1)
    with pytest.warns(AdversarialDropoutWarning, match="prediction looks like probabilities.*; pass logits") as caught:
        FUNCTIONS[name](LOGITS, probabilities)
    assert caught[0].filename == __file__
    with pytest.warns(AdversarialDropoutWarning, match="target looks like probabilities"):
        FUNCTIONS[name](probabilities, LOGITS)
    with pytest.warns(AdversarialDropoutWarning, match="prediction looks like probabilities"):
        FUNCTIONS[name](LABELS, F.one_hot(LABELS, 3).float())


@pytest.mark.parametrize("rows", [[[0.2, 0.8, 0.0], [1.0, 2.0, 3.0]], [[-1.0, 2.0, 0.0]] * 2, [[0.0] * 3] * 2])
@pytest.mark.parametrize("name", NAMES)
def test_logits_that_are_a_little_like_probabilities_do_not_warn(name: str, rows: list[list[float]]) -> None:
    FUNCTIONS[name](torch.tensor(rows), torch.tensor(rows))  # a warning would be an error


# divergence="kl"


@pytest.mark.parametrize("name", NAMES)
def test_names_stand_for_the_functions(name: str) -> None:
    target, prediction = pair()
    assert torch.equal(resolve_divergence(name)(target, prediction, None), FUNCTIONS[name](target, prediction))


def test_a_function_is_called_and_its_result_checked() -> None:
    def squared_error(target: Tensor, prediction: Tensor) -> Tensor:
        return (target - prediction).square().flatten(1).sum(1)

    assert torch.equal(resolve_divergence(squared_error)(LOGITS, LOGITS + 1, None), torch.full((2,), 3.0))
    with pytest.raises(InvalidValueError, match=r"one value per example, shape \(2,\), got \(2, 3\)"):
        resolve_divergence(torch.sub)(LOGITS, LOGITS, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kld", r"one of kl, qe, ce, .*, or a function .*, got \'kld\'; did you mean \"kl\"\?"),
        ("qee", r'did you mean "qe"\?'),
        ("hinge", r"got 'hinge'$"),
        (None, "got None"),
        (3, "got 3"),
    ],
)
def test_bad_name(name: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        resolve_divergence(name)

"""Bad input raises an error or a warning that names the cause and the remedy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialDropoutError,
    AdversarialDropoutWarning,
    AdversarialTraining,
    EntropyMinimization,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)

from .recording import METHODS, Methods, Opaque, batch, build

SUPERVISED = pytest.mark.parametrize("method", ["sadd", "at"])
SEARCHING = pytest.mark.parametrize("method", ["sadd", "vadd", "vadd-shared"])


def fails(kind: type[Exception], message: str, call: Callable[[], object]) -> None:
    """``call`` raises an error of this package that is also a built-in one."""
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, AdversarialDropoutError)


@pytest.mark.parametrize(
    ("make", "settings", "kind", "message"),
    [
        (VirtualAdversarialDropout, {"divergence": "lk"}, ValueError, 'did you mean "kl"'),
        (VirtualAdversarialDropout, {"divergence": None}, ValueError, "one of kl, qe, ce, .*, or a function"),
        (VirtualAdversarialDropout, {"noise": "share"}, ValueError, 'did you mean "shared"'),
        (VirtualAdversarialDropout, {"reduction": "avg"}, ValueError, "mean, sum, none"),
        (SupervisedAdversarialDropout, {"divergence": "bce"}, ValueError, 'did you mean "bernoulli_ce"'),
        (PiModel, {"reduction": "means"}, ValueError, 'did you mean "mean"'),
        (VirtualAdversarialTraining, {"eps": 0.0}, ValueError, "eps to be finite and above 0, got 0.0"),
        (VirtualAdversarialTraining, {"eps": float("nan")}, ValueError, "eps"),
        (VirtualAdversarialTraining, {"xi": -1.0}, ValueError, "xi to be finite and above 0"),
        (VirtualAdversarialTraining, {"eps": "2"}, TypeError, "eps to be a number above 0, got '2'"),
        (VirtualAdversarialTraining, {"steps": 0}, ValueError, "steps to be a whole number, 1 or more, got 0"),
        (VirtualAdversarialTraining, {"steps": 1.5}, TypeError, "steps to be a whole number, 1 or more, got 1.5"),
        (AdversarialTraining, {"eps": float("inf")}, ValueError, "eps to be finite"),
        (AdversarialTraining, {"eps": True}, TypeError, "eps to be a number"),
    ],
)
def test_settings(make: Callable[..., object], settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    fails(kind, message, lambda: make(**settings))


@pytest.mark.parametrize("make", [*METHODS.values()])
def test_settings_are_keyword_only(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        make("mean")
    with pytest.raises(TypeError, match="unexpected keyword"):
        make(reductions="mean")


@SUPERVISED
def test_y_missing(method: str) -> None:
    fails(
        ValueError,
        r"is supervised: expected labels.*call reg\(model, x, y\)",
        lambda: METHODS[method]()(build().model, batch()[0]),
    )


@SUPERVISED
def test_y_of_another_kind(method: str) -> None:
    x, _ = batch()
    fails(
        TypeError, "expected y to be a tensor, got list", lambda: METHODS[method]()(build().model, x, [0, 1, 2, 0, 1])
    )


@SUPERVISED
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3, 0], r"labels in \[0, 3\) for 3 classes, got values from 0 to 3"),
        ([0, 1, -2, -1, 0], r"labels in \[0, 3\)"),
        ([0, 1, 2], r"labels of shape \(5,\), got \(3,\)"),
        ([[0], [1], [2], [0], [1]], r"labels of shape \(5,\), got \(5, 1\)"),
    ],
)
def test_labels_out_of_range_or_shape(method: str, labels: Any, message: str) -> None:
    fails(ValueError, message, lambda: METHODS[method]()(build().model, batch()[0], torch.tensor(labels)))


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "vat", "pi", "entropy"])
def test_unsupervised_methods_ignore_y(method: str) -> None:
    x, y = batch()
    values = []
    for labels in (None, y, torch.full((3, 2), -7.5)):
        net = build()
        values.append(METHODS[method]()(net.model, x, labels).item())
    assert len(set(values)) == 1


@pytest.mark.parametrize("method", ["at", "vat"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_x_that_cannot_be_moved(method: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    x = torch.ones(5, 3, dtype=dtype)
    fails(TypeError, "expected floating x.*embedding=", lambda: METHODS[method]()(model, x, torch.zeros(5).long()))


@pytest.mark.parametrize("method", ["at", "vat"])
def test_x_that_is_no_tensor(method: str) -> None:
    for x, message in (
        ({"x": 1}, "expected a tensor in x, got a dict without one"),
        ([batch()[0]], r"expected x to be a tensor, a tuple .*, got list; pass tuple\(x\)"),
        ("text", "got str"),
    ):
        fails(TypeError, message, lambda x=x: METHODS[method]()(build().model, x, batch()[1]))  # type: ignore[misc]


@SEARCHING
def test_token_ids_are_fine_where_nothing_is_moved(method: str) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), AdversarialDropout(0.5, 0.3), nn.Linear(12, 3))
    x, y = torch.randint(9, (5, 3)), torch.randint(3, (5,))
    assert METHODS[method]()(model, x, y).item() > 0


@SEARCHING
def test_no_layer(method: str) -> None:
    x, y = batch()
    model = nn.Linear(6, 3).double()
    fails(ValueError, r"AdversarialDropout layer, found none; put one in front", lambda: METHODS[method]()(model, x, y))


@SEARCHING
def test_a_layer_that_forward_does_not_use(method: str) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = AdversarialDropout()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.linear(x)
            return result

    x, y = batch()
    fails(ValueError, "none was called", lambda: METHODS[method]()(Unused().double(), x, y))


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_no_module(method: str) -> None:
    x, y = batch()
    fails(
        TypeError,
        r"torch.nn.Module as first argument, got Tensor; call reg\(model, x\)",
        lambda: METHODS[method]()(x, x, y),
    )


class Tuple(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.inner(x), 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sequential", [True, False])
def test_a_model_that_returns_a_tuple(method: str, sequential: bool) -> None:
    x, y = batch()
    model = nn.Sequential(*build().model.children(), Tuple(nn.Identity())) if sequential else Tuple(build().model)
    message = r"model to return a tensor.*got tuple with 0: tensor \(5, 3\), 1: int; say which part.*output=INDEX"
    fails(TypeError, message, lambda: METHODS[method]()(model, x, y))


@pytest.mark.parametrize("method", ["sadd", "vadd", "vat", "pi"])
@pytest.mark.parametrize(
    ("divergence", "came"),
    [
        (lambda t, q: q.square(), r"\(5, 3\)"),
        (lambda t, q: q.square().sum(), r"\(\)"),
        (lambda t, q: q.square().sum(dim=1, keepdim=True), r"\(5, 1\)"),
        (lambda t, q: 1.0, "float"),
    ],
    ids=["unreduced", "mean", "column", "number"],
)
def test_a_divergence_of_a_wrong_shape(method: str, divergence: Any, came: str) -> None:
    x, y = batch()
    message = rf"one value per example, shape \(5,\), got {came}"
    fails(ValueError, message, lambda: METHODS[method](divergence=divergence)(build().model, x, y))


@pytest.mark.parametrize("form", ["sequential", "methods", "opaque"])
def test_sharing_with_a_target_and_an_under_part_shows_the_three_calls(form: str) -> None:
    net = build(form)
    x, _ = batch()
    out = net.model(x)
    with pytest.raises(ValueError, match="under part") as caught:
        VirtualAdversarialDropout(noise="shared")(net.model, x, target=out)
    for call in ("h = under(x)", "out = head(h)", "reg(head, h, target=out)"):
        assert call in str(caught.value)


@SEARCHING
def test_an_under_part_that_contains_the_layer(method: str) -> None:
    net = build()
    model = Methods(nn.Sequential(net.stem, net.layer), nn.Sequential(net.head, AdversarialDropout()))
    x, y = batch()
    fails(
        ValueError,
        "under part of the model contains an AdversarialDropout layer",
        lambda: METHODS[method]()(model.double(), x, y),
    )


@SEARCHING
def test_a_layer_called_with_two_shapes(method: str) -> None:
    layer = AdversarialDropout(0.5, 0.3)
    model = Opaque(nn.Linear(6, 10), layer, nn.Linear(10, 8), layer, nn.Linear(8, 3)).double()
    x, y = batch()
    fails(ValueError, r"shape \(5, 10\) and \(5, 8\).*one layer for each place", lambda: METHODS[method]()(model, x, y))


@pytest.mark.parametrize("method", ["vadd", "sadd", "vat", "pi"])
def test_probabilities_given_as_logits(method: str) -> None:
    net = build()
    model = nn.Sequential(*net.model.children(), nn.Softmax(dim=1))
    x, y = batch()
    with pytest.warns(AdversarialDropoutWarning, match="looks like probabilities.*pass logits"):
        METHODS[method]()(model, x, y)


def test_probabilities_given_as_target() -> None:
    net = build()
    x, _ = batch()
    with pytest.warns(AdversarialDropoutWarning, match="target looks like probabilities"):
        VirtualAdversarialDropout()(net.model, x, target=net.model(x).softmax(dim=1))
    with pytest.warns(AdversarialDropoutWarning, match="looks like probabilities"):
        EntropyMinimization()(net.model, x, target=net.model(x).softmax(dim=1))


@SEARCHING
def test_a_budget_of_no_flip(method: str) -> None:
    x, y = batch()
    with pytest.warns(AdversarialDropoutWarning, match=r"delta=0.09 of 10 units allows no flip.*delta=0.1 or more"):
        METHODS[method]()(build(delta=0.09).model, x, y)
    METHODS[method]()(build(delta=0.0).model, x, y)


@SEARCHING
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("delta", [0.0, 0.3])
def test_activations_that_are_not_finite(method: str, value: float, delta: float) -> None:
    net = build(delta=delta)
    x, y = batch()
    x[3, 2] = value
    fails(
        ValueError,
        "finite jacobian, got nan at example 3.*its activations are not finite",
        lambda: METHODS[method]()(net.model, x, y),
    )
    x, y = batch()
    METHODS[method]()(net.model, x, y)


@SEARCHING
def test_a_divergence_whose_slope_is_not_finite(method: str) -> None:
    reg = METHODS[method](divergence=lambda t, q: (q - q.detach()).square().sum(dim=1).sqrt())
    x, y = batch()
    message = "finite jacobian, got nan at example 0.*activations are finite, so look at the divergence"
    fails(ValueError, message, lambda: reg(build().model, x, y))


@pytest.mark.parametrize("method", ["at", "vat"])
def test_inputs_or_outputs_that_are_not_finite(method: str) -> None:
    x, y = batch()
    model = nn.Linear(6, 3).double()
    x[1, 1] = float("nan")
    fails(ValueError, "finite gradient in x.*x is not finite", lambda: METHODS[method]()(model, x, y))
    x[1, 1] = 0
    model.weight.data[0, 0] = float("nan")
    fails(ValueError, "finite gradient in x.*look at the model's output", lambda: METHODS[method]()(model, x, y))


@pytest.mark.parametrize("method", ["vadd", "pi", "vat"])
def test_a_target_of_a_wrong_shape(method: str) -> None:
    x, _ = batch()
    target = torch.zeros(5, 4, dtype=torch.float64)
    message = r"target logits of the prediction's shape \(5, 3\), got \(5, 4\)"
    fails(ValueError, message, lambda: METHODS[method]()(build().model, x, target=target))


@SEARCHING
def test_integer_activations(method: str) -> None:
    model = nn.Sequential(nn.Flatten(), AdversarialDropout(), nn.Linear(6, 3))
    fails(
        TypeError,
        "floating activations, got torch.int64",
        lambda: METHODS[method]()(model, torch.ones(5, 6).long(), torch.zeros(5)),
    )

"""Bad input in the forms of inputs and outputs: an error of the package that says what came and what to do."""

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropoutError

from .by_hand import Network, double
from .recording import METHODS

EACH = pytest.mark.parametrize("method", METHODS)
WHOLE = pytest.mark.parametrize("method", [method for method in METHODS if method not in ("at", "vat")])
X, Y = double(5, 6), torch.tensor([0, 1, 2, 0, 1])
TOKENS, TOKEN_LABELS = double(5, 4, 6), torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(0))


class One(nn.Module):
    def __init__(self, returned: Callable[[Tensor], Any] = lambda logits: logits, **settings: Any) -> None:
        super().__init__()
        self.network = Network(**settings)
        self.returned = returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(self.network(x))


def fails(message: str, call: Callable[[], object], kind: Any = (ValueError, TypeError)) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, AdversarialDropoutError)


# Inputs


@EACH
@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([X, X], r"got list; pass tuple\(x\)"),
        ({}, "a tensor in x, got a dict without one"),
        ((), "a tensor in x, got a tuple without one"),
        ({"note": "no tensor"}, "a dict without one"),
        ({0: X}, r"names of arguments as keys of x, got \[0\]"),
        ("text", "got str"),
        (None, "got NoneType"),
        (X.numpy(), "got ndarray"),
        ({X}, "got set"),
    ],
    ids=["list", "dict", "tuple", "none", "integer-keys", "text", "None", "numpy", "set"],
)
def test_x_of_another_kind(method: str, x: Any, message: str) -> None:
    fails(message, lambda: METHODS[method]()(One(), x, Y), TypeError)


@pytest.mark.parametrize("method", ["at", "vat"])
@pytest.mark.parametrize("x", [(X, X), {"a": X, "b": X}, (Y, Y), {"ids": Y}], ids=["two", "named", "integers", "ids"])
def test_which_input_is_to_be_moved(method: str, x: Any) -> None:
    fails("one dense tensor.*embedding=", lambda: METHODS[method]()(One(), x, Y), TypeError)


@EACH
@pytest.mark.parametrize(
    "container", [lambda x: x, lambda x: (x,), lambda x: {"x": x}], ids=["tensor", "tuple", "dict"]
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to("meta"), "got a meta tensor"),
        (lambda x: x.to(torch.float8_e4m3fn), r"16 bits or more, got torch.float8_e4m3fn; pass x.to\(torch.bfloat16\)"),
        (lambda x: x.to(torch.float8_e5m2), "got torch.float8_e5m2"),
        (lambda x: torch.where(x > 1, torch.nan, x), "finite"),
        (lambda x: torch.where(x > 1, torch.inf, x), "finite"),
    ],
    ids=["meta", "fp8", "other-fp8", "nan", "inf"],
)
def test_tensors_that_cannot_be_used(method: str, container: Any, change: Any, message: str) -> None:
    fails(message, lambda: METHODS[method]()(One(), container(change(X)), Y))


@pytest.mark.parametrize("method", ["at", "vat"])
@pytest.mark.parametrize(
    "change",
    [lambda x: x.to(torch.complex128), Tensor.to_sparse],
    ids=["complex", "sparse"],
)
def test_complex_and_sparse_inputs_cannot_be_moved(method: str, change: Any) -> None:
    fails("one dense tensor", lambda: METHODS[method]()(One(), change(X), Y), TypeError)


@WHOLE
def test_sparse_inputs_of_a_model_that_takes_them(method: str) -> None:
    losses = []
    for x in (X, X.to_sparse()):
        torch.manual_seed(4)
        losses.append(METHODS[method]()(One(), x, Y))
    torch.testing.assert_close(*losses)


@EACH
@pytest.mark.parametrize("labels", ["per example", "per position"])
def test_exchanged_arguments(method: str, labels: str) -> None:
    if labels == "per position":
        fails("look exchanged", lambda: METHODS[method](class_dim=-1)(One(), TOKEN_LABELS, TOKENS))
    model = One()
    fails("look exchanged", lambda: METHODS[method]()(model, Y, X), TypeError)
    fails(r"call reg\(model, x\)", lambda: METHODS[method]()(model(X), X), TypeError)
    fails(r"call reg\(model, x\)", lambda: METHODS[method]()(X, model, Y), TypeError)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "entropy"])
def test_numbers_to_predict_from_ids_are_not_exchanged(method: str) -> None:
    model = nn.Sequential(nn.Embedding(9, 6).double(), One(outputs=1), nn.Flatten(0))
    settings: dict[str, Any] = {"embedding": "0"} if method in ("at", "vat") else {}
    assert METHODS[method](divergence="squared_error", **settings)(model, Y, double(5)) > 0


@EACH
@pytest.mark.parametrize("rows", [X[:0], (X[:0],), {"x": X[:0]}], ids=["tensor", "tuple", "dict"])
def test_no_row(method: str, rows: Any) -> None:
    model = One(lambda logits: SimpleNamespace(logits=logits))
    loss = METHODS[method]()(model, rows, Y[:0])
    assert loss == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


@EACH
def test_no_row_with_positions(method: str) -> None:
    mask = torch.zeros(0, 4, dtype=torch.bool)
    loss = METHODS[method](class_dim=-1)(One(), TOKENS[:0], TOKEN_LABELS[:0], mask=mask)
    assert loss == 0
    assert loss.requires_grad


@pytest.mark.parametrize("method", ["sadd", "at"])
def test_no_labelled_row(method: str) -> None:
    for x in (X, (X,)):
        model = One(lambda logits: (logits, None))
        loss = METHODS[method](output=0)(model, x, torch.full((5,), -1))
        assert loss == 0
        assert not any(g.any() for g in torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


# Outputs


@EACH
@pytest.mark.parametrize(
    ("returned", "output", "message"),
    [
        (lambda z: (z, None), None, r"got tuple with 0: tensor \(5, 3\), 1: NoneType; say which part.*output="),
        (lambda z: [z], None, r"got list with 0: tensor \(5, 3\)"),
        (lambda z: {"scores": z, "loss": None}, None, r"got dict with scores: tensor \(5, 3\), loss: NoneType"),
        (lambda z: SimpleNamespace(scores=z), None, r"got SimpleNamespace with scores: tensor \(5, 3\)"),
        (lambda z: {"logits": None}, None, "got "),
        (lambda z: "text", None, "got str"),
        (lambda z: None, None, "got NoneType"),
        (lambda z: z.sum(), None, "got a tensor without dimensions"),
        (lambda z: (z,), 1, r"output named 1, but the model returned tuple with 0: tensor \(5, 3\)"),
        (lambda z: {"scores": z}, "score", r"named 'score', but the model returned dict with scores: tensor \(5, 3\)"),
        (lambda z: SimpleNamespace(a=z), "b", r"named 'b', but .* SimpleNamespace with a: tensor \(5, 3\)"),
        (lambda z: z, "logits", r"named 'logits', but the model returned a tensor of shape \(5, 3\)"),
        (lambda z: z, 0, r"named 0, but the model returned a tensor of shape \(5, 3\)"),
        (lambda z: (z, None), 1, "got NoneType"),
        (lambda z: (z, None), lambda returned: returned, "got tuple"),
    ],
)
def test_no_logits_found(method: str, returned: Any, output: Any, message: str) -> None:
    fails(message, lambda: METHODS[method](output=output)(One(returned), X, Y))


@EACH
@pytest.mark.parametrize("output", [True, 1.5, ("a",), b"logits", [0]])
def test_output_of_another_kind(method: str, output: Any) -> None:
    fails("output to be a name, an index or a function, got", lambda: METHODS[method](output=output), TypeError)


@EACH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Tensor.long, "floating logits, got torch.int64"),
        (lambda z: z.to(torch.complex128), "floating logits, got torch.complex128"),
        (lambda z: z[:, :1], r"two or more classes, got \(5, 1\).*bernoulli_kl.*squared_error"),
        (lambda z: z[:, 0], r"shape \(N, C\), got \(5,\); for one logit per example use .* bernoulli_"),
        (lambda z: z[:, None], r"got \(5, 1, 3\); with positions say .*class_dim=1 .*class_dim=-1"),
    ],
    ids=["integer", "complex", "one-logit", "flat", "positions"],
)
def test_outputs_that_are_no_logits(method: str, change: Any, message: str) -> None:
    fails(message, lambda: METHODS[method]()(One(change), X, Y))


@EACH
@pytest.mark.parametrize(
    "change",
    [Tensor.to_sparse, lambda z: z.to(torch.float8_e4m3fn), lambda z: z.to("meta")],
    ids=["sparse", "fp8", "meta"],
)
def test_logits_that_cannot_be_used(method: str, change: Any) -> None:
    fails("logits", lambda: METHODS[method]()(One(change), X, Y))


# class_dim and mask


@EACH
@pytest.mark.parametrize("class_dim", [0, 3, 7, -3, -4, "1", 1.0])
def test_class_dim_that_is_no_dimension(method: str, class_dim: Any) -> None:
    message = rf"class_dim to be a dimension of \(5, 4, 3\) other than 0.*got {class_dim!r}"
    fails(message, lambda: METHODS[method](class_dim=class_dim)(One(), TOKENS, TOKEN_LABELS))


@EACH
def test_class_dim_true(method: str) -> None:
    fails("class_dim", lambda: METHODS[method](class_dim=True)(One(), TOKENS, TOKEN_LABELS))


@EACH
def test_class_dim_without_classes(method: str) -> None:
    name = "bernoulli_ce" if method == "entropy" else "squared_error"
    fails("class_dim only with kl, qe, ce", lambda: METHODS[method](class_dim=-1, divergence=name)(One(), X, Y))


MASK = torch.ones(5, 4, dtype=torch.long)


@EACH
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.double(), r"bool or 0 and 1, got torch.float64; pass mask.bool\(\)"),
        (MASK[:, :3], r"shape \(5, 4\).*got \(5, 3\)"),
        (MASK[:1], r"shape \(5, 4\).*got \(1, 4\)"),
        (MASK.t(), r"shape \(5, 4\).*got \(4, 5\)"),
        (MASK[..., None], r"shape \(5, 4\).*got \(5, 4, 1\)"),
        (2 * MASK, "entries 0 and 1, got others"),
        (-MASK, "entries 0 and 1, got others"),
        (MASK.tolist(), "mask to be a tensor, got list"),
    ],
    ids=["float", "short", "row", "transposed", "more", "twos", "negative", "list"],
)
def test_masks_that_do_not_fit(method: str, mask: Any, message: str) -> None:
    fails(message, lambda: METHODS[method](class_dim=-1)(One(), TOKENS, TOKEN_LABELS, mask=mask))


# Calls under other modes


@WHOLE
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_value_is_the_same(method: str, guard: Any) -> None:
    values = []
    for mode in (nullcontext, guard):
        model = One(lambda logits: {"logits": logits})
        torch.manual_seed(4)
        with mode():
            loss = METHODS[method]()(model, {"x": X}, Y)
        assert loss.requires_grad == (mode is nullcontext)
        values.append(loss.item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def first(returned: Any) -> Tensor:
    result: Tensor = returned[0]
    return result


@EACH
def test_copies_pickles_and_what_repr_shows(method: str) -> None:
    reg = METHODS[method](output=first, class_dim=-1, reduction="sum")
    for other in (copy.copy(reg), copy.deepcopy(reg), pickle.loads(pickle.dumps(reg))):
        losses = []
        for one in (reg, other):
            torch.manual_seed(4)
            losses.append(one(One(lambda logits: (logits,)), TOKENS, TOKEN_LABELS))
        assert losses[0] == losses[1]
    for shown in ("reduction=sum", "class_dim=-1", "output="):
        assert shown in repr(reg)
    assert "output=logits" in repr(METHODS[method](output="logits"))

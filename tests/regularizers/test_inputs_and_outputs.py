"""What models take and return: tuples, mappings, further arguments, named outputs; against the loops of by_hand.py."""

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout.errors import AdversarialDropoutError

from .by_hand import BY_HAND, DIVERGENCE, Network, double, loop, reduced, same
from .recording import METHODS

Pair = namedtuple("Pair", "a b")

EACH_METHOD = pytest.mark.parametrize("method", METHODS)
WHOLE_INPUTS = [method for method in METHODS if method not in ("at", "vat")]
"""The methods that do not move the input."""


A, B, LABELS = double(5, 4), double(5, 2, seed=2), torch.tensor([0, 2, 1, 1, 0])


class One(nn.Module):
    """One input; ``returned`` says what the model makes of its logits."""

    def __init__(self, returned: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.network = Network()
        self.returned = returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(self.network(x))


class Two(nn.Module):
    """Two inputs and two settings, which scale what enters the network, so that each of them matters."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, a: Tensor, b: Tensor, note: str | None = None, flag: bool = False) -> Any:
        return self.network(torch.cat([a, b], dim=1) * (2 if flag else 1) * (-1 if note == "minus" else 1))


class KeywordOnly(Two):
    def forward(  # type: ignore[override]
        self, *, a: Tensor, b: Tensor, note: str | None = None, flag: bool = False
    ) -> Any:
        return super().forward(a, b, note, flag)


def expected(method: str, network: Network, x: Tensor, values: Any, **settings: Any) -> Tensor:
    return reduced(BY_HAND[method](network, x, LABELS, values, **settings))


def call(method: str, model: nn.Module, x: Any) -> Tensor:
    """The loss; SAdD gets the user's pass, so that the base mask is seen."""
    first = None
    if method == "sadd":
        first = model(**x) if hasattr(x, "keys") else model(*x)
    result: Tensor = METHODS[method]()(model, x, LABELS, target=first)
    return result


# Inputs


@pytest.mark.parametrize("method", WHOLE_INPUTS)
@pytest.mark.parametrize(
    ("x", "scale"),
    [
        ((A, B), 1),
        ((A, B, "minus"), -1),
        ((A, B, None, True), 2),
        (Pair(A, B), 1),
        ({"b": B, "a": A}, 1),
        ({"a": A, "b": B, "flag": True, "note": None}, 2),
        ({"a": A, "b": B, "note": "minus"}, -1),
        (OrderedDict(b=B, a=A), 1),
        (UserDict(a=A, b=B, flag=True), 2),
    ],
    ids=["tuple", "string", "none-and-flag", "namedtuple", "dict", "dict-flag", "dict-string", "ordered", "userdict"],
)
def test_several_inputs(method: str, x: Any, scale: int) -> None:
    model = Two()
    kept = dict(x) if hasattr(x, "keys") else x
    loss = call(method, model, x)
    same(model, loss, expected(method, model.network, scale * torch.cat([A, B], dim=1), loop(DIVERGENCE[method])))
    assert (dict(x) if hasattr(x, "keys") else x) == kept, "x is as it was"


@pytest.mark.parametrize("method", WHOLE_INPUTS)
def test_keyword_only_arguments(method: str) -> None:
    model = KeywordOnly()
    loss = call(method, model, {"a": A, "b": B, "flag": True})
    same(model, loss, expected(method, model.network, 2 * torch.cat([A, B], dim=1), loop(DIVERGENCE[method])))


@pytest.mark.parametrize("method", WHOLE_INPUTS)
def test_the_same_tensor_twice(method: str) -> None:
    class Sum(Two):
        def forward(self, a: Tensor, b: Tensor) -> Any:  # type: ignore[override]
            return self.network(a + b.square())

    model, x = Sum(), double(5, 6)
    loss = call(method, model, (x, x))
    same(model, loss, expected(method, model.network, x + x.square(), loop(DIVERGENCE[method])))


@pytest.mark.parametrize("method", WHOLE_INPUTS)
@pytest.mark.parametrize("named", [True, False])
def test_the_gradient_reaches_inputs_inside_a_container(method: str, named: bool) -> None:
    model, a = Two(), A.clone().requires_grad_()
    loss = call(method, model, {"a": a, "b": B} if named else (a, B))
    by_hand = expected(method, model.network, torch.cat([a, B], dim=1), loop(DIVERGENCE[method]))
    same(model, loss, by_hand, a)


@pytest.mark.parametrize("method", WHOLE_INPUTS)
def test_containers_inside_a_tuple(method: str) -> None:
    class Nested(Two):
        def forward(self, pair: tuple[Tensor, Tensor], more: dict[str, list[Tensor]]) -> Any:  # type: ignore[override]
            return self.network(torch.cat([*pair, *more["c"]], dim=1))

    model = Nested()
    loss = call(method, model, ((A[:, :1], A[:, 1:]), {"c": [B]}))
    same(model, loss, expected(method, model.network, torch.cat([A, B], dim=1), loop(DIVERGENCE[method])))


@pytest.mark.parametrize("method", ["at", "vat"])
@pytest.mark.parametrize("container", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("leaf", [True, False])
def test_the_only_floating_input_is_moved(method: str, container: str, leaf: bool) -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, x: Tensor, groups: Tensor | None = None, note: str = "") -> Tensor:
            shift = 0 if groups is None else groups.double()[:, None]
            result: Tensor = self.network(x + shift)
            return result

    model, x = Choice(), double(5, 6).requires_grad_(leaf)
    given = {"tensor": x, "tuple": (x, LABELS, "note"), "dict": {"groups": LABELS, "x": x, "note": "note"}}[container]
    shift = 0 if container == "tensor" else LABELS.double()[:, None]
    torch.manual_seed(3)
    loss = METHODS[method]()(model, given, LABELS)
    torch.manual_seed(3)
    settings = {"direction": torch.randn(5, 6, dtype=torch.float64)} if method == "vat" else {}
    by_hand = expected(method, model.network, x + shift, loop(DIVERGENCE[method]), **settings)
    same(model, loss, by_hand, *([x] if leaf else []))


# Outputs


@dataclass
class Answer:
    logits: Tensor
    hidden: None = None


@dataclass
class Scores:
    hidden: str
    scores: Tensor


def second(returned: Any) -> Tensor:
    result: Tensor = returned[1]["z"]
    return result


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "tensor": (lambda z: z, None),
    "tensor-function": (lambda z: torch.stack([z, -z]), lambda returned: returned[0]),
    "tuple-0": (lambda z: (z, 0 * z), 0),
    "tuple-1": (lambda z: (0 * z, z), 1),
    "tuple-last": (lambda z: (0 * z, None, z), -1),
    "list": (lambda z: [None, z], 1),
    "namedtuple": (lambda z: Pair(0 * z, z), "b"),
    "namedtuple-index": (lambda z: Pair(0 * z, z), 1),
    "dict-logits": (lambda z: {"hidden": 0 * z, "logits": z}, None),
    "dict-name": (lambda z: {"logits": 0 * z, "scores": z}, "scores"),
    "userdict": (lambda z: UserDict(hidden=0 * z, logits=z), None),
    "dict-integer": (lambda z: {3: z, 0: 0 * z}, 3),
    "dataclass": (Answer, None),
    "dataclass-name": (lambda z: Scores("h", z), "scores"),
    "object": (lambda z: SimpleNamespace(logits=z, loss=None), None),
    "object-name": (lambda z: SimpleNamespace(logits=0 * z, z=z), "z"),
    "function": (lambda z: (None, {"z": z}), second),
}


WITH_TARGET = [(m, target) for m in METHODS for target in ("no", "whole", "logits")]
WITH_TARGET = [pair for pair in WITH_TARGET if pair[0] != ("sadd" if pair[1] == "no" else "vadd-shared")]
"""Without a target the base mask of SAdD is not seen; shared noise and a target need a model that is cut."""


@pytest.mark.parametrize("form", OUTPUTS)
@pytest.mark.parametrize(("method", "target"), WITH_TARGET)
def test_outputs(method: str, form: str, target: str) -> None:
    returned, output = OUTPUTS[form]
    model, x = One(returned), torch.cat([A, B], dim=1)
    out = None if target == "no" else model(x)
    if target == "logits":
        out = logits_of(out, output)
        if callable(output):  # Then a target is what the model returned.
            if form == "function":
                with pytest.raises(AdversarialDropoutError, match="target to be what the model returned: "):
                    METHODS[method](output=output)(model, x, LABELS, target=out)
            return
    torch.manual_seed(3)
    loss = METHODS[method](output=output)(model, x, LABELS, target=out)
    settings: dict[str, Any] = {}
    if method == "at":
        settings = {"moved": int(target != "no")}
    if method == "vat":
        torch.manual_seed(3)
        settings = {"direction": torch.randn(5, 6, dtype=torch.float64)}
    same(model, loss, expected(method, model.network, x, loop(DIVERGENCE[method]), **settings))


def logits_of(returned: Any, output: Any) -> Tensor:
    """The prediction, taken out by other code than the package's."""
    if callable(output):
        result: Tensor = output(returned)
    elif isinstance(returned, Tensor):
        result = returned
    elif isinstance(output, int):
        result = returned[output]
    else:
        name = output or "logits"
        result = returned[name] if hasattr(returned, "keys") else getattr(returned, name)
    return result

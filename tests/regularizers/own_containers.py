"""Models whose modules take and return containers, and all models on which passes are compared."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .own_models import MODELS, WIDTH, Own, Seen, below


class Pair(NamedTuple):
    left: Tensor
    right: list[Tensor]


@dataclass
class Parts:
    hidden: Tensor
    given: Tensor
    none: Tensor | None = None


class Trees(nn.Module):
    """Takes and returns containers; one of the tensors that it returns is one that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Seen(WIDTH, WIDTH)

    def forward(self, pair: Pair, *, scale: float, names: dict[str, Any]) -> OrderedDict[str, Any]:
        h = self.inner(pair.left) * scale + pair.right[0]
        return OrderedDict(parts=Parts(hidden=h, given=pair.left), same=(h, h), names=names["x"])


class Containers(Own):
    def __init__(self) -> None:
        super().__init__(trees=Trees())

    def features(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out = self.trees(Pair(h, [h + 1]), scale=0.5, names={"x": None, "y": ["z", 1]})
        assert out["same"][0] is out["same"][1] is out["parts"].hidden
        assert out["parts"].given is h
        result: Tensor = out["parts"].hidden + out["parts"].given
        return result


class Result:
    """A type that the library does not know."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class OfUnknownType(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = below(WIDTH)

    def forward(self, given: Result) -> Result:
        return Result(self.inner(given.value))


class ReturnsUnknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = below()

    def forward(self, x: Tensor) -> Result:
        return Result(self.inner(x))


class Unknown(Own):
    def __init__(self) -> None:
        super().__init__(ReturnsUnknown(), second=OfUnknownType())

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.second(self.first(x)).value
        return h


class AppendsToArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = below()

    def forward(self, x: Tensor, collected: list[Tensor]) -> None:
        collected.append(self.inner(x))


class Appending(Own):
    def __init__(self) -> None:
        super().__init__(AppendsToArgument())

    def features(self, x: Tensor) -> Tensor:
        collected: list[Tensor] = []
        self.first(x, collected)
        return collected[0]


ALL_MODELS: dict[str, Callable[[], Own]] = {
    **MODELS,
    "containers": Containers,
    "unknown types": Unknown,
    "an argument is changed": Appending,
}


def own_model(name: str) -> Own:
    torch.manual_seed(0)
    return ALL_MODELS[name]().double()

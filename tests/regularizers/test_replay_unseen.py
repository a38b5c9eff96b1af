"""What replay cannot see beforehand: changes past the version counter, gradients inside a model, odd containers."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.regularizers import replay

from .recording import METHODS

SEARCHES = ["vadd", "vadd-shared", "sadd"]


class Unseen(nn.Module):
    """Changes the output of a submodule in a way that its version does not count."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.change = change
        self.below, self.layer, self.head = nn.Linear(8, 16), AdversarialDropout(0.5, 0.2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.below(x)
        self.change(h)
        result: Tensor = self.head(self.layer(h))
        return result


class Forces(nn.Module):
    """Takes a gradient in its input."""

    def __init__(self) -> None:
        super().__init__()
        self.energy, self.below = nn.Linear(8, 16), nn.Linear(8, 16)
        self.layer, self.head = AdversarialDropout(0.5, 0.2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).sin().sum(), x, create_graph=True)
        result: Tensor = self.head(self.layer(self.below(force)))
        return result


class Pair(tuple[Any, ...]):
    """Cannot be made from a list of its entries."""

    def __new__(cls, first: object, second: object) -> "Pair":
        return super().__new__(cls, (first, second))


class Wrapping(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.wrap = nn.Linear(8, 16), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x))


class Unwrapping(nn.Module):
    """Its submodule returns a container of an odd type."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.below, self.layer, self.head = Wrapping(wrap), AdversarialDropout(0.5, 0.2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(self.below(x)[0]))
        return result


MODELS: dict[str, Callable[[], nn.Module]] = {
    "data": lambda: Unseen(lambda h: h.data.mul_(2.0)),
    "numpy": lambda: Unseen(lambda h: h.detach().numpy().__imul__(2)),
    "gradient": Forces,
    "tuple": lambda: Unwrapping(lambda h: Pair(h, 1)),
    "mapping": lambda: Unwrapping(lambda h: types.MappingProxyType({0: h})),
}


def steps(model: nn.Module, method: str) -> list[Tensor]:
    """Losses and gradients of three steps: replay learns in the first."""
    x, y = torch.linspace(-1, 1, 48, dtype=torch.float64).view(6, 8), torch.arange(6) % 3
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        loss = METHODS[method]()(model, x, y)
        found += [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)]
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", SEARCHES)
def test_it_equals_whole_passes(name: str, method: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    replayed = steps(model, method)
    token = replay.replay_allowed.set(False)
    try:
        whole = steps(model, method)
    finally:
        replay.replay_allowed.reset(token)
    torch.testing.assert_close(replayed, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", SEARCHES)
def test_a_change_that_begins_later_is_seen_by_its_version(method: str) -> None:
    """Copies are compared in the first step alone; from then on the versions tell."""
    x, y = torch.linspace(-1, 1, 48, dtype=torch.float64).view(6, 8), torch.arange(6) % 3
    torch.manual_seed(0)
    model = Unseen(lambda h: None).double()
    losses = []
    for allowed in (True, False):
        token = replay.replay_allowed.set(allowed)
        try:
            model.change = lambda h: None
            METHODS[method]()(model, x, y)
            model.change = lambda h: h.mul_(2)
            torch.manual_seed(1)
            losses.append(METHODS[method]()(model, x, y).item())
        finally:
            replay.replay_allowed.reset(token)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)

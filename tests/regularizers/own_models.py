"""Models as people write them, each one module that cannot be cut, to compare passes with and without replay."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from adversarial_dropout import AdversarialDropout

from .recording import Recorder

WIDTH = 8


class Seen(nn.Linear):
    """A linear map that counts how often it runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(x)


def below(n: int = 6) -> nn.Sequential:
    return nn.Sequential(Seen(n, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH))


class Own(nn.Module):
    """``head(layer(features(x)))``; the models below differ in ``features`` or ``forward``."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, first: nn.Module | None = None, **others: nn.Module) -> None:
        super().__init__()
        self.first = below() if first is None else first
        for name, module in others.items():
            self.add_module(name, module)
        self.layer = AdversarialDropout(0.5, 0.3)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        return h

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(self.features(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.b(self.a(x))
        out += x
        result: Tensor = self.relu(out)
        return result


class InPlaceStem(Own):
    """As in torchvision's ResNet: an in-place activation on the output of a normalisation, then blocks."""

    def __init__(self) -> None:
        super().__init__(Seen(6, WIDTH), norm=nn.BatchNorm1d(WIDTH), relu=nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList([Residual(), nn.Sequential(nn.Dropout(0.2), Residual())])

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.relu(self.norm(self.first(x)))
        for block in self.blocks:
            h = block(h)
        return F.dropout(h, 0.1, self.training)


class FunctionsBetween(Own):
    """Functions in place and not, noise of the root's own, and a product with a parameter of the root."""

    def __init__(self) -> None:
        super().__init__(second=Seen(WIDTH, WIDTH), third=Seen(WIDTH, WIDTH))
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def features(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x) + 0.1 * torch.randn_like(x[:, :1]))
        b = self.second(a)
        b += a
        c = torch.cat([b, self.third(F.linear(b, self.weight))], dim=1)
        return F.dropout(c[:, ::2], 0.1, self.training)


class Frozen(Own):
    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h: Tensor = self.first(x)
        return h.detach() * 2


class ViewInPlace(Own):
    """A module that returns its input, and one that returns a view of it, which is changed in place."""

    def __init__(self) -> None:
        super().__init__(identity=nn.Identity(), flatten=nn.Flatten(), unflatten=nn.Unflatten(1, (2, 4)))

    def features(self, x: Tensor) -> Tensor:
        a = self.identity(self.first(x))
        b = self.flatten(self.unflatten(a))
        b.mul_(1.5)
        return a + b  # type: ignore[no-any-return]


class SeveralLayers(Own):
    """Two layers, one of them in a module that is called twice, and modules used in several places."""

    def __init__(self) -> None:
        super().__init__(second=Seen(WIDTH, WIDTH), both=nn.BatchNorm1d(WIDTH))
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), AdversarialDropout(0.4, 0.3), nn.Tanh())

    def features(self, x: Tensor) -> Tensor:
        h = self.both(self.second(self.second(self.first(x))))
        result: Tensor = self.both(self.block(self.block(h)))
        return result


class Recurrent(Own):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(Seen(2, 4), nn.Tanh()), gru=nn.GRU(4, WIDTH, batch_first=True))

    def features(self, x: Tensor) -> Tensor:
        states, last = self.gru(self.first(x.unflatten(1, (3, 2))))  # type: ignore[no-untyped-call]
        result: Tensor = states.mean(dim=1) + last[0]
        return result


class Attending(Own):
    def __init__(self) -> None:
        encoder = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.1, batch_first=True)
        super().__init__(
            Seen(2, WIDTH),
            encoder=nn.TransformerEncoder(encoder, 2),
            attention=nn.MultiheadAttention(WIDTH, 2, 0.1, batch_first=True),
        )

    def features(self, x: Tensor) -> Tensor:
        h = self.encoder(self.first(x.unflatten(1, (3, 2))))  # type: ignore[no-untyped-call]
        result: Tensor = h.mean(dim=1) + self.attention(h, h, h)[0].mean(dim=1)
        return result


class Checkpointing(Own):
    """Recomputes a part in the backward pass. (Normalisation counts the recomputation too, so there is none.)"""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__(nn.Sequential(Seen(6, WIDTH), nn.Tanh()), second=nn.Sequential(Seen(WIDTH, WIDTH), nn.Tanh()))
        self.use_reentrant = use_reentrant

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = checkpoint(self.second, self.first(x), use_reentrant=self.use_reentrant)
        return F.dropout(h, 0.2, self.training)


class OwnBuffers(Own):
    """A root with a constant, and with a normalisation and a count of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.register_buffer("count", torch.tensor(0))

    def features(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        h: Tensor = self.first(F.batch_norm(x + self.shift, self.mean, self.var, training=self.training))
        return h


class InPlaceBehind(Own):
    """Behind the layer, something below it is changed in place."""

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        return h

    def forward(self, x: Tensor) -> Any:
        h = self.first(x)
        g = self.layer(F.relu(h))
        h += g
        return self.head(h)


class Catching(Own):
    """Catches exceptions, and leaves a block and a context when one passes through."""

    entered = left = 0

    def forward(self, x: Tensor) -> Any:
        self.entered += 1
        try:
            with contextlib.ExitStack():
                return self.head(self.layer(self.features(x)))
        except Exception:
            return None
        finally:
            self.left += 1


class Reversing(Own):
    """Changes the gradient on its way."""

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: -2 * gradient)  # type: ignore[no-untyped-call]
        return h


class Mapped(Own):
    """A module under ``vmap``, whose outputs are valid only inside."""

    def __init__(self) -> None:
        super().__init__(second=nn.Linear(WIDTH, WIDTH))

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = torch.func.vmap(self.second)(self.first(x))
        return h


class Noisy(Own):
    def __init__(self) -> None:
        super().__init__(noise=Recorder(0.3, torch.Generator()), default=Recorder(0.3))

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.default(self.noise(self.first(x)))
        return h


MODELS: dict[str, Callable[[], Own]] = {
    "plain": Own,
    "in-place stem": InPlaceStem,
    "functions between": FunctionsBetween,
    "no_grad": Frozen,
    "views in place": ViewInPlace,
    "several layers": SeveralLayers,
    "gru": Recurrent,
    "attention": Attending,
    "checkpoint": lambda: Checkpointing(False),
    "reentrant checkpoint": lambda: Checkpointing(True),
    "buffers of the root": OwnBuffers,
    "in place behind the layer": InPlaceBehind,
    "catching": Catching,
    "gradient hook": Reversing,
    "vmap": Mapped,
    "held generator": Noisy,
}

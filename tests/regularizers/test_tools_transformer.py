"""PyTorch's fused Transformer layers in evaluation: a search calls each submodule, and a loop by hand agrees."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, SupervisedAdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.errors import AdversarialDropoutError

from .recording import flipped, plain

WIDTH, DELTA = 8, 0.1


class Times(nn.Module):
    """Multiplies by a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, h: Tensor) -> Tensor:
        return h * self.mask


class Encoder(nn.Module):
    """Two encoder layers, the first with ``dropout``; ``padded``: with a padding mask, the rows are nested tensors."""

    def __init__(self, dropout: nn.Module, padded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=padded)
        self.encoder.layers[0].dropout1 = dropout
        self.head = nn.Linear(WIDTH, 3)
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(x.shape[:2]) >= 3 if self.padded else None
        logits: Tensor = self.head(self.encoder(x, src_key_padding_mask=padding)[:, :3].mean(dim=1))
        return logits


class OneLayer(nn.Module):
    """One encoder layer with ``dropout`` as its second one."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, norm_first=True)
        self.layer.dropout2 = dropout  # type: ignore[assignment]
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x).mean(dim=1))
        return logits


class Attention(nn.Module):
    """Attention below and above the dropout."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(2))
        self.dropout, self.head = dropout, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(self.first(x, x, x, need_weights=False)[0])
        logits: Tensor = self.head(self.second(h, h, h, need_weights=False)[0].mean(dim=1))
        return logits


MODELS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "one layer": OneLayer,
    "encoder": lambda dropout: Encoder(dropout, padded=False),
    "padded encoder": lambda dropout: Encoder(dropout, padded=True),
    "attention": Attention,
}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 5, WIDTH, dtype=torch.float64)


def by_hand(name: str, x: Tensor, goal: Tensor) -> list[Tensor]:
    """Value and gradients in evaluation: ones, J at the ones, flips, the divergence under the mask found."""
    shape = (*x.shape[:2], WIDTH)
    ones = Times(torch.ones(shape, dtype=x.dtype, requires_grad=True))
    model = MODELS[name](ones).double().eval()
    (jacobian,) = torch.autograd.grad(plain("kl", goal, model(x)).sum(), ones.mask)
    base = torch.ones(shape, dtype=torch.bool)
    mask = flipped(base, jacobian, int(DELTA * x.shape[1] * WIDTH + 1e-9))
    assert not torch.equal(mask, base)
    ones.mask = mask.double()
    loss = plain("kl", goal, model(x)).mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("goal", ["labels", "target"])
def test_a_search_in_evaluation(name: str, goal: str, x: Tensor) -> None:
    labels, target = torch.randint(3, (4,)), torch.randn(4, 3, dtype=torch.float64)
    model = MODELS[name](AdversarialDropout(0.5, DELTA)).double().eval()

    regularizers = {"labels": SupervisedAdversarialDropout(), "target": VirtualAdversarialDropout()}

    def loss_of() -> Tensor:
        if goal == "labels":
            loss: Tensor = regularizers[goal](model, x, labels)
        else:
            loss = regularizers[goal](model, x, target=target)
        return loss

    loss = loss_of()
    found = [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    torch.testing.assert_close(found, by_hand(name, x, labels if goal == "labels" else target), rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(), found[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss_of_frozen(model, loss_of), found[0], rtol=1e-6, atol=1e-9)


def loss_of_frozen(model: nn.Module, loss_of: Callable[[], Tensor]) -> Tensor:
    model.requires_grad_(False)
    return loss_of()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_switch_of_the_fast_path_is_as_before(enabled: bool, x: Tensor) -> None:
    model = OneLayer(AdversarialDropout(0.5, DELTA)).double().eval()
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        SupervisedAdversarialDropout()(model, x, torch.randint(3, (4,)))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
        with pytest.raises(AdversarialDropoutError, match="class"):
            SupervisedAdversarialDropout()(model, x, torch.full((4,), 7))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_plain_evaluation_keeps_the_fast_path(x: Tensor) -> None:
    model = OneLayer(AdversarialDropout(0.5, DELTA)).double().eval()
    SupervisedAdversarialDropout()(model, x, torch.randint(3, (4,)))
    calls: list[Tensor] = []
    model.layer.dropout2.forward = calls.append  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        model(x)
    assert not calls

"""AT and VAT of token ids: the output of the named module is moved; against the loops of by_hand.py."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropoutError

from .by_hand import DIVERGENCE, Network, loop, reduced, same, unit
from .recording import METHODS

EACH = pytest.mark.parametrize("method", ["at", "vat"])
LABELS = torch.tensor([0, 2, 1, 1, 0])


class Tokens(nn.Module):
    """Mean of the embeddings of a sentence, as a part with a nested name."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"words": nn.Embedding(11, 6), "positions": nn.Embedding(4, 6)}).double()
        self.network = Network()

    def forward(self, input_ids: Tensor, scale: int = 1) -> Tensor:
        e = self.encoder["words"](input_ids)
        result: Tensor = self.network(self.pooled(e, scale))
        return result

    def pooled(self, e: Tensor, scale: int = 1) -> Tensor:
        positions = self.encoder["positions"](torch.arange(4))
        result: Tensor = scale * (e + positions).mean(dim=1)
        return result


IDS = torch.tensor([[1, 4, 9, 0], [3, 3, 7, 0], [2, 8, 10, 5], [6, 1, 0, 0], [5, 7, 2, 9]])


@EACH
@pytest.mark.parametrize("name", ["encoder.words", "words"])
@pytest.mark.parametrize("x", [IDS, (IDS, 2), {"input_ids": IDS, "scale": 2}], ids=["tensor", "tuple", "dict"])
@pytest.mark.parametrize("target", [False, True])
def test_the_embedding_is_moved(method: str, name: str, x: Any, target: bool) -> None:
    model, values = Tokens(), loop(DIVERGENCE[method])
    network, scale = model.network, 1 if isinstance(x, Tensor) else 2
    out = model(IDS, scale) if target else None
    torch.manual_seed(3)
    loss = METHODS[method](embedding=name, eps=0.5)(model, x, LABELS, target=out)
    torch.manual_seed(3)
    start = torch.randn(5, 4, 6, dtype=torch.float64)
    e = model.encoder["words"](IDS)
    by_hand = moved(method, model, e, scale, values, start, target)
    same(model, loss, by_hand)
    output = network.output(model.pooled(e, scale), -1)
    assert by_hand > reduced(values(LABELS if method == "at" else output, output)), "it moves uphill"


def moved(method: str, model: Tokens, e: Tensor, scale: int, values: Any, start: Tensor, target: bool) -> Tensor:
    """AT and VAT of an embedding. The last passes are target, gradient, adversarial; a given target is the first."""
    network = model.network
    reference = LABELS if method == "at" else network.output(model.pooled(e, scale), 0 if target else -3).detach()
    assert torch.equal(network.above.runs[-2].noise, network.above.runs[-1].noise), "the passes see the same noise"
    leaf = e.detach() if method == "at" else e.detach() + 1e-4 * unit(start)
    leaf = leaf.clone().requires_grad_()
    value = values(reference, network.output(model.pooled(leaf, scale), -2)).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    step = gradient.sign() if method == "at" else unit(gradient)
    return reduced(values(reference, network.output(model.pooled(e + 0.5 * step, scale), -1)))


class Unfit(Tokens):
    """Models whose embedding cannot be moved, by name."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.unused = nn.Embedding(3, 6).double()
        self.same = nn.Identity()
        self.rnn = nn.GRU(6, 6, batch_first=True).double()

    def forward(self, input_ids: Tensor, scale: int = 1) -> Tensor:
        words = self.encoder["words"]
        e = words(self.same(input_ids))
        if self.way == "twice":
            e = e + words(input_ids)
        if self.way == "twice, other shape":
            e = torch.cat([e[:, :2], words(input_ids[:, 2:])], dim=1)
        self.rnn(e)
        result: Tensor = self.network(self.pooled(e))
        return result


@EACH
@pytest.mark.parametrize(
    ("way", "name", "kind", "message"),
    [
        ("once", "wordz", ValueError, r"one module of the model, got 'wordz', which fits 0; did you mean .*words"),
        ("once", "ords", ValueError, "got 'ords', which fits 0"),
        ("once", "", ValueError, "got '', which fits 0"),
        ("once", "encoder", ValueError, "called it 0 times"),
        ("once", "unused", ValueError, "called it 0 times"),
        ("twice", "words", ValueError, "called it 2 times"),
        ("twice, other shape", "words", ValueError, "called it 2 times"),
        ("once", "same", TypeError, "return a floating tensor, got torch.int64"),
        ("once", "rnn", TypeError, "return a floating tensor, got tuple"),
        ("once", 3, (TypeError, ValueError), "got 3"),
    ],
)
def test_embeddings_that_cannot_be_moved(method: str, way: str, name: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        METHODS[method](embedding=name)(Unfit(way), IDS, LABELS)
    assert isinstance(caught.value, AdversarialDropoutError)


@EACH
def test_an_end_of_a_name_that_fits_two_modules(method: str) -> None:
    model = nn.ModuleDict({"a": Tokens(), "b": Tokens()})
    with pytest.raises(ValueError, match="'words', which fits 2") as caught:
        METHODS[method](embedding="words")(model, IDS, LABELS)
    assert isinstance(caught.value, AdversarialDropoutError)


@EACH
def test_a_failed_call_leaves_no_hook(method: str) -> None:
    model = Unfit("twice")
    before = model(IDS).detach()
    for _ in range(2):
        with pytest.raises(ValueError, match="2 times"):
            METHODS[method](embedding="words")(model, IDS, LABELS)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert before.shape == model(IDS).shape


@EACH
def test_a_frozen_embedding_is_moved(method: str) -> None:
    model, values = Tokens(), loop(DIVERGENCE[method])
    model.encoder["words"].requires_grad_(False)
    torch.manual_seed(3)
    loss = METHODS[method](embedding="words", eps=0.5)(model, IDS, LABELS)
    torch.manual_seed(3)
    start = torch.randn(5, 4, 6, dtype=torch.float64)
    by_hand = moved(method, model, model.encoder["words"](IDS), 1, values, start, False)
    same(model.network, loss, by_hand)


@EACH
def test_positions_and_padding(method: str) -> None:
    """Predictions per token: padding of another length changes neither loss nor gradients."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words = nn.Embedding(11, 6).double()
            self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            e = self.words(ids)
            context = (e * attention_mask[..., None]).sum(dim=1, keepdim=True)
            result: Tensor = self.head(e + context)
            return result

    mask, y, results = (IDS != 0).long(), IDS % 3, []
    for more in (0, 2):
        model = Tagger()
        ids, wide = (torch.cat([t, torch.zeros(5, more, dtype=torch.long)], dim=1) for t in (IDS, mask))
        labels = torch.cat([y, torch.full((5, more), -1)], dim=1)
        settings = {"steps": 12} if method == "vat" else {}
        target = model(ids, wide) + torch.tensor([1.0, 0, -1]) if method == "vat" else None
        reg = METHODS[method](embedding="words", class_dim=-1, **settings)
        loss = reg(model, {"ids": ids, "attention_mask": wide}, labels, target=target, mask=wide)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    tolerance = 1e-3 if method == "vat" else 1e-9
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


def test_vat_refuses_embeddings_with_time_first() -> None:
    """Otherwise VAT gives each time step, not each example, a direction of length ε."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

        def forward(self, ids: Tensor) -> Tensor:
            result: Tensor = self.head(self.words(ids.t()).mean(dim=0))
            return result

    with pytest.raises(AdversarialDropoutError, match="examples in dimension 0, got shape"):
        METHODS["vat"](embedding="words")(TimeFirst(), IDS, LABELS)

"""Models that are cut, recurrent, tied or in evaluation, with inputs and outputs of several forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from adversarial_dropout import AdversarialDropout, AdversarialDropoutError, divergences

from .by_hand import BY_HAND, DIVERGENCE, Network, double, loop, reduced, same
from .recording import METHODS

EACH = pytest.mark.parametrize("method", METHODS)
WHOLE = pytest.mark.parametrize("method", [method for method in METHODS if method not in ("at", "vat")])
LABELS = torch.tensor([0, 2, 1, 1, 0])
X = double(5, 6)


class Cut(nn.Module):
    """``under`` takes two inputs, ``upper`` returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def under(self, a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = self.network.below(self.network.stem(torch.cat([a, b], dim=1)))
        return result

    def upper(self, h: Tensor) -> Any:
        n = self.network
        return {"hidden": h, "logits": n.head(n.above(n.layer(h)))}

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.upper(self.under(a, b))


class Pair(nn.Module):
    def forward(self, logits: Tensor) -> Any:
        return None, logits


def chain() -> tuple[nn.Module, Network]:
    """The network as an ``nn.Sequential`` whose last part returns a tuple."""
    n = Network()
    return nn.Sequential(n.stem, n.below, n.layer, n.above, n.head, Pair()), n


@WHOLE
@pytest.mark.parametrize("form", ["tuple", "dict", "sequential", "sequential-tuple", "sequential-dict"])
def test_cut_models(method: str, form: str) -> None:
    model, network = chain()
    x: Any = {"tuple": (X[:, :4], X[:, 4:]), "dict": {"b": X[:, 4:], "a": X[:, :4]}}.get(form, X)
    settings: dict[str, Any] = {"output": 1}
    if form in ("tuple", "dict"):
        model, settings = Cut(), {}
        network = model.network
    elif form != "sequential":
        x = (X,) if form == "sequential-tuple" else {"input": X}
    target = None
    if method == "sadd":
        target = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    loss = METHODS[method](**settings)(model, x, LABELS, target=target)
    expected = reduced(BY_HAND[method](network, X, LABELS, loop(DIVERGENCE[method])))
    same(network, loss, expected)
    if method in ("vadd", "vadd-shared"):
        assert len(network.below.runs) == (2 if method == "vadd" else 1), "the part under the layer is not repeated"


def test_three_calls_with_shared_noise_and_an_output() -> None:
    network = Network()
    head = nn.Sequential(network.layer, network.above, network.head, Pair())
    h = network.below(network.stem(X))
    loss = METHODS["vadd-shared"](output=1)(head, h, target=head(h))
    same(network, loss, reduced(BY_HAND["vadd"](network, X, LABELS, loop("kl"))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(6, 10, batch_first=True).double()
        self.layer = AdversarialDropout(0.5, 0.3)
        self.head = nn.Linear(10, 3).double()

    def forward(self, x: Tensor | PackedSequence, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            assert isinstance(x, Tensor)
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        result: Tensor = self.head(self.layer(self.rnn(x)[1][0]))
        return result


SENTENCES, LENGTHS = double(5, 7, 6), torch.tensor([7, 3, 2, 7, 1])


@EACH
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_packed_sequence_is_one_input(method: str, wrapped: bool) -> None:
    packed: Any = pack_padded_sequence(SENTENCES, LENGTHS, batch_first=True, enforce_sorted=False)
    if method == "vat":
        with pytest.raises(AdversarialDropoutError, match="got a PackedSequence, whose tensor has no dimension of the"):
            METHODS[method]()(Recurrent(), packed, LABELS)
        return
    results = []
    for x in ((packed,) if wrapped else packed, (SENTENCES, LENGTHS)):
        model = Recurrent()
        torch.manual_seed(4)
        loss = METHODS[method]()(model, x, LABELS)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "vadd-shared"])
@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_evaluation_is_the_same_in_every_form(method: str, form: str) -> None:
    """In evaluation the base mask is all ones; the noise of the recorders makes the passes differ."""
    settings: dict[str, Any] = {"embedding": "stem.0"} if method in ("at", "vat") else {}
    losses = []
    for x in (X, {"tuple": (X,), "dict": {"x": X}}[form]):
        network = Network().eval()
        torch.manual_seed(4)
        losses.append(METHODS[method](**settings)(network, x, LABELS))
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("method", ["sadd", "vadd", "vadd-shared"])
@pytest.mark.parametrize("used", ["never", "twice"])
def test_a_layer_that_is_not_reached_once(method: str, used: str) -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = AdversarialDropout(0.5, 0.3), nn.Linear(6, 3).double()

        def forward(self, x: Tensor) -> Any:
            if used == "twice":
                x = self.layer(self.layer(x)[:, :3]).repeat(1, 2)
            return (self.head(x),)

    with pytest.raises(
        ValueError, match="none was called" if used == "never" else "one layer for each place"
    ) as caught:
        METHODS[method](output=0)(Uses(), {"x": X}, LABELS)
    assert isinstance(caught.value, AdversarialDropoutError)


@pytest.mark.parametrize("method", ["at", "vat"])
def test_the_second_name_of_a_tied_embedding(method: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Embedding(9, 6).double()
            self.encoder = nn.ModuleDict({"embed_tokens": self.shared})
            self.network = Network()

        def forward(self, ids: Tensor) -> Tensor:
            result: Tensor = self.network(self.encoder["embed_tokens"](ids))
            return result

    losses = []
    for name in ("shared", "encoder.embed_tokens", "embed_tokens"):
        torch.manual_seed(3)
        model = Tied()
        torch.manual_seed(4)
        losses.append(METHODS[method](embedding=name)(model, LABELS, LABELS).item())
    assert len(set(losses)) == 1


def test_several_numbers_to_predict_from_one_category() -> None:
    model = nn.Sequential(nn.Embedding(9, 6).double(), Network(outputs=2))
    assert METHODS["sadd"](divergence="squared_error")(model, LABELS, double(5, 2)) > 0


@pytest.mark.parametrize("method", ["pi", "entropy"])
def test_a_sparse_input_with_nan(method: str) -> None:
    x = torch.where(X > 1, torch.nan, X).to_sparse()
    with pytest.raises(AdversarialDropoutError, match="finite"):
        METHODS[method]()(Network(), x, LABELS)


@pytest.mark.parametrize("name", ["bernoulli_cross_entropy", "bernoulli_kl_divergence", "bernoulli_quadratic_error"])
def test_one_logit_of_1_is_no_probability(name: str) -> None:
    """A warning would be an error; one in some thousand batches of one example is that close to 1."""
    getattr(divergences, name)(torch.tensor([1]), torch.tensor([1.0004]))

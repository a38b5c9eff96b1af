"""Real models of transformers: a batch of a tokenizer in, a ModelOutput out; against loops over their own parts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout

from .by_hand import DIVERGENCE, loop, reduced, unit
from .recording import METHODS, flipped

transformers = pytest.importorskip("transformers", reason="transformers is not installed: its models are not tested")

SETTINGS = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "num_labels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
EACH = pytest.mark.parametrize("method", METHODS)
IDS = torch.tensor([[2, 5, 9, 3, 0], [2, 7, 3, 0, 0], [2, 4, 8, 11, 3], [2, 6, 3, 0, 0]])
LABELS = {"sequence": torch.tensor([0, 2, 1, 1]), "token": torch.where(IDS > 3, IDS % 3, -1)}


class Seen(nn.Module):
    """Keeps what goes through, once per pass."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Tensor] = []

    def forward(self, h: Tensor) -> Tensor:
        self.runs.append(h.detach().clone())
        return h


def bert(kind: str, p: float = 0.5) -> Any:
    """A tiny model in float64 whose dropout in front of the classifier is adversarial."""
    torch.manual_seed(0)
    makes = {
        "sequence": transformers.BertForSequenceClassification,
        "token": transformers.BertForTokenClassification,
    }
    model = makes[kind](transformers.BertConfig(**SETTINGS)).double().train()
    layer = AdversarialDropout(p, 0.3, granularity="feature" if kind == "token" else "element")
    model.dropout = nn.Sequential(Seen(), layer, Seen())
    return model


def tokenized(container: str = "encoding") -> Any:
    parts = {"input_ids": IDS, "attention_mask": (IDS > 0).long(), "token_type_ids": torch.zeros_like(IDS)}
    return transformers.BatchEncoding(parts) if container == "encoding" else parts


def arguments(kind: str) -> dict[str, Any]:
    """What the regulariser needs to know about the form of the logits."""
    return {"class_dim": -1} if kind == "token" else {}


def values_for(method: str, kind: str) -> Any:
    mask = (IDS > 0) if kind == "token" else None
    return loop(DIVERGENCE[method], class_dim=-1, mask=mask)


def call_mask(kind: str) -> Tensor | None:
    """The attention mask, as a tokenizer gives it."""
    return (IDS > 0).long() if kind == "token" else None


def check(model: Any, loss: Tensor, expected: Tensor) -> None:
    parameters = [p for name, p in model.named_parameters()]
    got, wanted = (torch.autograd.grad(v, parameters, materialize_grads=True) for v in (loss, expected))
    assert sum(bool(g.any()) for g in wanted) > 10
    for one, other in ((loss, expected), *zip(got, wanted, strict=True)):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def hidden(model: Any, kind: str, **inputs: Any) -> Tensor:
    """What the dropout gets."""
    output = model.bert(**inputs)
    result: Tensor = output.pooler_output if kind == "sequence" else output.last_hidden_state
    return result


@pytest.mark.parametrize("method", ["sadd", "vadd", "vadd-shared", "pi", "entropy"])
@pytest.mark.parametrize("kind", ["sequence", "token"])
@pytest.mark.parametrize("container", ["encoding", "dict"])
@pytest.mark.parametrize("whole", [True, False])
def test_dropout(method: str, kind: str, container: str, whole: bool) -> None:
    model, x, values = bert(kind), tokenized(container), values_for(method, kind)
    out = None if method == "vadd-shared" else model(**x)
    target = out if whole or out is None else out.logits
    loss = METHODS[method](**arguments(kind))(model, x, LABELS[kind], target=target, mask=call_mask(kind))

    h = hidden(model, kind, **x)
    masks = [(run != 0) for run in model.dropout[2].runs]
    base = masks[0][:, :1] if kind == "token" else masks[0]
    logits = [model.classifier(h * mask / 0.5) for mask in masks]
    if method in ("pi", "entropy"):
        expected = values(logits[0], logits[-1])
    else:
        first = LABELS[kind] if method == "sadd" else logits[0]
        ones = torch.ones_like(base, dtype=torch.float64).requires_grad_()
        value = values(first.detach(), model.classifier(h.detach() * ones))
        (slopes,) = torch.autograd.grad(reduced(value, "sum"), ones)
        found = flipped(base, slopes, 3)
        assert torch.equal(masks[-1], found.expand_as(masks[-1]))
        expected = values(first, model.classifier(h * found / 0.5))
    check(model, loss, reduced(expected))


@pytest.mark.parametrize("method", ["at", "vat"])
@pytest.mark.parametrize("kind", ["sequence", "token"])
@pytest.mark.parametrize("name", ["word_embeddings", "bert.embeddings.word_embeddings"])
@pytest.mark.parametrize("whole", [None, True, False])
def test_moved_embeddings(method: str, kind: str, name: str, whole: bool | None) -> None:
    model, x, values = bert(kind, p=0.0), tokenized(), values_for(method, kind)
    out = None if whole is None else model(**x)
    target = out if whole or out is None else out.logits
    torch.manual_seed(3)
    reg = METHODS[method](embedding=name, eps=0.3, **arguments(kind))
    loss = reg(model, x, LABELS[kind], target=target, mask=call_mask(kind))

    rest = {key: value for key, value in x.items() if key != "input_ids"}
    words = model.bert.embeddings.word_embeddings(IDS)

    def logits(e: Tensor) -> Tensor:
        result: Tensor = model.classifier(hidden(model, kind, inputs_embeds=e, **rest))
        return result

    first = LABELS[kind] if method == "at" else logits(words).detach()
    torch.manual_seed(3)
    start = 1e-4 * unit(torch.randn(words.shape, dtype=torch.float64)) if method == "vat" else 0
    leaf = (words.detach() + start).requires_grad_()
    (gradient,) = torch.autograd.grad(reduced(values(first, logits(leaf)), "sum"), leaf)
    step = gradient.sign() if method == "at" else unit(gradient)
    check(model, loss, reduced(values(first, logits(words + 0.3 * step))))


@pytest.mark.parametrize("method", ["sadd", "vadd", "pi"])
@pytest.mark.parametrize(
    "output",
    [
        "logits",
        0,
        lambda returned: returned["logits"],
    ],
    ids=["name", "index", "function"],
)
def test_outputs_by_name_index_and_function(method: str, output: Any) -> None:
    losses = []
    for choice in (None, output):
        model = bert("sequence")
        torch.manual_seed(5)
        losses.append(METHODS[method](output=choice)(model, tokenized(), LABELS["sequence"]))
    assert losses[0] == losses[1] > 0


@EACH
def test_return_dict_false_needs_an_index(method: str) -> None:
    x, y = tokenized("dict") | {"return_dict": False}, LABELS["sequence"]
    settings: dict[str, Any] = {"embedding": "word_embeddings"} if method in ("at", "vat") else {}
    with pytest.raises(TypeError, match=r"got tuple with 0: tensor \(4, 3\).*output=INDEX"):
        METHODS[method](**settings)(bert("sequence"), x, y)
    loss = METHODS[method](output=0, **settings)(bert("sequence"), x, y)
    assert loss.requires_grad


@pytest.mark.parametrize("method", [method for method in METHODS if method != "vat"])
def test_padding_of_another_length_changes_nothing(method: str) -> None:
    """Token classification, masks shared over the positions, three more positions of padding.

    VAT draws a direction of another shape; test_embeddings.py compares it after many steps.
    """
    results = []
    for more in (0, 3):
        model = bert("token")
        ids = torch.cat([IDS, torch.zeros(4, more, dtype=torch.long)], dim=1)
        x = transformers.BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long()})
        y = torch.cat([LABELS["token"], torch.ones(4, more, dtype=torch.long)], dim=1)
        settings: dict[str, Any] = {"embedding": "word_embeddings"} if method == "at" else {}
        torch.manual_seed(5)
        loss = METHODS[method](class_dim=-1, **settings)(model, x, y, mask=x["attention_mask"])
        gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        names = [name for name, _ in model.named_parameters()]
        kept = [g for name, g in zip(names, gradients, strict=True) if "position" not in name]
        results.append([loss.detach(), *kept])
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-10)

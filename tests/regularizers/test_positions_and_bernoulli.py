"""Predictions with positions, masks, one logit, several labels and regression; against the loops of by_hand.py."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .by_hand import BY_HAND, DIVERGENCE, Network, Values, double, loop, reduced, same
from .recording import METHODS

EACH = pytest.mark.parametrize("method", METHODS)
N, T = 4, 5
LENGTHS = (5, 2, 0, 3)
MASK = torch.tensor([[t < length for t in range(T)] for length in LENGTHS])
"""A row that is full, two with padding, one of padding only."""
LABELS = torch.tensor([[0, 2, -1, 1, 1], [1, 0, 0, 0, 0], [2, 2, 2, 2, 2], [-1, -1, 2, 0, 1]])
SOFTMAX = ("kl", "qe", "ce")
BERNOULLI = ("bernoulli_kl", "bernoulli_qe", "bernoulli_ce")


class Reshaped(nn.Module):
    """The network over the last dimension of x, and what ``how`` makes of its logits."""

    def __init__(self, how: str = "as they are", **settings: Any) -> None:
        super().__init__()
        self.network = Network(**settings)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.shaped(self.network(x))

    def shaped(self, logits: Tensor) -> Tensor:
        if self.how == "classes first":
            return logits.movedim(-1, 1)
        return logits.squeeze(-1) if self.how == "one" else logits


def by_hand(method: str, model: Reshaped, x: Tensor, y: Tensor, values: Values, reduction: str = "mean") -> Tensor:
    """The loops, for the logits as the model shapes them."""
    settings: dict[str, Any] = {}
    if method == "at":
        settings = {"moved": 1}
    if method == "vat":
        torch.manual_seed(3)
        settings = {"direction": torch.randn(x.shape, dtype=x.dtype)}

    def shaped(target: Tensor, logits: Tensor) -> Tensor:
        mine = target.is_floating_point() and target is not y
        return values(model.shaped(target) if mine else target, model.shaped(logits))

    return reduced(BY_HAND[method](model.network, x, y, shaped, **settings), reduction)


def loss_of(method: str, model: Reshaped, x: Tensor, y: Tensor, mask: Tensor | None = None, **settings: Any) -> Tensor:
    """After a pass of the user's, whose mask the loops read where the regulariser does not keep one itself."""
    out = model(x) if method in ("sadd", "at") else None
    torch.manual_seed(3)
    result: Tensor = METHODS[method](**settings)(model, x, y, target=out, mask=mask)
    return result


# Softmax with positions


@EACH
@pytest.mark.parametrize("granularity", ["element", "feature"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mask", [None, MASK, MASK.long()], ids=["all", "bool", "tokenizer"])
def test_tokens(method: str, granularity: Any, reduction: str, mask: Tensor | None) -> None:
    model, x = Reshaped(granularity=granularity), double(N, T, 6)
    loss = loss_of(method, model, x, LABELS, mask, class_dim=-1, reduction=reduction)
    values = loop(DIVERGENCE[method], class_dim=-1, mask=mask)
    same(model, loss, by_hand(method, model, x, LABELS, values, reduction))
    if reduction == "none" and mask is not None:
        assert loss[2].item() == 0, "a row of padding"


@EACH
@pytest.mark.parametrize("divergence", SOFTMAX)
@pytest.mark.parametrize("class_dim", [1, -2])
def test_classes_before_the_positions(method: str, divergence: str, class_dim: int) -> None:
    divergence = "ce" if method == "entropy" else divergence
    model, x = Reshaped("classes first"), double(N, T, 6)
    loss = loss_of(method, model, x, LABELS, MASK, class_dim=class_dim, divergence=divergence)
    same(model, loss, by_hand(method, model, x, LABELS, loop(divergence, class_dim=1, mask=MASK)))


PIXELS = torch.tensor([[[h * w < 4 + n for w in range(3)] for h in range(2)] for n in range(N)])


@EACH
@pytest.mark.parametrize(
    "mask", [None, PIXELS, PIXELS[:, :, 0], PIXELS[:, 0, 0]], ids=["no", "pixels", "rows", "images"]
)
def test_pixels(method: str, mask: Tensor | None) -> None:
    """(N, C, H, W); a mask may have the first dimensions of the positions."""
    model, x = Reshaped("classes first"), double(N, 2, 3, 6)
    y = torch.randint(-1, 3, (N, 2, 3))
    loss = loss_of(method, model, x, y, mask, class_dim=1)
    same(model, loss, by_hand(method, model, x, y, loop(DIVERGENCE[method], class_dim=1, mask=mask)))


FAMILIES = [(method, family) for method in METHODS for family in ("softmax", "bernoulli", "squared_error")]


@pytest.mark.parametrize(("method", "family"), [pair for pair in FAMILIES if pair != ("entropy", "squared_error")])
def test_padding_changes_nothing(method: str, family: str) -> None:
    """Three positions of garbage: the same loss and gradients, for a layer whose mask is shared over the positions."""
    every: dict[str, dict[str, Any]] = {
        "softmax": {"class_dim": -1},
        "bernoulli": {"divergence": f"bernoulli_{DIVERGENCE[method]}"},
        "squared_error": {"divergence": "squared_error"},
    }
    settings = every[family]
    y = {"softmax": LABELS, "bernoulli": torch.randint(-1, 2, (N, T, 3)), "squared_error": double(N, T, 3, seed=9)}[
        family
    ]
    if method == "vat":
        settings["eps"] = 1e-9  # so that the loss does not depend on the direction; drawing it changes later masks
    x, results = double(N, T, 6), []
    for more in (0, 3):
        model = Reshaped(granularity="feature", std=0.0, p=0.0 if method == "vat" else 0.5)
        longer = torch.cat([x, 50 * double(N, more, 6, seed=7)], dim=1)
        garbage = torch.ones(N, more, *y.shape[2:], dtype=y.dtype)
        mask = torch.cat([MASK, torch.zeros(N, more, dtype=torch.bool)], dim=1)
        if family == "bernoulli":
            mask = mask[:, :, None].expand(-1, -1, 3)
        torch.manual_seed(4)
        target = model(longer) + torch.tensor([1.0, 0, -1]) if method == "vat" else None
        loss = METHODS[method](**settings)(model, longer, torch.cat([y, garbage], dim=1), target=target, mask=mask)
        assert loss > 0
        parameters = [p for name, p in model.named_parameters() if not name.endswith("scale")]
        results.append([loss.detach(), *torch.autograd.grad(loss, parameters, materialize_grads=True)])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


@EACH
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_of_padding_is_0_with_a_graph(method: str, reduction: str) -> None:
    model, x = Reshaped(granularity="feature"), double(N, T, 6).requires_grad_()
    reg = METHODS[method](class_dim=-1, reduction=reduction)
    loss = reg(model, x, LABELS, mask=torch.zeros(N, T, dtype=torch.bool))
    assert not loss.any()
    assert not torch.autograd.grad(loss.sum(), x)[0].any()


@pytest.mark.parametrize("method", ["sadd", "at"])
def test_labels_per_position_of_which_none_is_given(method: str) -> None:
    model, x, y = Reshaped(), double(N, T, 6), LABELS.clone()
    y[1] = -1
    assert loss_of(method, model, x, y, class_dim=-1, reduction="none")[1] == 0
    assert loss_of(method, model, x, torch.full_like(y, -1), class_dim=-1) == 0


# One logit, several labels, regression


def mask_for(shape: tuple[int, ...]) -> Tensor:
    """For each example, or for each of its first positions."""
    return MASK[:, : shape[1]] if len(shape) > 1 else torch.tensor([True, True, False, True])


@EACH
@pytest.mark.parametrize("divergence", BERNOULLI)
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3), (N, T), (N, T, 3)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_bernoulli(method: str, divergence: str, shape: tuple[int, ...], masked: bool) -> None:
    one = shape in ((N,), (N, T))
    model = Reshaped("one" if one else "as they are", outputs=1 if one else shape[-1])
    x = double(*(shape if one else shape[:-1]), 6)
    y = torch.randint(2, shape)
    if method in ("sadd", "at"):
        y[0].fill_(-1)
        y.view(-1)[-1] = -1
    mask = mask_for(shape) if masked else None
    settings = {"divergence": "bernoulli_ce" if method == "entropy" else divergence}
    loss = loss_of(method, model, x, y, mask, **settings)
    same(model, loss, by_hand(method, model, x, y, loop(settings["divergence"], mask=mask)))


@pytest.mark.parametrize("method", ["sadd", "at"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_labels_of_bernoulli(method: str, dtype: torch.dtype) -> None:
    model, x = Reshaped(), double(N, 6)
    y = torch.randint(2, (N, 3)).to(dtype)
    loss = loss_of(method, model, x, y, divergence="bernoulli_ce")
    same(model, loss, by_hand(method, model, x, y.long(), loop("bernoulli_ce")))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "entropy"])
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3), (N, T, 3)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_regression(method: str, shape: tuple[int, ...], masked: bool) -> None:
    model = Reshaped("one" if shape == (N,) else "as they are", outputs=shape[-1] if len(shape) > 1 else 1)
    x, y = double(*(shape[:-1] or shape), 6), double(*shape, seed=5)
    mask = mask_for(shape) if masked else None
    loss = loss_of(method, model, x, y, mask, divergence="squared_error")
    same(model, loss, by_hand(method, model, x, y, loop("squared_error", mask=mask)))

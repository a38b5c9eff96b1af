"""Input whose examples are not in dimension 0: each example has a mask of its own, as in a batch-first model."""

import math
import warnings
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialDropoutWarning,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
)
from adversarial_dropout.errors import InvalidValueError

from .recording import Opaque, Recorder, assert_same, flipped, plain, rescaled

Granularity = Literal["element", "channel", "feature"]
Rescale = Literal["inverted", "sum"]
N, T, D, P, DELTA = 4, 7, 6, 0.5, 0.25


class Swap(nn.Module):
    """(N, T, D) to (T, N, D) and back."""

    def forward(self, h: Tensor) -> Tensor:
        return h.transpose(0, 1)


class OverTime(nn.Module):
    """A weighted mean over time, so that the steps matter differently."""

    def __init__(self, dim: int, steps: int = T) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("weights", torch.linspace(0.2, 1.0, steps))
        self.weights: Tensor

    def forward(self, h: Tensor) -> Tensor:
        return (h.movedim(self.dim, -1) * self.weights).sum(dim=-1)


def sequences(n: int = N, steps: int = T) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, steps, D, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def network(batch_dim: int, *, steps: int = T, p: float = P, granularity: Granularity = "element") -> nn.Sequential:
    """A classifier of (N, T, D) whose layer sees (N, T, D) or, with ``batch_dim=1``, (T, N, D)."""
    torch.manual_seed(5)
    layer = AdversarialDropout(p, DELTA, granularity=granularity, batch_dim=batch_dim)
    swap = [Swap()] if batch_dim else []
    stem = [nn.Linear(D, D), nn.Softplus(), *swap]
    head = [nn.Tanh(), OverTime(1 - batch_dim, steps), nn.Linear(D, 3)]
    return nn.Sequential(*stem, layer, *head).double()


@pytest.mark.parametrize("granularity", ["element", "channel", "feature"])
@pytest.mark.parametrize("rescale", ["inverted", "sum"])
def test_time_first_masks_are_those_of_each_example(granularity: Granularity, rescale: Rescale) -> None:
    stem = nn.Sequential(nn.Linear(D, D), nn.Softplus()).double()
    head = nn.Sequential(nn.Tanh(), OverTime(0), nn.Linear(D, 3)).double()
    layer = AdversarialDropout(P, DELTA, granularity=granularity, rescale=rescale, batch_dim=1)
    above = Recorder().double()
    model = nn.Sequential(stem, layer, above, head)
    x, _ = sequences()
    x = x.transpose(0, 1)
    loss = VirtualAdversarialDropout()(model, x)

    base, found = (run.mask.transpose(0, 1) for run in (above.runs[0], above.runs[-1]))
    h = stem(x)
    target = head(h * rescaled(base, P, rescale).transpose(0, 1))
    ones = torch.ones(N, T, D, dtype=torch.float64, requires_grad=True)
    value = plain("kl", target.detach(), head(h.detach() * ones.transpose(0, 1))).sum()
    (slope,) = torch.autograd.grad(value, ones)
    if granularity == "element":
        expected = flipped(base, slope, math.floor(DELTA * T * D))
    elif granularity == "channel":
        expected = flipped(base[:, :, 0], slope.sum(dim=2), math.floor(DELTA * T))[:, :, None].expand(N, T, D)
        assert torch.equal(base, base[:, :, :1].expand(N, T, D))
    else:
        expected = flipped(base[:, 0], slope.sum(dim=1), math.floor(DELTA * D))[:, None].expand(N, T, D)
        assert torch.equal(base, base[:, :1].expand(N, T, D))
    assert torch.equal(found, expected)
    assert (found != base).any()
    by_hand = plain("kl", target, head(h * rescaled(expected, P, rescale).transpose(0, 1))).mean()
    assert_same(loss, by_hand)
    parameters = [*stem.parameters(), *head.parameters()]
    assert_same(list(torch.autograd.grad(loss, parameters)), list(torch.autograd.grad(by_hand, parameters)))


@pytest.mark.parametrize("granularity", ["element", "channel", "feature"])
@pytest.mark.parametrize("training", [True, False])
def test_time_first_equals_batch_first(granularity: Granularity, training: bool) -> None:
    """With p = 0 the base masks of both are all ones."""
    x, y = sequences()
    target = torch.randn(N, 3, dtype=torch.float64)
    results = []
    for batch_dim in (0, 1):
        model = network(batch_dim, p=0.0, granularity=granularity).train(training)
        values = [
            VirtualAdversarialDropout(reduction="none")(model, x, target=target),
            SupervisedAdversarialDropout(reduction="none")(model, x, y),
        ]
        gradients = torch.autograd.grad(sum(value.sum() for value in values), list(model.parameters()))
        results.append([*values, *gradients])
    assert_same(*results)


@pytest.mark.parametrize("steps", [N, T])
def test_the_term_of_an_example_does_not_depend_on_the_other_rows(steps: int) -> None:
    x, _ = sequences(steps=steps)
    other = x.clone()
    other[1:] = 3 * torch.randn_like(x[1:])

    def term(inputs: Tensor, batch_dim: int) -> list[Tensor]:
        model = network(1, steps=steps)
        layer = model[3]
        assert isinstance(layer, AdversarialDropout)
        layer.batch_dim = batch_dim
        torch.manual_seed(0)
        value = VirtualAdversarialDropout(reduction="none")(model, inputs)[0]
        return [value, *torch.autograd.grad(value, list(model.parameters()))]

    assert_same(term(x, 1), term(other, 1))
    if steps == N:  # Nothing tells the dimensions apart, so batch_dim=0 passes, and the masks belong to time steps.
        assert not torch.allclose(term(x, 0)[0], term(other, 0)[0])


def test_a_recurrent_network_with_its_time_first_output() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(D, 5)
            self.dropout = AdversarialDropout(0.3, 0.2, batch_dim=1)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.dropout(self.rnn(x)[0])).mean(dim=0)
            return out

    model = Tagger().double()
    x, _ = sequences()
    x = x.transpose(0, 1)
    out = model(x)
    other = x.clone()
    other[:, 1:] += 1.0
    target = torch.cat([out[:1], torch.randn(N - 1, 3, dtype=torch.float64)]).detach()
    vadd = VirtualAdversarialDropout(reduction="none")
    assert_same(vadd(model, x, target=out.detach())[0], vadd(model, other, target=target)[0])


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_examples_seen_in_another_dimension_are_an_error(batch_dim: int) -> None:
    model = network(batch_dim)
    layer = model[3 if batch_dim else 2]
    assert isinstance(layer, AdversarialDropout)
    layer.batch_dim = 1 - batch_dim
    x, y = sequences()
    shape = r"\(7, 4, 6\)" if batch_dim else r"\(4, 7, 6\)"
    expected = (
        rf"batch_dim={1 - batch_dim} got activations of shape {shape} for 4 examples.*use .*batch_dim={batch_dim}\)"
    )
    for method in (VirtualAdversarialDropout(), SupervisedAdversarialDropout()):
        with pytest.raises(InvalidValueError, match=expected):
            method(model, x, y)


def test_a_multiple_of_the_examples_may_be_right_so_it_warns_once() -> None:
    model = network(1, steps=2 * N)
    model[3] = AdversarialDropout(P, DELTA)
    x, _ = sequences(steps=2 * N)
    vadd = VirtualAdversarialDropout()
    with pytest.warns(AdversarialDropoutWarning, match=r"shape \(8, 4, 6\) for 4 examples.*batch_dim=1\), or flatten"):
        vadd(model, x)
    vadd(model, x)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((N * T, D), N), ((N * T, N), N), ((9, N), N), ((N * T, 3, N, 2), N), ((T, 1, D), 1), ((0, 3, D), 0)],
)
def test_rows_that_are_flattened_are_no_error(shape: tuple[int, ...], rows: int) -> None:
    layer = AdversarialDropout()
    reported: list[str] = []
    layer.check_batch_dim(shape, rows, warn=reported.append)
    assert not reported


def test_a_flattened_sequence_has_a_mask_for_each_row() -> None:
    head = Opaque(nn.Tanh(), nn.Unflatten(0, (N, T)), OverTime(1), nn.Linear(D, 3))
    above = Recorder()
    model = nn.Sequential(nn.Flatten(0, 1), nn.Softplus(), AdversarialDropout(P, 0.2), above, head).double()
    x, _ = sequences()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VirtualAdversarialDropout()(model, x)
    base, found = above.runs[0].mask, above.runs[-1].mask
    assert base.shape == (N * T, D)
    assert (base != found).sum(dim=1).max() == 1

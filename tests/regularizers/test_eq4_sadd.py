"""SAdD (eq. 4) against closed forms and a plain computation; unlabelled rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, SupervisedAdversarialDropout

from .recording import CLASSES, FORMS, Net, Recorder, assert_same, batch, build, flipped, plain

FLIPS = 3


def base_mask(net: Net, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """εˢ of the call with this seed: the mask of the adversarial pass if no flip is allowed."""
    delta, net.layer.delta = net.layer.delta, 0.0
    torch.manual_seed(seed)
    SupervisedAdversarialDropout()(net.model, x, y)
    net.layer.delta = delta
    mask = net.above.runs[-1].mask
    net.below.runs.clear()
    net.above.runs.clear()
    return mask


@pytest.mark.parametrize("divergence", ["ce", "kl", "qe"])
@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("form", FORMS)
def test_values_gradients_masks(form: str, std: float, divergence: str) -> None:
    net = build(form, std=std)
    x, y = batch()
    base = base_mask(net, x, y, seed=4)
    torch.manual_seed(4)
    loss = SupervisedAdversarialDropout(divergence=divergence)(net.model, x, y)

    search, last = net.above.runs
    h = net.h(x, net.below.runs[-1].noise)
    ones = torch.ones_like(h, requires_grad=True)
    value = plain(divergence, y, net.logits(h.detach() * ones, search.noise))
    (slopes,) = torch.autograd.grad(value.sum(), ones)
    found = flipped(base, slopes, FLIPS)
    assert_same(search.seen, h.detach())
    assert torch.equal(last.mask, found)
    assert 0 < (found != base).sum(dim=1).max() <= FLIPS
    expected = plain(divergence, y, net.logits(h * found / 0.5, last.noise)).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


def test_without_a_target_it_draws_a_new_mask() -> None:
    net = build(delta=0.0)
    x, y = batch(40)
    net.model(x)
    SupervisedAdversarialDropout()(net.model, x, y)
    assert (net.above.runs[-1].mask != net.above.runs[0].mask).float().mean() > 0.3
    SupervisedAdversarialDropout()(net.model, x, y)
    assert (net.above.runs[-1].mask != net.above.runs[2].mask).float().mean() > 0.3


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("form", FORMS)
def test_with_a_target_it_starts_from_the_masks_of_that_pass(form: str, std: float) -> None:
    """Eq. 6: one εˢ for the likelihood and for the adversarial term."""
    net = build(form, std=std)
    x, y = batch()
    logits = net.model(x)
    base = net.above.runs[-1].mask
    net.below.runs.clear()
    net.above.runs.clear()
    loss = SupervisedAdversarialDropout()(net.model, x, y, target=logits)

    search, last = net.above.runs
    h = net.h(x, net.below.runs[-1].noise)
    ones = torch.ones_like(h, requires_grad=True)
    (slopes,) = torch.autograd.grad(plain("ce", y, net.logits(h.detach() * ones, search.noise)).sum(), ones)
    found = flipped(base, slopes, FLIPS)
    assert torch.equal(last.mask, found)
    assert 0 < (found != base).sum(dim=1).max() <= FLIPS
    expected = plain("ce", y, net.logits(h * found / 0.5, last.noise)).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


def test_the_values_of_the_target_do_not_matter() -> None:
    net = build()
    x, y = batch()
    logits = net.model(x)
    sadd = SupervisedAdversarialDropout()
    assert torch.equal(sadd(net.model, x, y, target=logits), sadd(net.model, x, y, target=torch.zeros(1)))


@pytest.mark.filterwarnings("ignore:no unit of")
@settings(max_examples=40)
@given(n=st.integers(1, 4), units=st.integers(1, 9), p=st.sampled_from([0.0, 0.3, 0.8]), data=st.data())
def test_a_linear_head_in_closed_form(n: int, units: int, p: float, data: st.DataObject) -> None:
    """For cross-entropy after one matrix W: J = h ⊙ (q − y) W and ∂/∂W = (q − y)ᵀ (h ⊙ ε)."""
    flips = data.draw(st.integers(1, units))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layer = AdversarialDropout(p, 0.0)
    above, head = Recorder(), nn.Linear(units, CLASSES, bias=False)
    model = nn.Sequential(layer, above, head).double()
    h = torch.rand(n, units, dtype=torch.float64) + 0.5
    y = torch.randint(CLASSES, (n,))
    one_hot = torch.eye(CLASSES, dtype=torch.float64)[y]
    reg = SupervisedAdversarialDropout()
    state = torch.get_rng_state()
    reg(model, h, y)
    base = above.runs[-1].mask
    layer.delta = flips / units
    torch.set_rng_state(state)
    loss = reg(model, h, y)

    weight = head.weight.detach()
    slopes = h * ((torch.softmax(h @ weight.T, dim=1) - one_hot) @ weight)
    found = flipped(base, slopes, flips)
    assert torch.equal(above.runs[-1].mask, found)
    masked = h * found / (1 - p)
    q = torch.softmax(masked @ weight.T, dim=1)
    assert_same(loss, -(one_hot * q.log()).sum(dim=1).mean())
    assert_same(torch.autograd.grad(loss, head.weight)[0], (q - one_hot).T @ masked / n)


def test_regression_with_a_divergence_of_its_own() -> None:
    net = build(p=0.0)
    x, _ = batch()
    y = torch.randn(5, CLASSES, dtype=torch.float64)
    loss = SupervisedAdversarialDropout(divergence=lambda t, q: (t - q).square().sum(dim=1))(net.model, x, y)
    h = net.stem(x)
    ones = torch.ones_like(h, requires_grad=True)
    (slopes,) = torch.autograd.grad((y - net.head(h.detach() * ones)).square().sum(), ones)
    found = flipped(torch.ones_like(h, dtype=torch.bool), slopes, FLIPS)
    assert_same(loss, (y - net.head(h * found)).square().sum(dim=1).mean())


def without_unlabelled(net: Net, divergence: str, x: Tensor, y: Tensor, base: Tensor) -> Tensor:
    h = net.stem(x)
    ones = torch.ones_like(h, requires_grad=True)
    (slopes,) = torch.autograd.grad(plain(divergence, y, net.head(h.detach() * ones)).sum(), ones)
    return plain(divergence, y, net.head(h * flipped(base, slopes, FLIPS) / 0.5))


@pytest.mark.parametrize("divergence", ["ce", "qe"])
def test_unlabelled_rows_give_0_and_do_not_count(divergence: str) -> None:
    net = build()
    x, y = batch(6)
    y[[1, 4]] = -1
    labelled = y >= 0
    base = base_mask(net, x, y, seed=4)[labelled]
    expected = without_unlabelled(net, divergence, x[labelled], y[labelled], base)
    results = {}
    for reduction in ("none", "sum", "mean"):
        torch.manual_seed(4)
        reg = SupervisedAdversarialDropout(divergence=divergence, reduction=reduction)
        results[reduction] = reg(net.model, x, y)
    assert torch.equal(results["none"] == 0, ~labelled)
    assert_same(results["none"][labelled], expected)
    assert_same(results["sum"], expected.sum())
    assert_same(results["mean"], expected.sum() / 4)
    assert_same(net.grads(results["mean"]), net.grads(expected.mean()))
    assert int((y == -1).sum()) == 2


def test_the_stand_in_for_an_unlabelled_row_does_not_matter() -> None:
    """Classes have no order: renaming them changes nothing, also where BatchNorm lets rows see each other."""
    x, y = batch(12)
    y[::2] = -1
    losses = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        torch.manual_seed(0)
        last = nn.Linear(8, CLASSES, bias=False)
        model = nn.Sequential(
            nn.Linear(6, 10), AdversarialDropout(0.5, 0.3), nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Tanh(), last
        ).double()
        last.weight.data = last.weight.data[order]
        renamed = torch.tensor([order.index(label) if label >= 0 else -1 for label in y.tolist()])
        torch.manual_seed(1)
        losses.append(SupervisedAdversarialDropout()(model, x, renamed).item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)


def test_no_labelled_row_gives_a_0_with_a_graph() -> None:
    net = build()
    x, y = batch()
    for reduction in ("mean", "sum"):
        reg = SupervisedAdversarialDropout(reduction=reduction)
        loss = reg(net.model, x, torch.full_like(y, -1))
        assert loss.item() == 0
        assert all(math.isclose(g.abs().sum().item(), 0) for g in net.grads(loss))
        loss.backward()


def test_labels_of_other_integer_types() -> None:
    net = build()
    x, y = batch()
    values = []
    for dtype in (torch.int64, torch.int32, torch.int8, torch.uint8):
        torch.manual_seed(2)
        values.append(SupervisedAdversarialDropout()(net.model, x, y.to(dtype)).item())
    assert len(set(values)) == 1

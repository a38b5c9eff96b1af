"""Units other than single activations, several layers at once, evaluation mode, empty masks."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, SupervisedAdversarialDropout, VirtualAdversarialDropout

from .recording import FORMS, UNITS, Opaque, Recorder, assert_same, batch, build, flipped, plain

Rescale = Literal["inverted", "sum", "none"]


class Mean(nn.Module):
    """Mean over the dimensions given."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=self.dims)


def test_a_channel_is_one_unit() -> None:
    above, head = Recorder(), nn.Sequential(nn.Tanh(), Mean(2, 3), nn.Linear(8, 3))
    stem = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Softplus())
    model = nn.Sequential(stem, AdversarialDropout(0.5, 0.3, granularity="channel"), above, head).double()
    x = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    loss = VirtualAdversarialDropout()(model, x)

    first, search, last = above.runs
    assert_same(search.seen, stem(x).detach())
    for run in (first, last):
        assert all(len(channel.unique()) == 1 for channel in run.mask.flatten(0, 1))
    h = stem(x)
    target = head(h * first.mask / 0.5)
    a = h.detach().requires_grad_()
    (g,) = torch.autograd.grad(plain("kl", target.detach(), head(a)).sum(), a)
    found = flipped(first.mask[:, :, 0, 0], (h * g).sum(dim=(2, 3)), math.floor(0.3 * 8))
    assert torch.equal(last.mask[:, :, 0, 0], found)
    assert (found != first.mask[:, :, 0, 0]).any()
    expected = plain("kl", target, head(h * found[:, :, None, None] / 0.5)).mean()
    assert_same(loss, expected)


@pytest.mark.parametrize("times", [1, 7])
def test_a_feature_is_one_unit_for_the_whole_sequence(times: int) -> None:
    above, head = Recorder(), nn.Sequential(nn.Tanh(), Mean(1), nn.Linear(8, 3))
    stem = nn.Sequential(nn.Linear(6, 8), nn.Softplus())
    layer = AdversarialDropout(0.4, 0.25, granularity="feature", rescale="sum")
    model = nn.Sequential(stem, layer, above, head)
    x, y = torch.randn(4, times, 6), torch.randint(3, (4,))
    torch.manual_seed(1)
    layer.delta = 0.0
    SupervisedAdversarialDropout()(model, x, y)
    torch.manual_seed(1)
    layer.delta = 0.25
    SupervisedAdversarialDropout()(model, x, y)

    base, last = above.runs[1], above.runs[3]
    assert all(torch.equal(last.mask[:, t], last.mask[:, 0]) for t in range(times))
    a = stem(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(plain("ce", y, head(a)).sum(), a)
    found = flipped(base.mask[:, 0], (a * g).sum(dim=1), 2)
    assert torch.equal(last.mask[:, 0], found)
    kept = found.sum(dim=1).view(-1, 1, 1)
    torch.testing.assert_close(last.seen, a.detach() * found.unsqueeze(1) * 8 / kept)


@pytest.mark.parametrize("opaque", [False, True])
def test_several_layers_share_one_gradient_and_have_a_budget_each(opaque: bool) -> None:
    torch.manual_seed(0)
    stem, middle, head = (nn.Sequential(nn.Linear(*sizes), nn.Softplus()) for sizes in ((6, 10), (10, 20), (20, 3)))
    lower, upper = AdversarialDropout(0.5, 0.2), AdversarialDropout(0.25, 0.35, rescale="sum")
    first, second = Recorder(), Recorder()
    parts = (stem, lower, first, nn.Sequential(middle, upper), second, head)
    model = (Opaque(*parts) if opaque else nn.Sequential(*parts)).double()
    x, _ = batch()
    model(x)
    target = head(second.runs[0].seen)
    VirtualAdversarialDropout()(model, x, target=target)

    h = stem(x).detach()
    ones = [torch.ones(5, units, dtype=torch.float64, requires_grad=True) for units in (10, 20)]
    value = plain("kl", target.detach(), head(middle(h * ones[0]) * ones[1])).sum()
    slopes = torch.autograd.grad(value, ones)
    for recorder, slope, flips in ((first, slopes[0], 2), (second, slopes[1], 7)):
        base, found = recorder.runs[0].mask, recorder.runs[2].mask
        assert torch.equal(found, flipped(base, slope, flips))
        assert 0 < (found != base).sum(dim=1).max() <= flips


def test_two_layers_draw_different_masks() -> None:
    first, second = Recorder(), Recorder()
    model = nn.Sequential(
        AdversarialDropout(0.5, 0.0), first, Recorder(), AdversarialDropout(0.5, 0.0), second, Mean(1)
    )
    SupervisedAdversarialDropout(divergence=lambda t, q: q)(model, torch.ones(3, 200), torch.zeros(3))
    kept_by_one, kept_by_both = first.runs[-1].mask, second.runs[-1].mask
    assert 0.4 < kept_by_both[kept_by_one].float().mean() < 0.6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rescale", ["inverted", "sum", "none"])
def test_in_evaluation_the_base_mask_is_all_ones_and_nothing_is_rescaled(form: str, rescale: Rescale) -> None:
    net = build(form, rescale=rescale, std=0.2)
    net.model.eval()
    x, _ = batch()
    loss = VirtualAdversarialDropout()(net.model, x)
    first, search, last = net.above.runs
    h_target, h = net.h(x, net.below.runs[0].noise), net.h(x, net.below.runs[-1].noise)
    assert_same([first.seen, search.seen], [h_target.detach(), h.detach()])
    target = net.logits(h_target, first.noise)
    ones = torch.ones_like(h, requires_grad=True)
    value = plain("kl", target.detach(), net.logits(h.detach() * ones, search.noise)).sum()
    found = flipped(torch.ones_like(h).bool(), torch.autograd.grad(value, ones)[0], 3)
    assert 0 < (~found).sum(dim=1).max() <= 3
    assert_same(last.seen, (h * found).detach())
    expected = plain("kl", target, net.logits(h * found, last.noise)).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


def test_evaluation_neither_uses_nor_changes_the_last_mask() -> None:
    net = build(delta=0.0)
    x, _ = batch()
    out = net.model(x)
    net.model.eval()
    VirtualAdversarialDropout()(net.model, x, target=out)
    assert net.above.runs[-1].mask.all()
    net.model(x)
    net.model.train()
    VirtualAdversarialDropout()(net.model, x, target=out)
    assert torch.equal(net.above.runs[-1].mask, net.above.runs[0].mask)


def test_supervised_search_in_evaluation_raises_the_loss_by_dropping_units() -> None:
    net = build(delta=0.2)
    net.model.eval()
    x, y = batch(20)
    values = SupervisedAdversarialDropout(reduction="none")(net.model, x, y)
    assert (values >= plain("ce", y, net.model(x)) - 1e-9).float().mean() > 0.9
    assert (~net.above.runs[-2].mask).sum(dim=1).max() == 2


def test_activations_of_one_dimension_are_one_unit_per_example() -> None:
    head = nn.Linear(1, 2)
    model = nn.Sequential(AdversarialDropout(0.0, 1.0), Opaque(nn.Unflatten(0, (-1, 1)), head))
    h, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 0])
    values = SupervisedAdversarialDropout(reduction="none")(model, h, y)
    logits = head(h.unsqueeze(1))
    slopes = h * ((torch.softmax(logits, dim=1) - torch.eye(2)[y]) @ head.weight[:, 0])
    at_zero = plain("ce", y, head.bias.expand(3, 2))
    torch.testing.assert_close(values, torch.where(slopes < 0, at_zero, plain("ce", y, logits)))
    assert 0 < (slopes < 0).sum() < 3


@pytest.mark.parametrize("rescale", ["inverted", "sum", "none"])
def test_an_example_with_no_unit_left_gives_zeros_and_a_batch_of_them_warns_once(rescale: Rescale) -> None:
    net = build(p=0.0, delta=1.0, rescale=rescale)
    head = nn.Linear(UNITS, 3).double()
    head.weight.data.fill_(1.0)
    model = nn.Sequential(net.stem, net.layer, net.above, head)
    x, _ = batch(4)
    falling = SupervisedAdversarialDropout(divergence=lambda t, q: (-t * q).sum(dim=1))

    row_2_empty = falling(model, x, torch.tensor([[-1.0], [-1.0], [1.0], [-1.0]]).double())
    assert net.above.runs[-1].mask.all(dim=1).tolist() == [True, True, False, True]
    assert not net.above.runs[-1].seen[2].any()
    assert row_2_empty.isfinite()

    everything = torch.ones(4, 1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="no unit of"):
        loss = falling(model, x, everything)
    assert not net.above.runs[-1].seen.any()
    assert_same(loss, -head.bias.detach().sum())
    falling(model, x, everything)

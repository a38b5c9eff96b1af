"""VAdD (eq. 5) against a plain computation: which mask and noise each pass sees, values and gradients."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout

from .recording import (
    CUT,
    FORMS,
    UNITS,
    Net,
    Opaque,
    Recorder,
    Run,
    assert_same,
    batch,
    build,
    flipped,
    plain,
    rescaled,
)

Noise = Literal["independent", "shared"]
Rescale = Literal["inverted", "sum", "none"]

FLIPS = 3
EACH_DIVERGENCE = pytest.mark.parametrize("divergence", ["kl", "qe", "ce"])


def jacobian(net: Net, divergence: str, target: Tensor, h: Tensor, noise: Tensor) -> Tensor:
    """∂D/∂ε at ε = 1, without rescaling."""
    ones = torch.ones_like(h, requires_grad=True)
    value = plain(divergence, target.detach(), net.logits(h.detach() * ones, noise))
    return torch.autograd.grad(value.sum(), ones)[0]


def by_hand(net: Net, divergence: str, target: Tensor, h: Tensor, base: Tensor, search: Run, last: Run) -> Tensor:
    """Loss for a target, after checks that search and adversarial pass saw what they must."""
    assert_same(search.seen, h.detach())
    slopes = jacobian(net, divergence, target, h, search.noise)
    found = flipped(base, slopes, FLIPS)
    assert torch.equal(last.mask, found)
    assert (found != base).sum() > 0
    factors = rescaled(found, net.layer.p, net.layer.rescale)
    prediction = net.logits(h * factors, last.noise)
    assert_same(last.seen, (h * factors).detach())
    return plain(divergence, target, prediction).mean()


@EACH_DIVERGENCE
@pytest.mark.parametrize("noise", ["independent", "shared"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("detach", [False, True])
def test_values_gradients_masks(form: str, noise: Noise, divergence: str, detach: bool) -> None:
    net = build(form, std=0.2)
    x, _ = batch()
    loss = VirtualAdversarialDropout(divergence=divergence, noise=noise, detach_target=detach)(net.model, x)

    first, search, last = net.above.runs
    h_target, h = net.h(x, net.below.runs[0].noise), net.h(x, net.below.runs[-1].noise)
    base = first.mask
    target = net.logits(h_target * base / 0.5, first.noise)
    assert_same(first.seen, (h_target * base / 0.5).detach())
    expected = by_hand(net, divergence, target.detach() if detach else target, h, base, search, last)
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


@EACH_DIVERGENCE
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("detach", [False, True])
def test_with_a_target_it_starts_from_the_mask_of_that_pass(form: str, divergence: str, detach: bool) -> None:
    net = build(form, std=0.2)
    x, _ = batch()
    out = net.model(x)
    loss = VirtualAdversarialDropout(divergence=divergence, detach_target=detach)(net.model, x, target=out)

    first, search, last = net.above.runs
    h = net.h(x, net.below.runs[-1].noise)
    target = out.detach() if detach else out
    expected = by_hand(net, divergence, target, h, first.mask, search, last)
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


@EACH_DIVERGENCE
@pytest.mark.parametrize("wrap", [False, True])
def test_three_calls_share_h_and_the_gradient_flows_into_it(divergence: str, wrap: bool) -> None:
    net = build(std=0.2)
    x, _ = batch()
    head: nn.Module = nn.Sequential(net.layer, net.above, net.head)
    if wrap:
        head = nn.Sequential(head)
    h = net.below(net.stem(x))
    out = head(h)
    loss = VirtualAdversarialDropout(divergence=divergence, noise="shared")(head, h, target=out)

    first, search, last = net.above.runs
    expected = by_hand(net, divergence, out, h, first.mask, search, last)
    assert_same(loss, expected)
    (gradient,) = torch.autograd.grad(loss, h, retain_graph=True)
    assert gradient.abs().sum() > 0
    assert_same(gradient, torch.autograd.grad(expected, h, retain_graph=True)[0])
    assert_same(net.grads(loss), net.grads(expected))


@pytest.mark.parametrize("rescale", ["inverted", "sum", "none"])
@pytest.mark.parametrize("p", [0.25, 0.7])
def test_rescaling_belongs_to_the_passes_and_not_to_the_search(rescale: Rescale, p: float) -> None:
    net = build(p=p, rescale=rescale, std=0.2)
    x, _ = batch()
    reg = VirtualAdversarialDropout()
    if rescale == "none":
        with pytest.warns(UserWarning, match="smaller in training"):
            loss = reg(net.model, x)
    else:
        loss = reg(net.model, x)
    first, search, last = net.above.runs
    h_target, h = net.h(x, net.below.runs[0].noise), net.h(x, net.below.runs[-1].noise)
    target = net.logits(h_target * rescaled(first.mask, p, rescale), first.noise)
    expected = by_hand(net, "kl", target, h, first.mask, search, last)
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


def test_the_slopes_agree_with_finite_differences() -> None:
    net = build(p=0.0, std=0.2)
    x, _ = batch(2)
    VirtualAdversarialDropout(divergence="qe")(net.model, x)
    first, search, last = net.above.runs
    target = net.logits(first.seen, first.noise)
    h = search.seen
    slopes = torch.zeros_like(h)
    for row in range(h.shape[0]):
        for unit in range(h.shape[1]):
            step = torch.zeros_like(h)
            step[row, unit] = 1e-5
            up, down = net.logits(h * (1 + step), search.noise), net.logits(h * (1 - step), search.noise)
            slopes[row, unit] = (plain("qe", target, up) - plain("qe", target, down))[row] / 2e-5
    assert torch.equal(last.mask, flipped(first.mask, slopes, FLIPS))


def squared_error(target: Tensor, prediction: Tensor) -> Tensor:
    return (target - prediction).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize("opaque", [False, True])
def test_an_autoencoder_that_must_return_its_input(opaque: bool) -> None:
    net = build()
    decoder = nn.Linear(UNITS, 6).double()
    parts = (net.stem, net.below, net.layer, net.above, decoder)
    autoencoder = Opaque(*parts) if opaque else nn.Sequential(*parts)
    x, _ = batch()
    autoencoder(x)
    loss = VirtualAdversarialDropout(divergence=squared_error)(autoencoder, x, target=x)

    first, search, last = net.above.runs
    h = net.stem(x)
    ones = torch.ones_like(h, requires_grad=True)
    (slopes,) = torch.autograd.grad(((x - decoder(h.detach() * ones)) ** 2).mean(dim=1).sum(), ones)
    assert_same(search.seen, h.detach())
    assert torch.equal(last.mask, flipped(first.mask, slopes, FLIPS))
    expected = ((x - decoder(h * last.mask / 0.5)) ** 2).mean(dim=1).mean()
    parameters = [*net.stem.parameters(), *decoder.parameters()]
    assert_same(loss, expected)
    assert_same(list(torch.autograd.grad(loss, parameters)), list(torch.autograd.grad(expected, parameters)))


def test_images_through_a_convolutional_autoencoder() -> None:
    torch.manual_seed(0)
    above = Recorder()
    layer = AdversarialDropout(0.5, 0.1, granularity="channel")
    model = nn.Sequential(nn.Conv2d(1, 20, 3, padding=1), nn.Softplus(), layer, above, nn.Conv2d(20, 1, 1)).double()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    model(x)
    values = VirtualAdversarialDropout(divergence=squared_error, reduction="none")(model, x, target=x)
    first, _, last = above.runs
    h = model[1](model[0](x))
    a = h.detach().requires_grad_()
    (g,) = torch.autograd.grad(((x - model[4](a)) ** 2).mean(dim=(1, 2, 3)).sum(), a)
    base, found = first.mask[:, :, 0, 0], last.mask[:, :, 0, 0]
    assert torch.equal(found, flipped(base, (g * h).sum(dim=(2, 3)), math.floor(0.1 * 20)))
    assert_same(values, ((x - model[4](h * last.mask / 0.5)) ** 2).mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("form", CUT)
def test_two_views(form: str) -> None:
    net = build(form, p=0.0)
    x, _ = batch()
    view = x + 0.5
    loss = VirtualAdversarialDropout()(net.model, x, target=net.model(view))
    zero = torch.zeros(())
    target, h = net.logits(net.h(view, zero), zero), net.h(x, zero)
    base = torch.ones_like(h, dtype=torch.bool)
    expected = by_hand(net, "kl", target, h, base, *net.above.runs[1:])
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))

"""Mixtures of images, the terms on them, and their settings."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments import mixing
from adversarial_dropout.experiments.mixing import InterpolationConsistency, MixupLoss
from adversarial_dropout.experiments.terms import Ict, Mixup

SHARE = torch.tensor([0.25, 1.0, 0.0, 0.6], dtype=torch.float64)


@pytest.fixture
def fixed_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "drawn_shares", lambda x, alpha: SHARE)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 3).double()


def images() -> torch.Tensor:
    return torch.rand(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_shares_have_the_moments_of_beta() -> None:
    torch.manual_seed(0)
    for alpha in (0.3, 1.0, 4.0):
        shares = mixing.drawn_shares(torch.zeros(20_000, 2), alpha)
        assert shares.shape == (20_000,)
        assert 0 <= float(shares.min()) <= float(shares.max()) <= 1
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(float(shares.mean()) - 0.5) < 5 * (variance / 20_000) ** 0.5
        assert float(shares.var()) == pytest.approx(variance, rel=0.05)


def test_mixed_images() -> None:
    x = images()
    found = mixing.mixed(x, SHARE)
    for i, share in enumerate(SHARE.tolist()):
        torch.testing.assert_close(found[i], share * x[i] + (1 - share) * x[i - 1])


def test_mixed_predictions() -> None:
    logits = 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = mixing.mixed_predictions(logits, SHARE)
    for i, share in enumerate(SHARE.tolist()):
        by_hand = share * logits[i].softmax(0) + (1 - share) * logits[i - 1].softmax(0)
        torch.testing.assert_close(found[i].softmax(0), by_hand)


@pytest.mark.usefixtures("fixed_shares")
@pytest.mark.parametrize("given", [False, True])
def test_interpolation_consistency(given: bool) -> None:
    model, x = network(), images()
    other = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    value = InterpolationConsistency()(model, x, target=other if given else None)
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    goals = (other if given else x @ weight.T + bias).detach().softmax(1)
    total = torch.zeros((), dtype=torch.float64)
    for i, share in enumerate(SHARE.tolist()):
        mixture = share * x[i] + (1 - share) * x[i - 1]
        goal = share * goals[i] + (1 - share) * goals[i - 1]
        total = total + (goal - (weight @ mixture + bias).softmax(0)).square().mean()
    torch.testing.assert_close(value, total / 4)
    gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
    assert not given or torch.autograd.grad(value, other, allow_unused=True)[0] is None
    torch.testing.assert_close(gradients, torch.autograd.grad(total / 4, (weight, bias)))


@pytest.mark.usefixtures("fixed_shares")
def test_mixup() -> None:
    model, x, y = network(), images(), torch.tensor([0, 2, 1, 1])
    value = MixupLoss()(model, x, y)
    total = 0.0
    for i, share in enumerate(SHARE.tolist()):
        logits = model(share * x[i] + (1 - share) * x[i - 1])
        soft = share * F.one_hot(y[i], 3) + (1 - share) * F.one_hot(y[i - 1], 3)
        total -= float((soft * logits.detach().log_softmax(0)).sum())
    assert float(value.detach()) == pytest.approx(total / 4)


def test_wrong_settings_and_inputs() -> None:
    for term in (Ict, Mixup):
        for alpha in (0.0, -1.0, math.inf):
            with pytest.raises(InvalidValueError, match="expected alpha to be finite and above 0"):
                term(alpha=alpha)
    with pytest.raises(InvalidValueError, match=r"expected terms.ict.target to be one of own, average, got 'mean'"):
        Ict(target="mean")  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="expected images as one tensor, got tuple"):
        MixupLoss()(network(), (images(), images()), torch.zeros(4, dtype=torch.long))

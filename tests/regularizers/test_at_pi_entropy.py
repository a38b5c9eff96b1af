"""AT (eq. 2), Π (eq. 1) and entropy minimisation against plain computations."""

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialTraining, EntropyMinimization, PiModel

from .recording import CLASSES, FORMS, assert_same, batch, build, plain

EPS = 0.3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("std", [0.0, 0.2])
def test_at_moves_along_the_sign_of_the_gradient(form: str, std: float) -> None:
    net = build(form, std=std)
    x, y = batch()
    loss = AdversarialTraining(eps=EPS)(net.model, x, y)
    (below, below_last), (above, above_last) = net.below.runs, net.above.runs

    def logits(inputs: Tensor) -> Tensor:
        return net.logits(net.h(inputs, below.noise) * above.mask / 0.5, above.noise)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain("ce", y, logits(leaf)).sum(), leaf)
    assert gradient.abs().min() > 0
    perturbed = x + EPS * gradient.sign()
    assert_same(below.seen, net.stem(x).detach())
    assert_same(below_last.seen, net.stem(perturbed).detach())
    assert torch.equal(above_last.mask, above.mask)
    expected = plain("ce", y, logits(perturbed)).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))
    assert loss > plain("ce", y, logits(x)).mean()


def test_at_in_closed_form_for_a_linear_model() -> None:
    """For two classes the loss is softplus(−y wᵀx + ε ‖w‖₁) with w the difference of the rows."""
    model = nn.Linear(6, 2, bias=False).double()
    x, _ = batch(7)
    y = torch.tensor([0, 1, 0, 1, 1, 0, 0])
    w = (model.weight[1] - model.weight[0]).detach()
    margin = (2 * y - 1) * (x @ w)
    values = AdversarialTraining(eps=EPS, reduction="none")(model, x, y)
    assert_same(values, nn.functional.softplus(-margin + EPS * w.abs().sum()))


def test_at_ignores_unlabelled_rows() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    x, y = batch(6)
    expected = AdversarialTraining(reduction="none")(model, x, y)
    y[[0, 3]] = -1
    labelled = y >= 0
    values = AdversarialTraining(reduction="none")(model, x, y)
    assert torch.equal(values == 0, ~labelled)
    assert_same(values[labelled], expected[labelled])
    assert_same(AdversarialTraining()(model, x, y), expected[labelled].mean())
    loss = AdversarialTraining()(model, x, torch.full_like(y, -1))
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters())))


def test_the_class_that_replaces_a_missing_label_does_not_matter() -> None:
    """Permuting the classes changes nothing, even if BatchNorm mixes the rows."""
    x, y = batch(12)
    y[::2] = -1
    losses = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        torch.manual_seed(0)
        last = nn.Linear(8, CLASSES, bias=False)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), last).double()
        last.weight.data = last.weight.data[order]
        renamed = torch.tensor([order.index(label) if label >= 0 else -1 for label in y.tolist()])
        losses.append(AdversarialTraining(eps=0.5)(model, x, renamed).item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)


def test_at_reaches_embeddings() -> None:
    net = build()
    x, y = batch()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(AdversarialTraining()(net.model, x, y), x)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("divergence", ["kl", "qe", "ce"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_pi_compares_two_passes(form: str, divergence: str, detach: bool, given: bool) -> None:
    net = build(form, std=0.2)
    x, _ = batch()
    out = net.model(x) if given else None
    loss = PiModel(divergence=divergence, detach_target=detach)(net.model, x, target=out)
    target, prediction = (
        net.logits(net.h(x, below.noise) * above.mask / 0.5, above.noise)
        for below, above in zip(net.below.runs, net.above.runs, strict=True)
    )
    expected = plain(divergence, target.detach() if detach else target, prediction).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


def test_the_flag_for_the_target_changes_gradients_and_nothing_else() -> None:
    net = build()
    x, _ = batch()
    results = []
    for detach in (False, True):
        torch.manual_seed(1)
        loss = PiModel(detach_target=detach)(net.model, x)
        results.append((loss.item(), net.grads(loss)))
    (one, whole), (two, half) = results
    assert one == two
    assert any(not torch.allclose(a, b) for a, b in zip(whole, half, strict=True))


@pytest.mark.parametrize("given", [False, True])
def test_entropy(given: bool) -> None:
    net = build()
    x, _ = batch()
    out = net.model(x) if given else None
    loss = EntropyMinimization()(net.model, x, target=out)
    logits = net.logits(net.stem(x) * net.above.runs[0].mask / 0.5, torch.zeros(()))
    q = torch.softmax(logits, dim=1)
    expected = -(q * q.log()).sum(dim=1).mean()
    assert_same(loss, expected)
    assert_same(net.grads(loss), net.grads(expected))


def test_entropy_of_certain_and_of_even_predictions() -> None:
    logits = torch.tensor([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    values = EntropyMinimization(reduction="none")(nn.Identity(), logits)
    torch.testing.assert_close(values, torch.tensor([3.0, CLASSES]).log() * torch.tensor([0.0, 1.0]))

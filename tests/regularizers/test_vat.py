"""VAT (eq. 2) against Hessians and a plain computation."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import VirtualAdversarialTraining

from .recording import CLASSES, FORMS, Recorder, assert_same, in_form, plain

EPS = 0.7


def network(form: str = "sequential", *, smooth: bool = True, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network of images (2, 3, 4) whose first part records what enters it."""
    torch.manual_seed(0)
    activation = nn.Tanh() if smooth else nn.ReLU()
    under = [Recorder(), nn.Conv2d(2, 5, 2), activation, nn.Flatten(), nn.Linear(30, 16), activation]
    return in_form(form, under, [nn.Linear(16, CLASSES)]).to(dtype)


def recorder(model: nn.Module) -> Recorder:
    return next(module for module in model.modules() if isinstance(module, Recorder))


def images(n: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def unit(d: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(d, dim=(1, 2, 3), keepdim=True)
    return d / length


def by_hessian(model: nn.Module, divergence: str, x: Tensor, d: Tensor) -> Tensor:
    """The direction of H d, with H the Hessian of r ↦ D[f(x), f(x + r)] at r = 0, one example after the other."""
    rows = []
    for example, direction in zip(x, d, strict=True):
        logits = model(example[None]).detach()

        def value(r: Tensor, example: Tensor = example, logits: Tensor = logits) -> Tensor:
            return plain(divergence, logits, model((example + r)[None])).sum()

        hessian = torch.autograd.functional.hessian(value, torch.zeros_like(example))  # type: ignore[no-untyped-call]
        rows.append((hessian.reshape(24, 24) @ direction.reshape(24)).view_as(direction))
    return unit(torch.stack(rows))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (unit(a.double()) * unit(b.double())).flatten(1).sum(dim=1)


@pytest.mark.parametrize("divergence", ["kl", "qe"])
@pytest.mark.parametrize("steps", [1, 3])
def test_directions_values_and_gradients(divergence: str, steps: int) -> None:
    model, x = network(), images()
    loss = VirtualAdversarialTraining(eps=EPS, steps=steps, divergence=divergence)(model, x)
    target_run, *searches, last = recorder(model).runs
    assert torch.equal(target_run.seen, x)
    directions = [(run.seen - x) / 1e-4 for run in searches] + [(last.seen - x) / EPS]
    for direction in directions:
        assert_close(direction.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64), 1e-9)
    for before, after in pairwise(directions):
        assert cosine(after, by_hessian(model, divergence, x, before)).min() > 1 - 1e-5

    expected = plain(divergence, model(x).detach(), model(last.seen)).mean()
    assert_same(loss, expected)
    parameters = list(model.parameters())
    assert_same(list(torch.autograd.grad(loss, parameters)), list(torch.autograd.grad(expected, parameters)))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_the_direction_is_worse_than_random_ones() -> None:
    model, x = network(), images(8)
    values = VirtualAdversarialTraining(eps=0.1, steps=4, reduction="none")(model, x)
    target = model(x).detach()
    for _ in range(20):
        random = unit(torch.randn_like(x))
        assert (plain("kl", target, model(x + 0.1 * random)) <= values * 1.05).all()


def test_with_a_target_the_reference_is_that_target() -> None:
    model, x = network(), images()
    target = (model(x) + torch.tensor([1.0, 0.0, -1.0])).requires_grad_()
    loss = VirtualAdversarialTraining(eps=EPS)(model, x, target=target)
    last = recorder(model).runs[-1]
    leaf = recorder(model).runs[-2].seen.requires_grad_()
    (g,) = torch.autograd.grad(plain("kl", target.detach(), model(leaf)).sum(), leaf)
    assert_same(last.seen, x + EPS * unit(g))
    assert_same(loss, plain("kl", target, model(last.seen)).mean())
    assert torch.autograd.grad(loss, target, allow_unused=True) == (None,), "no gradient flows into the target"


@pytest.mark.parametrize(("dtype", "xi"), [(torch.float64, 1e-4), (torch.float32, 0.1)])
def test_the_default_step_fits_the_precision(dtype: torch.dtype, xi: float) -> None:
    model, x = network(dtype=dtype), images(dtype=dtype)
    for given, expected in ((None, xi), (0.03, 0.03)):
        VirtualAdversarialTraining(xi=given)(model, x)
        lengths = (recorder(model).runs[-2].seen - x).flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full((4,), expected, dtype=dtype), rtol=1e-3, atol=0)


@pytest.mark.parametrize("smooth", [True, False])
def test_the_float32_direction_is_close_to_the_one_of_a_small_step_in_float64(smooth: bool) -> None:
    single, double = network(smooth=smooth, dtype=torch.float32), network(smooth=smooth)
    double.load_state_dict({name: tensor.double() for name, tensor in single.state_dict().items()})
    x = images(32, torch.float32)
    VirtualAdversarialTraining(eps=EPS)(single, x)
    _, search, last = recorder(single).runs
    start = unit((search.seen - x).double())
    leaf = (x.double() + 1e-5 * start).requires_grad_()
    value = plain("kl", double(x.double()).detach(), double(leaf)).sum()
    (g,) = torch.autograd.grad(value, leaf)
    agreement = cosine(last.seen - x, g)
    assert agreement.median() > 0.999
    assert agreement.mean() > 0.95


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [0.01, 2.0])
def test_the_perturbation_has_length_eps_for_each_example(form: str, eps: float) -> None:
    model, x = network(form), images()
    VirtualAdversarialTraining(eps=eps)(model, x)
    lengths = (recorder(model).runs[-1].seen - x).flatten(1).norm(dim=1)
    assert_close(lengths, torch.full((4,), eps, dtype=torch.float64), 1e-9)


def test_directions_are_drawn_for_each_example_and_call() -> None:
    model, x = network(), images()[:1].expand(4, -1, -1, -1)
    reg = VirtualAdversarialTraining()
    reg(model, x)
    reg(model, x)
    directions = torch.cat([recorder(model).runs[i].seen - x for i in (1, 4)])
    assert (torch.pdist(directions.flatten(1)) > 1e-6).all()


@pytest.mark.parametrize("scale", [0.0, 1e-25])
def test_a_gradient_of_0_keeps_the_random_direction_and_a_tiny_one_does_not(scale: float) -> None:
    linear = nn.Linear(24, CLASSES)
    model, x = nn.Sequential(Recorder(), nn.Flatten(), linear), images(dtype=torch.float32)
    reg = VirtualAdversarialTraining(eps=1.0, divergence=lambda target, prediction: scale * prediction[:, 0])
    reg(model, x)
    _, search, last = recorder(model).runs
    slope = linear.weight[0].detach().view(1, 2, 3, 4).expand(4, -1, -1, -1)
    assert cosine(last.seen - x, search.seen - x if scale == 0 else slope).min() > 0.999


def test_the_gradient_reaches_embeddings_and_treats_the_direction_as_a_constant() -> None:
    model, x = network(), images().requires_grad_()
    loss = VirtualAdversarialTraining(eps=EPS)(model, x)
    (gradient,) = torch.autograd.grad(loss, x)
    r = recorder(model).runs[-1].seen - x.detach()
    expected = plain("kl", model(x).detach(), model(x + r)).mean()
    assert_same(gradient, torch.autograd.grad(expected, x)[0])

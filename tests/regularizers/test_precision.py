"""Half precision, autocast, mixed precision of ranking and power iteration."""

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialTraining,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)

from .recording import FORMS, METHODS, Recorder, in_form

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


def network(form: str = "sequential") -> nn.Module:
    torch.manual_seed(0)
    upper = [AdversarialDropout(0.5, 0.25), Recorder(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 3)]
    return in_form(form, [Recorder(), nn.Linear(6, 32), nn.Tanh()], upper)


def recorders(model: nn.Module) -> list[Recorder]:
    return [module for module in model.modules() if isinstance(module, Recorder)]


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)


@HALVES
@EACH_METHOD
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_models(form: str, method: str, dtype: torch.dtype) -> None:
    x, y = batch()
    model = network(form).to(dtype)
    torch.manual_seed(1)
    loss: Tensor = METHODS[method]()(model, x.to(dtype), y)
    torch.manual_seed(1)
    reference = METHODS[method]()(network(form), x, y)
    assert loss.dtype == torch.float32, "divergences of half precision are returned in float32"
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in gradients)
    if method not in ("vat", "pi"):  # their noise is drawn in the precision of x or twice
        assert loss.item() == pytest.approx(reference.item(), rel=0.2)


@EACH_METHOD
@pytest.mark.parametrize("form", FORMS)
def test_autocast(form: str, method: str) -> None:
    x, y = batch()
    model = network(form)
    torch.manual_seed(1)
    expected: Tensor = METHODS[method]()(model, x, y)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss: Tensor = METHODS[method]()(model, x, y)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.15)
    parameters = dict(model.named_parameters())
    exact = torch.autograd.grad(expected, list(parameters.values()))
    rough = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    for name, one, two in zip(parameters, exact, rough, strict=True):
        if one.norm() > 1e-3:
            assert (one - two).norm() < 0.4 * one.norm(), f"gradient of {name}"


@EACH_METHOD
def test_autocast_caches_no_weight_without_its_gradient(method: str) -> None:
    """Autocast keeps the cast weights until it is left: a pass without a graph must not put dead ones there."""
    x, y = batch()
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        METHODS[method]()(model, x, y)
        loss = nn.functional.cross_entropy(model(x), y)
    for name, parameter in model.named_parameters():
        (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
        assert gradient is not None, f"{name} gets no gradient from a later pass"


def close_gains(dtype: torch.dtype) -> tuple[nn.Module, Recorder, Tensor]:
    """Two units whose gains, exact in float32, round to the same number in ``dtype``: 1 + 2s and (1 + s)²."""
    step = torch.finfo(dtype).eps
    above, head = Recorder(), nn.Linear(2, 1, bias=False)
    head.weight.data = torch.tensor([[1.0, 1.0 + step]])
    h = torch.tensor([[1 + 2 * step, 1 + step]])
    assert (h * head.weight).to(dtype)[0, 0] == (h * head.weight).to(dtype)[0, 1]
    return nn.Sequential(AdversarialDropout(0.0, 0.5), above, head), above, h


def falling(target: Tensor, prediction: Tensor) -> Tensor:
    return -prediction[:, 0]


@HALVES
def test_ranking_is_in_float32_for_a_half_precision_model(dtype: torch.dtype) -> None:
    model, above, h = close_gains(dtype)
    SupervisedAdversarialDropout(divergence=falling)(model.to(dtype), h.to(dtype), torch.zeros(1))
    assert above.runs[-1].mask.tolist() == [[True, False]], "the tie went to the lower index"


@HALVES
def test_ranking_is_in_float32_under_autocast(dtype: torch.dtype) -> None:
    model, above, h = close_gains(dtype)
    with torch.autocast("cpu", dtype):
        SupervisedAdversarialDropout(divergence=falling)(model, h.to(dtype), torch.zeros(1))
    assert above.runs[-1].mask.tolist() == [[True, False]], "the tie went to the lower index"


def test_ranking_is_in_float64_where_the_model_is() -> None:
    model, above, h = close_gains(torch.float32)
    head = model[2]  # type: ignore[index]
    head.double().weight.data = torch.tensor([[1.0, 1.0 + torch.finfo(torch.float32).eps]], dtype=torch.float64)
    assert h.dtype == torch.float32
    SupervisedAdversarialDropout(divergence=falling)(model.double(), h.double(), torch.zeros(1))
    assert above.runs[-1].mask.tolist() == [[True, False]]


def test_a_sum_over_a_channel_is_taken_in_float32() -> None:
    """1.5 + 2⁻⁹ against 1.5, which is one number in bfloat16."""
    above = Recorder()
    layer = AdversarialDropout(0.0, 0.5, granularity="channel")
    model = nn.Sequential(layer, above, nn.Flatten()).to(torch.bfloat16)
    h = torch.tensor([[[1.5, 0.0], [1.5, 2**-9]]])
    reg = SupervisedAdversarialDropout(divergence=lambda target, prediction: -prediction.float().sum(dim=1))
    reg(model, h.to(torch.bfloat16), torch.zeros(1))
    assert above.runs[-1].mask[0, :, 0].tolist() == [True, False]


@pytest.mark.parametrize("autocast", [False, True])
def test_power_iteration_is_in_float32_and_its_direction_is_good(autocast: bool) -> None:
    x, _ = batch(64)
    model, exact = network(), network().double()
    layer = model[3]  # type: ignore[index]
    layer.p = exact[3].p = 0.0  # type: ignore[index]
    if not autocast:
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
        exact.load_state_dict(model.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        VirtualAdversarialTraining(eps=8.0)(model, x)
    first, above = recorders(model)
    _, search, last = first.runs
    assert search.seen.dtype == torch.float32
    assert above.runs[1].seen.dtype == torch.float32
    assert above.runs[2].seen.dtype == torch.bfloat16

    start = search.seen.double() - x.double()
    leaf = (x.double() + 1e-4 * start).requires_grad_()
    target = exact(x.double()).detach()
    value = (target.softmax(1) * (target.log_softmax(1) - exact(leaf).log_softmax(1))).sum()
    (g,) = torch.autograd.grad(value, leaf)
    moved = (last.seen.double() - x.double()).flatten(1)
    agreement = (moved * g).sum(dim=1) / (moved.norm(dim=1) * g.norm(dim=1))
    assert agreement.mean() > 0.9


def test_the_sign_of_a_gradient_too_small_for_float16_is_not_lost() -> None:
    """A confident model: the gradient is of the size 1e-9, and float16 ends at 6e-8."""
    first, linear = Recorder(), nn.Linear(6, 2)
    linear.bias.data = torch.tensor([20.0, 0.0])
    linear.weight.data[0] = 0
    model, x = nn.Sequential(first, linear).half(), batch()[0].half()
    AdversarialTraining(eps=0.25)(model, x, torch.zeros(16).long())
    moved = first.runs[-1].seen - x
    torch.testing.assert_close(moved, 0.25 * linear.weight[1].sign().expand_as(x), rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", ["vadd", "vadd-shared"])
def test_passes_of_a_half_precision_model_that_repeat_are_recognised(method: str) -> None:
    model = network().to(torch.bfloat16)
    model[3].p = 0.0  # type: ignore[index]
    with pytest.warns(UserWarning, match="repeats"):
        METHODS[method]()(model, batch()[0].to(torch.bfloat16))
    assert recorders(model)[1].runs[-1].mask.all()


def test_a_target_in_another_precision() -> None:
    x, _ = batch()
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    loss: Tensor = VirtualAdversarialDropout()(model, x, target=out)
    assert loss.dtype == torch.float32
    first, _, last = recorders(model)[1].runs
    assert 0 < (first.mask != last.mask).sum(dim=1).max() <= 8
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)

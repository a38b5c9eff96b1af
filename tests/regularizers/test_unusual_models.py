"""Models that recompute, that have no shape yet, or on which the search has nothing to find."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialDropoutError,
    AdversarialDropoutWarning,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
)

from .recording import METHODS, batch, build


class Checkpointed(nn.Module):
    """Computes a part again in the backward pass instead of keeping its activations."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.part, x, use_reentrant=False)
        return result


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd", "at", "vat", "pi"])
def test_activation_checkpoints_around_the_layer_change_nothing(method: str) -> None:
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        below: nn.Module = nn.Sequential(nn.Linear(6, 10), nn.Tanh())
        above: nn.Module = nn.Sequential(nn.Linear(10, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
        if checkpointed:
            below, above = Checkpointed(below), Checkpointed(above)
        model = nn.Sequential(below, AdversarialDropout(0.5, 0.3), above).double()
        x, y = batch()
        torch.manual_seed(1)
        loss = METHODS[method]()(model, x, y)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_a_checkpointed_layer_is_refused_because_it_would_draw_another_mask(method: str) -> None:
    head = Checkpointed(nn.Sequential(AdversarialDropout(0.5, 0.3), nn.Linear(10, 3)))
    model = nn.Sequential(nn.Linear(6, 10), head).double()
    x, y = batch()
    with pytest.raises(AdversarialDropoutError, match="leave the layer out of that part"):
        METHODS[method]()(model, x, y)
    model(x).sum().backward()


@pytest.mark.parametrize("method", ["sadd", "at"])
def test_lazy_parameters(method: str) -> None:
    model = nn.Sequential(nn.LazyLinear(10), AdversarialDropout(0.5, 0.3), nn.LazyLinear(3)).double()
    x, y = batch()
    if method == "at":
        with pytest.raises(AdversarialDropoutError, match="lazy ones that have no shape yet; run the model once"):
            METHODS[method]()(model, x, y)
    model(x)
    assert METHODS[method]()(model, x, y) > 0


@pytest.mark.parametrize("method", ["vadd", "sadd"])
def test_a_divergence_without_a_graph(method: str) -> None:
    x, y = batch()
    with pytest.raises(AdversarialDropoutError, match="can be differentiated"):
        METHODS[method](divergence=lambda target, prediction: prediction.detach().sum(dim=1))(build().model, x, y)


@pytest.mark.parametrize("make", [VirtualAdversarialDropout, SupervisedAdversarialDropout])
def test_no_unit_matters(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    last = nn.Linear(10, 3)
    nn.init.zeros_(last.weight)
    model = nn.Sequential(nn.Linear(6, 10), AdversarialDropout(0.5, 0.3), last)
    x, y = torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
    reg = make()
    target = torch.randn(5, 3)
    with pytest.warns(AdversarialDropoutWarning, match="Jacobian is zero everywhere"):
        reg(model, x, y, target=target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reg(model, x, y, target=target)


def test_no_labelled_row_is_no_reason_to_warn() -> None:
    x, y = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SupervisedAdversarialDropout()(build().model, x, torch.full_like(y, -1))


@pytest.mark.parametrize("method", ["vadd", "sadd", "pi", "entropy"])
def test_x_is_a_tensor(method: str) -> None:
    x, y = batch()
    with pytest.raises(AdversarialDropoutError, match="expected x to be a tensor, got dict; wrap the model"):
        METHODS[method]()(build().model, {"x": x}, y)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_sequential_with_a_backward_hook_stays_whole() -> None:
    fired = []
    net = build()
    net.model.register_full_backward_hook(lambda *_: fired.append(1))
    VirtualAdversarialDropout()(net.model, batch()[0].requires_grad_()).backward()
    assert fired

"""Models with activation checkpoints, lazy parameters, shared modules, wrappers; searches that can flip nothing."""

import contextlib
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialDropoutError,
    AdversarialDropoutWarning,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
)

from .recording import METHODS, batch, build, in_form


class Checkpointed(nn.Module):
    """Recomputes its part in the backward pass instead of storing the activations."""

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


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_sequential_with_a_backward_hook_stays_whole() -> None:
    fired = []
    net = build()
    net.model.register_full_backward_hook(lambda *_: fired.append(1))
    VirtualAdversarialDropout()(net.model, batch()[0].requires_grad_()).backward()
    assert fired


class Wrapper(nn.Module):
    """Has the attributes of the model inside it, but another forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 5 * self.inner(x)
        return logits

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)  # type: ignore[no-any-return]


def test_a_wrapper_with_the_attributes_of_its_model_is_not_cut() -> None:
    inner = in_form("methods", [nn.Linear(6, 10)], [AdversarialDropout(0.5, 0.3), nn.Linear(10, 3)]).double()
    losses = []
    for wrapped in (Wrapper(inner), nn.Sequential(Wrapper(inner), nn.Identity())):
        torch.manual_seed(1)
        losses.append(VirtualAdversarialDropout()(wrapped, batch()[0]).item())
    torch.manual_seed(1)
    assert losses[0] == losses[1] != VirtualAdversarialDropout()(inner, batch()[0]).item()


def test_children_of_a_sequential_may_be_called_under_and_upper() -> None:
    parts = OrderedDict(
        under=nn.Linear(6, 10),
        middle=nn.Sequential(nn.Linear(10, 10), nn.Tanh()),
        upper=nn.Sequential(AdversarialDropout(0.5, 0.3), nn.Linear(10, 3)),
    )
    losses = []
    for model in (nn.Sequential(parts), nn.Sequential(*parts.values())):
        torch.manual_seed(1)
        losses.append(VirtualAdversarialDropout()(model.double(), batch()[0]).item())
    assert losses[0] == losses[1]


class Shared(nn.Module):
    """One normalisation under two names, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.layer = nn.Linear(6, 6), nn.Linear(6, 6), AdversarialDropout(0.5, 0.4)
        self.second.weight = self.first.weight
        self.norm = self.same_norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.same_norm(self.second(self.layer(self.norm(self.first(x)))))
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_shared_modules_and_weights_stay_shared(method: str) -> None:
    model = Shared().double()
    before = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    METHODS[method]()(model, *batch()).backward()
    after = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    assert before.keys() == after.keys()
    assert all(after[name] is tensor for name, tensor in before.items())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["sadd", "vat", "at", "vadd"])
def test_cached_parametrizations_keep_their_gradients(method: str) -> None:
    last = nn.utils.parametrizations.weight_norm(nn.Linear(10, 3))
    model = nn.Sequential(nn.Linear(6, 10), AdversarialDropout(0.5, 0.3), last).double()
    gradients = []
    for use_cache in (False, True):
        torch.manual_seed(1)
        with parametrize.cached() if use_cache else contextlib.nullcontext():
            loss = METHODS[method]()(model, *batch())
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for plain, cached in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, cached)


def test_pi_without_noise_is_0_also_with_an_in_place_start() -> None:
    model = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(6, 3)).double()
    x = batch()[0]
    before = x.clone()
    with pytest.warns(AdversarialDropoutWarning, match="both passes gave the same predictions"):
        assert METHODS["pi"]()(model, x).item() == 0
    assert torch.equal(x, before)


def test_a_shared_head_may_reorder_memory_but_not_compute() -> None:
    h = torch.randn(5, 4, 3, 3).to(memory_format=torch.channels_last)
    head = nn.Sequential(nn.Flatten(), AdversarialDropout(0.5, 0.3), nn.Linear(36, 3))
    assert VirtualAdversarialDropout(noise="shared")(head, h, target=head(h)) > 0
    noisy = nn.Sequential(nn.Dropout(0.5, inplace=True), AdversarialDropout(0.5, 0.3), nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(AdversarialDropoutError, match="reg\\(head, h, target=out\\)"):
        VirtualAdversarialDropout(noise="shared")(noisy, h, target=noisy(h.clone()))


def test_large_outputs_that_differ_are_searched() -> None:
    model = nn.Sequential(nn.Linear(6, 10), AdversarialDropout(0.5, 0.3), nn.Linear(10, 3)).double()

    def squared_error(target: Tensor, prediction: Tensor) -> Tensor:
        return (target - prediction).square().sum(dim=1)

    x = batch()[0]
    model.eval()
    nn.init.constant_(model[2].bias, 1000.0)  # type: ignore[arg-type]
    target = model(x).detach() + 5e-4
    values = VirtualAdversarialDropout(divergence=squared_error)(model, x, target=target)
    assert values > 1e-3


def test_a_target_holds_logits() -> None:
    with pytest.raises(AdversarialDropoutError, match=r"target to be model\(x\), or the logits in it.*got tuple"):
        VirtualAdversarialDropout()(build().model, batch()[0], target=(torch.zeros(5, 3),))


def test_integer_targets_of_another_shape_are_passed_to_the_divergence() -> None:
    def per_position(target: Tensor, prediction: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target, reduction="none").mean(dim=1)

    model = nn.Sequential(AdversarialDropout(0.5, 0.3), nn.Conv1d(4, 3, 1))
    x, y = torch.randn(2, 4, 7), torch.randint(3, (2, 7))
    assert SupervisedAdversarialDropout(divergence=per_position)(model, x, y) > 0


def test_the_default_device_does_not_matter_to_the_seed() -> None:
    model = build().model
    x = batch()[0]
    with torch.device("meta"):
        assert VirtualAdversarialDropout()(model, x) > 0


def test_global_hooks_of_modules_see_tensors() -> None:
    model = nn.Sequential(nn.Linear(4, 20), AdversarialDropout(0.5, 0.2), nn.Linear(20, 3))
    seen: list[object] = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        VirtualAdversarialDropout()(model, torch.randn(6, 4))
    finally:
        hook.remove()
    assert len(seen) > 3
    outputs = [output for output in seen if not isinstance(output, Tensor)]
    assert not outputs


@pytest.mark.parametrize("method", ["vadd", "sadd", "at", "vat"])
def test_torchscript_is_refused_and_unchanged(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)))
    model = nn.Sequential(nn.Linear(6, 10), AdversarialDropout(0.5, 0.3), scripted, nn.Linear(3, 3)).double()
    x, y = batch()
    with pytest.raises(AdversarialDropoutError, match="got TorchScript; use the module that it was made from"):
        METHODS[method]()(model, x, y)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(x).sum().backward()

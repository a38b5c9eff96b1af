"""Mean-only batch normalisation: a case by hand, its formula with gradients, and its buffers under a regulariser."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialTraining,
    EntropyMinimization,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.regularizers.base import Regularizer

SHAPES = [(5, 3), (2, 3, 4, 5), (1, 3, 2, 1), (4, 3, 1, 1)]


def two_channels(momentum: float = 0.25) -> MeanOnlyBatchNorm:
    norm = MeanOnlyBatchNorm(2, momentum)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 1.0]))
    return norm


def as_images(rows: list[list[float]]) -> Tensor:
    """Rows of channels as one image, a pixel a row."""
    return torch.tensor(rows).T.reshape(1, len(rows[0]), len(rows), 1)


@pytest.mark.parametrize("form", [torch.tensor, as_images])
def test_by_hand(form: Any) -> None:
    norm = two_channels()
    # Means 2 and 4.
    assert torch.equal(norm(form([[1.0, 2.0], [3.0, 6.0]])), form([[-1.5, 3.0], [2.5, -1.0]]))
    assert norm.running_mean.tolist() == [0.5, 1.0]  # A quarter of the way from 0.
    # Means 6 and 2.
    assert torch.equal(norm(form([[5.0, 0.0], [7.0, 4.0]])), form([[-1.5, 3.0], [2.5, -1.0]]))
    assert norm.running_mean.tolist() == [1.875, 1.25]
    assert int(norm.num_batches_tracked) == 2
    # 2 (1 - 1.875) + 0.5 and -(1 - 1.25) + 1, whatever else is in the batch.
    norm.eval()
    assert torch.equal(norm(form([[1.0, 1.0]])), form([[-1.25, 1.25]]))
    assert torch.equal(norm(form([[1.0, 1.0], [9.0, 9.0]])), form([[-1.25, 1.25], [14.75, -6.75]]))
    assert norm.running_mean.tolist() == [1.875, 1.25]
    assert int(norm.num_batches_tracked) == 2


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, [0.0, 0.0]), (1.0, [6.0, 2.0])])
def test_the_ends_of_the_momentum(momentum: float, expected: list[float]) -> None:
    norm = two_channels(momentum)
    norm(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    norm(torch.tensor([[5.0, 0.0], [7.0, 4.0]]))
    assert norm.running_mean.tolist() == expected


def test_it_starts_as_the_subtraction_of_the_mean() -> None:
    norm = MeanOnlyBatchNorm(3)
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(norm(x), x - x.mean(dim=(0, 2, 3), keepdim=True))
    assert torch.equal(MeanOnlyBatchNorm(3).eval()(x), x)
    names = ["weight", "bias", "running_mean", "num_batches_tracked"]
    assert list(norm.state_dict()) == names
    assert repr(norm) == "MeanOnlyBatchNorm(3, momentum=0.1)"


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_go_through_the_mean(shape: tuple[int, ...]) -> None:
    norm = MeanOnlyBatchNorm(3).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    x, upstream = torch.randn(shape).double().requires_grad_(), torch.randn(shape).double()
    y = norm(x)
    by_x, by_scale, by_shift = torch.autograd.grad((y * upstream).sum(), (x, norm.weight, norm.bias))

    # One channel after the other, on paper: ∂y_i / ∂x_j = γ (δ_ij - 1 / n).
    for channel in range(3):
        own, g = x.detach()[:, channel], upstream[:, channel]
        scale, shift = norm.weight[channel].detach(), norm.bias[channel].detach()
        n, mean = own.numel(), own.sum() / own.numel()
        torch.testing.assert_close(y[:, channel].detach(), scale * (own - mean) + shift, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(by_x[:, channel], scale * (g - g.sum() / n), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(by_scale[channel], (g * (own - mean)).sum(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(by_shift[channel], g.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(shape: tuple[int, ...], training: bool) -> None:
    norm = MeanOnlyBatchNorm(3).double().train(training)
    norm.running_mean.normal_()

    def apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        return y

    arguments = [torch.randn(size).double().requires_grad_() for size in (shape, (3,), (3,))]
    assert torch.autograd.gradcheck(apply, arguments)
    assert torch.autograd.gradgradcheck(apply, arguments)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 5, 5), (4, 2, 7), (2,), (2, 2, 2, 2, 2)])
def test_inputs_of_another_shape(shape: tuple[int, ...]) -> None:
    norm = MeanOnlyBatchNorm(2)
    with pytest.raises(InvalidValueError, match=r"expected shape \(N, 2\) or \(N, 2, H, W\), got \(\d"):
        norm(torch.rand(shape))
    assert not norm.running_mean.any()
    assert int(norm.num_batches_tracked) == 0


def test_memory_format_is_kept() -> None:
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert MeanOnlyBatchNorm(3)(x).is_contiguous(memory_format=torch.channels_last)


METHODS: dict[str, Regularizer] = {
    "at": AdversarialTraining(),
    "vat": VirtualAdversarialTraining(),
    "pi": PiModel(),
    "sadd": SupervisedAdversarialDropout(),
    "vadd": VirtualAdversarialDropout(),
    "vadd-shared": VirtualAdversarialDropout(noise="shared"),
    "entropy": EntropyMinimization(),
}


def network(norm: type[nn.Module], place: str) -> tuple[nn.Sequential, nn.Module]:
    """A network with one normalisation, in front of everything or right behind the dropout layer."""
    torch.manual_seed(0)
    below = [norm(6)] if place == "below" else []
    above = [norm(10)] if place == "above" else []
    model = nn.Sequential(
        *below, nn.Linear(6, 10), nn.Softplus(), AdversarialDropout(0.5, 0.3), *above, nn.Tanh(), nn.Linear(10, 3)
    )
    return model.double(), (below or above)[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["below", "above"])
def test_regularisers_count_its_batches_as_those_of_batch_norm(method: str, place: str) -> None:
    x, y = torch.randn(8, 6).double(), torch.arange(8) % 3
    kept = []
    for kind in (MeanOnlyBatchNorm, nn.BatchNorm1d):
        model, norm = network(kind, place)
        torch.manual_seed(1)
        METHODS[method](model, x, y)
        kept.append(dict(norm.named_buffers()))
    ours, theirs = kept
    assert torch.equal(ours["num_batches_tracked"], theirs["num_batches_tracked"])
    if place == "below":  # What comes in is the same; behind the layer the masks found differ.
        torch.testing.assert_close(ours["running_mean"], theirs["running_mean"], rtol=1e-12, atol=0)
        assert ours["running_mean"].any() == (method != "at")


@pytest.mark.parametrize("method", ["vat", "at", "entropy"])
@pytest.mark.parametrize("place", ["below", "above"])
def test_passes_that_do_not_count_leave_its_buffers_as_they_were(method: str, place: str) -> None:
    model, norm = network(MeanOnlyBatchNorm, place)
    x, y = torch.randn(8, 6).double(), torch.arange(8) % 3
    target = model(x)
    before, objects = copy.deepcopy(dict(norm.named_buffers())), dict(norm.named_buffers())
    loss = METHODS[method](model, x, y, target=target)
    torch.autograd.grad(loss, list(model.parameters()))
    for name, buffer in norm.named_buffers():
        assert buffer is objects[name], "a buffer was replaced by another tensor"
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_the_search_leaves_its_buffers_as_they_were(noise: Any) -> None:
    model, norm = network(MeanOnlyBatchNorm, "above")
    assert isinstance(norm, MeanOnlyBatchNorm)
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    VirtualAdversarialDropout(noise=noise)(model, torch.randn(8, 6).double())
    target, _, adversarial = seen
    expected = torch.zeros(10, dtype=torch.float64)
    for rows in (target, adversarial):
        expected = 0.9 * expected + 0.1 * rows.sum(dim=0) / 8
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-12, atol=0)
    assert int(norm.num_batches_tracked) == 2


@pytest.mark.parametrize("training", [True, False])
def test_half_precision_stays_half(training: bool) -> None:
    """The statistics are taken in the parameters' precision."""
    norm = MeanOnlyBatchNorm(3, 0.5).train(training)
    x = torch.randn(64, 3, 4, 4).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    if training:
        expected = 0.5 * x.float().mean(dim=(0, 2, 3))
        torch.testing.assert_close(norm.running_mean, expected, rtol=0, atol=1e-6)

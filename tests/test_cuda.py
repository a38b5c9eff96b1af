"""What differs on a GPU: ties, generators, devices. Skipped where there is none."""

import pytest
import torch
from torch import nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialTraining,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
    adversarial_mask,
    sample_mask,
)
from adversarial_dropout.regularizers.base import Regularizer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), AdversarialDropout(0.5, 0.05), nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("units", [1, 7, 2048, 65536])
def test_ties_go_to_the_lower_index_as_on_the_cpu(units: int) -> None:
    mask = torch.rand(64, units) < 0.5
    jacobian = torch.randint(-2, 3, (64, units)).float()
    for flips in (1, 5, units):
        here = adversarial_mask(mask, jacobian, max_flips=flips)
        there = adversarial_mask(mask.cuda(), jacobian.cuda(), max_flips=flips)
        assert torch.equal(here, there.cpu())


@pytest.mark.parametrize(
    "regularizer",
    [
        VirtualAdversarialDropout(),
        VirtualAdversarialDropout(noise="shared", divergence="qe"),
        SupervisedAdversarialDropout(),
        AdversarialTraining(),
        VirtualAdversarialTraining(),
        PiModel(),
    ],
    ids=repr,
)
def test_same_seed_same_loss_and_gradients(regularizer: Regularizer) -> None:
    model = network().cuda()
    x, y = torch.randn(32, 8).cuda(), torch.randint(3, (32,)).cuda()

    def call() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        loss = regularizer(model, x, y)
        return (loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    for first, second in zip(call(), call(), strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()


def test_search_leaves_the_generator_of_the_device_as_it_was() -> None:
    model = network().cuda()
    x = torch.randn(32, 8).cuda()
    (layer,) = (module for module in model if isinstance(module, AdversarialDropout))
    states = []
    for delta in (0.0, 0.05):
        layer.delta = delta
        torch.manual_seed(0)
        VirtualAdversarialDropout()(model, x)
        states.append(torch.cuda.get_rng_state())
    assert torch.equal(*states)


def test_masks_and_errors() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    assert sample_mask((4, 5), 0.5, generator=generator).is_cuda
    with pytest.raises(ValueError, match="finite"):
        adversarial_mask(torch.ones(2, 3).cuda(), torch.full((2, 3), torch.nan).cuda(), max_flips=1)

"""The study's search, which linearises at the base mask, and that of the package, against the search written out."""

import pytest
import torch
from search_steps import AtBase
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialDropoutWarning,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    adversarial_mask,
    flip_budget,
    kl_divergence,
    sample_mask,
)
from adversarial_dropout.regularizers.search import Search
from adversarial_dropout.regularizers.virtual_adversarial_dropout import NoiseMode

UNITS = 12
KINDS = (Search, AtBase)


def model(p: float = 0.5, **settings: object) -> nn.Sequential:
    torch.manual_seed(0)
    layer = AdversarialDropout(p, 0.3, **settings)  # type: ignore[arg-type]
    return nn.Sequential(nn.Linear(5, UNITS), nn.ReLU(), layer, nn.Linear(UNITS, 4)).double()


def vadd(search: type[Search], noise: NoiseMode = "independent") -> VirtualAdversarialDropout:
    regularizer = VirtualAdversarialDropout(noise=noise, reduction="none")
    regularizer.search = search
    return regularizer


def written_out(network: nn.Sequential, h: Tensor, base: Tensor, target: Tensor, at: Tensor) -> Tensor:
    """Divergence under the mask of Algorithm 1, linearised at ``at`` without the rescaling."""
    head = network[-1]
    leaf = at.double().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(kl_divergence(target.detach(), head(h.detach() * leaf)).sum(), leaf)
    found = adversarial_mask(base, jacobian, max_flips=flip_budget(0.3, UNITS))
    return kl_divergence(target, head(h * found / 0.5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_vadd_written_out(kind: type[Search], noise: str) -> None:
    network, x = model(), torch.randn(9, 5, dtype=torch.float64)
    target = network(x)
    layer = network[2]
    assert isinstance(layer, AdversarialDropout)
    assert layer._last_mask is not None
    base = layer._last_mask.clone()
    if noise == "shared":
        values = vadd(kind, noise="shared")(network[2:], network[:2](x), target=target)
    else:
        values = vadd(kind)(network, x, target=target)
    expected = written_out(network, network[:2](x), base, target, base if kind is AtBase else torch.ones(9, UNITS))
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-14)
    ours = torch.autograd.grad(values.sum(), list(network.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(expected.sum(), list(network.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-13)


def test_the_two_points_find_other_masks() -> None:
    network, x = model(), torch.randn(200, 5, dtype=torch.float64)
    values = []
    for kind in KINDS:
        torch.manual_seed(4)
        values.append(vadd(kind)(network, x))
    assert (values[0] != values[1]).double().mean() > 0.2


def test_sadd_written_out() -> None:
    network, x, y = model(), torch.randn(90, 5, dtype=torch.float64), torch.arange(90) % 4
    torch.manual_seed(7)
    seed = int(torch.randint(2**62, ()))
    base = sample_mask((90, UNITS), 0.5, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(7)
    sadd = SupervisedAdversarialDropout(divergence="kl", reduction="none")
    sadd.search = AtBase
    values = sadd(network, x, y)
    expected = written_out(network, network[:2](x), base, y, base)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-14)
    torch.manual_seed(7)
    at_ones = SupervisedAdversarialDropout(divergence="kl", reduction="none")(network, x, y)
    assert not torch.equal(values, at_ones)


@pytest.mark.parametrize("mode", ["p = 0", "evaluation"])
def test_with_all_units_kept_the_points_are_the_same(mode: str) -> None:
    network, x = model(0.0 if mode == "p = 0" else 0.5), torch.randn(9, 5, dtype=torch.float64)
    network.train(mode == "p = 0")
    target = network(x + 0.1)
    values = [vadd(kind)(network, x, target=target) for kind in KINDS]
    assert torch.equal(*values)
    assert (values[0] > 0).all()


def test_without_rescaling_the_base_repeats_the_target_pass() -> None:
    network, x = model(rescale="none"), torch.randn(9, 5, dtype=torch.float64)
    with pytest.warns(AdversarialDropoutWarning, match="makes activations smaller"):
        target = network(x)
    with pytest.warns(AdversarialDropoutWarning, match="the search pass repeats the target pass"):
        assert (vadd(AtBase)(network, x, target=target) == 0).all()


def test_random_streams_do_not_depend_on_the_point() -> None:
    after = []
    for kind in KINDS:
        network = nn.Sequential(*model().float(), nn.Dropout(0.3))
        torch.manual_seed(1)
        vadd(kind)(network, torch.randn(6, 5))
        after.append(torch.rand(3))
    assert torch.equal(*after)


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_in_half_precision_and_with_other_units(granularity: str) -> None:
    layer = AdversarialDropout(0.5, 0.25, granularity=granularity)  # type: ignore[arg-type]
    network = nn.Sequential(nn.Conv2d(1, 8, 3), layer, nn.Flatten(), nn.Linear(8 * 36, 3)).bfloat16()
    value = vadd(AtBase)(network, torch.randn(4, 1, 8, 8).bfloat16()).sum()
    value.backward()
    assert value > 0

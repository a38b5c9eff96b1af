"""Random flips: as many as the search makes, uniform over the units, and no other random number changes."""

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout, kl_divergence, sample_mask
from adversarial_dropout.layers import Granularity
from adversarial_dropout.regularizers.random_flips import RandomFlips, random_flips
from adversarial_dropout.regularizers.search import Search, generators_of_a_search


def test_so_many_of_each_row() -> None:
    flips = torch.tensor([0, 3, 7, 1])
    assert random_flips(flips, 7).sum(dim=1).tolist() == [0, 3, 7, 1]


def test_each_unit_is_as_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = random_flips(torch.full((20_000,), 2), 5, generator).double().mean(dim=0)
    # Five standard errors of a share of 2/5.
    assert float((counts - 0.4).abs().max()) < 5 * (0.4 * 0.6 / 20_000) ** 0.5


def model(granularity: Granularity = "element") -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.Tanh(), AdversarialDropout(0.5, 0.2, granularity=granularity)]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Flatten(), nn.Linear(6 * 9, 4))


def searched(kind: type[Search], granularity: Granularity = "element") -> tuple[Search, Tensor]:
    """A step with that search from seed 1; and the next random number."""
    network, x = model(granularity), torch.linspace(-1, 1, 8 * 25).view(8, 1, 5, 5)
    torch.manual_seed(1)
    search = kind(network, x)
    h = search.under_pass(x)
    target = search.base_pass(h)
    search.find(h, target, kl_divergence)
    search.adversarial_pass(h)
    return search, torch.rand(1)


@pytest.mark.parametrize("granularity", ["element", "channel"])
def test_as_many_flips_as_the_search_makes(granularity: Granularity) -> None:
    (found, after), (random, after_random) = (searched(kind, granularity) for kind in (Search, RandomFlips))
    (one,), (other,) = found.masks, random.masks
    assert one.base is not None
    assert one.found is not None
    assert other.base is not None
    assert other.found is not None
    assert torch.equal(one.base, other.base)
    assert torch.equal(after, after_random), "no other random number has changed"
    flips, random_ones = ((masks.base ^ masks.found).flatten(1) for masks in (one, other))  # type: ignore[operator]
    assert flips.any()
    assert torch.equal(flips.sum(dim=1), random_ones.sum(dim=1))
    assert not torch.equal(flips, random_ones)
    again, _ = searched(RandomFlips, granularity)
    assert torch.equal(other.found, again.masks[0].found)  # type: ignore[arg-type]


def test_flips_have_a_generator_of_their_own() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    asked: list[int] = []

    def give(number: int) -> list[torch.Generator]:
        asked.append(number)
        return generators

    token = generators_of_a_search.set(give)
    try:
        search, _ = searched(RandomFlips)
    finally:
        generators_of_a_search.reset(token)
    assert asked == [2]
    (masks,) = search.masks
    assert masks.base is not None
    assert masks.found is not None
    base = sample_mask(tuple(masks.base.shape), 0.5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(masks.base, base)
    flipped = (masks.base ^ masks.found).flatten(1)
    expected = random_flips(flipped.sum(dim=1), 54, torch.Generator().manual_seed(8))
    assert torch.equal(flipped, expected)


def test_flips_are_independent_of_the_base_mask() -> None:
    kept: list[float] = []
    for seed in range(300):
        network, x = model(), torch.linspace(-1, 1, 8 * 25).view(8, 1, 5, 5)
        torch.manual_seed(seed)
        search = RandomFlips(network, x)
        h = search.under_pass(x)
        search.find(h, search.base_pass(h), kl_divergence)
        (masks,) = search.masks
        assert masks.base is not None
        assert masks.found is not None
        kept.append(float(masks.base[masks.base ^ masks.found].double().mean()))
    # p = 0.5; 300 searches of 8 · 10 flips.
    assert abs(sum(kept) / len(kept) - 0.5) < 5 * (0.25 / (300 * 80)) ** 0.5


def test_a_regulariser_with_random_flips_reaches_less() -> None:
    values = []
    for search in (Search, RandomFlips):
        vadd = VirtualAdversarialDropout(divergence="kl")
        vadd.search = search
        torch.manual_seed(0)
        network, x = model(), torch.randn(256, 1, 5, 5)
        values.append(float(vadd(network, x).detach()))
    assert values[0] > 1.2 * values[1] > 0

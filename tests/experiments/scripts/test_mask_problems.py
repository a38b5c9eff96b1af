"""Searches for the worst mask, against all masks of tiny layers and against the search of the regularisers."""

import dataclasses
import itertools
from functools import partial
from typing import Any, cast

import mask_problems
import pytest
import torch
from mask_problems import (
    ALGORITHM_1,
    AT_FOUND,
    EXACT,
    SEARCHES,
    MaskProblem,
    Point,
    SearchResult,
    compare,
    greedy,
    linearised,
    no_flip,
    random_flips,
    worst_masks,
)
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, cross_entropy, kl_divergence, quadratic_error
from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.regularizers.search import Search

N = 6
DIVERGENCES = {"kl": kl_divergence, "qe": quadratic_error, "ce": cross_entropy}


def head(units: int, hidden: int = 5) -> nn.Module:
    """From units to 3 logits; linear with ``hidden=0``."""
    layers = [nn.Linear(units, hidden), nn.ReLU(), nn.Linear(hidden, 3)] if hidden else [nn.Linear(units, 3)]
    network = nn.Sequential(*layers).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def problem(divergence: str = "kl", *, units: int = 7, k: int = 3, hidden: int = 5, seed: int = 0) -> MaskProblem:
    """Random units and masks; the target is what εˢ gives, or, for ``"ce"``, labels."""
    torch.manual_seed(seed)
    upper, h, base = head(units, hidden), torch.randn(N, units).double().relu(), torch.rand(N, units) < 0.5
    target = torch.randint(3, (N,)) if divergence == "ce" else upper(2 * h * base).detach()
    return MaskProblem(upper, h, base, target, DIVERGENCES[divergence], k, 2.0)


def linear_problem(k: int, *, scale: float = 2.0) -> MaskProblem:
    """D is linear in the mask: the negative output of a linear head."""

    def negative(target: Tensor, prediction: Tensor) -> Tensor:
        return -prediction[:, 0]

    return dataclasses.replace(problem(k=k, hidden=0), divergence=negative, scale=scale)


def all_values(task: MaskProblem, example: int) -> dict[tuple[bool, ...], float]:
    """D of one example under every mask within the budget, one mask at a time."""
    values = {}
    for mask in itertools.product((False, True), repeat=task.h.shape[1]):
        flips = sum(new != old for new, old in zip(mask, task.base[example].tolist(), strict=True))
        if flips <= task.max_flips:
            masked = task.scale * task.h[example : example + 1] * torch.tensor(mask)
            with torch.no_grad():
                found = task.divergence(task.target[example : example + 1], task.upper(masked))
            values[mask] = float(found)
    return values


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("k", [0, 1, 3, 7])
def test_the_worst_mask_is_that_of_all_masks(divergence: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_problems, "_AT_ONCE", 10)
    task = problem(divergence, k=k)
    for example, mask in enumerate(worst_masks(task)):
        values = all_values(task, example)
        assert values[tuple(mask.tolist())] == pytest.approx(max(values.values()), rel=1e-12, abs=1e-15)


def test_among_equal_masks_the_one_with_the_fewest_flips_is_the_worst() -> None:
    task = dataclasses.replace(problem(), h=torch.zeros(N, 7).double())
    assert torch.equal(worst_masks(task), task.base)


def test_values() -> None:
    task = problem("qe")
    assert task.values(task.base).tolist() == pytest.approx([0.0] * N, abs=1e-15)
    masks = ~task.base
    one_by_one = torch.cat([task.values_of(example, masks[example : example + 1]) for example in range(N)])
    torch.testing.assert_close(task.values(masks), one_by_one)
    torch.testing.assert_close(one_by_one, quadratic_error(task.target, task.upper(2 * task.h * masks)))
    assert not one_by_one.requires_grad


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("rescaled", [True, False])
def test_jacobian_against_differences(divergence: str, rescaled: bool) -> None:
    task = problem(divergence)
    at = torch.rand(N, 7).double()
    step, factor = 1e-6, 2.0 if rescaled else 1.0
    found = task.jacobian(at, rescaled=rescaled)
    for unit in range(7):
        move = step * torch.eye(7).double()[unit]
        up, down = (task.divergence(task.target, task.upper(factor * task.h * (at + sign * move))) for sign in (1, -1))
        torch.testing.assert_close(found[:, unit], ((up - down) / (2 * step)).detach(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("hidden", [0, 5])
def test_no_search_leaves_the_budget_or_beats_the_maximum(name: str, divergence: str, hidden: int) -> None:
    task = problem(divergence, hidden=hidden, seed=3)
    untouched = task.base.clone()
    found = SEARCHES[name](task)
    assert found.masks.dtype == torch.bool
    assert (found.masks ^ task.base).sum(dim=1).max() <= task.max_flips
    assert torch.equal(task.base, untouched)
    share = compare(task, {name: SEARCHES[name]})[name]
    assert share.shape == (N,)
    assert share.max() <= 1 + 1e-9
    assert share.min() >= -1e-9
    assert all(parameter.grad is None for parameter in cast(nn.Module, task.upper).parameters())


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("search", [linearised, greedy, partial(linearised, points=(ALGORITHM_1, AT_FOUND))])
def test_a_linear_divergence_is_solved_exactly(search: mask_problems.SearchFunction, k: int) -> None:
    task = linear_problem(k)
    torch.testing.assert_close(task.values(search(task).masks), task.values(worst_masks(task)))


@pytest.mark.parametrize("divergence", ["kl", "qe"])
def test_the_gradient_at_the_base_mask_is_zero_only_with_rescaling_and_without_labels(divergence: str) -> None:
    task = problem(divergence)
    assert task.jacobian(task.base).abs().max() < 1e-14
    assert task.jacobian(task.base, rescaled=False).abs().max() > 1e-3
    labelled = problem("ce")
    assert labelled.jacobian(labelled.base).abs().max() > 1e-3


@pytest.mark.parametrize("divergence", ["kl", "ce"])
def test_steps_behind_a_linear_head_never_lower_a_convex_divergence(divergence: str) -> None:
    rose = 0
    for seed in range(10):
        # With a factor that J must have: without it, steps do lower D here.
        task = dataclasses.replace(problem(divergence, units=30, hidden=0, seed=seed), scale=6.0)
        reached = [task.values(linearised(task, points=(ALGORITHM_1, *[AT_FOUND] * more)).masks) for more in range(4)]
        for before, after in itertools.pairwise(reached):
            assert (after >= before - 1e-12).all()
            rose += int((after > before + 1e-9).sum())
    assert rose > 0


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_best_of_the_steps(divergence: str) -> None:
    task = problem(divergence, units=12, seed=1)
    points = (Point("base", rescaled=False), AT_FOUND, Point("found", rescaled=False))
    each = torch.stack([task.values(linearised(task, points=points[:steps]).masks) for steps in (1, 2, 3)])
    best = linearised(task, points=points, keep="best")
    assert torch.equal(task.values(best.masks), each.amax(dim=0))
    assert (best.gradients, best.forwards) == (3, 2)
    last = linearised(task, points=points)
    assert torch.equal(task.values(last.masks), each[-1])
    assert (last.gradients, last.forwards) == (3, 0)


def test_greedy_flips_one_unit_at_a_time() -> None:
    for seed in range(5):
        steps = [greedy(problem("ce", k=k, seed=seed)) for k in range(5)]
        assert [found.gradients for found in steps] == [0, 1, 2, 3, 4]
        for before, after in itertools.pairwise(found.masks for found in steps):
            assert ((before ^ after).sum(dim=1) <= 1).all()
        task = problem("ce", k=1, seed=seed)
        assert torch.equal(steps[1].masks, linearised(task).masks)
        # The second flip is the best first-order one at the mask with the first, among the units not flipped yet.
        jacobian = task.jacobian(steps[1].masks)
        gain = ((1 - 2 * steps[1].masks.double()) * jacobian).masked_fill(steps[1].masks ^ task.base, 0)
        taken = (gain * (steps[2].masks ^ steps[1].masks)).sum(dim=1)
        torch.testing.assert_close(taken, gain.amax(dim=1).clamp(min=0))


def test_random_flips() -> None:
    task = problem(units=30, k=4)
    one = random_flips(task, masks=1)
    assert ((one.masks ^ task.base).sum(dim=1) == 4).all()
    assert not torch.equal(one.masks, random_flips(task, masks=1, seed=1).masks)
    assert torch.equal(one.masks, random_flips(task, masks=1).masks)
    many = random_flips(task, masks=50)
    assert (many.gradients, many.forwards) == (0, 50)
    assert (task.values(many.masks) >= task.values(one.masks)).all()
    flat = dataclasses.replace(task, divergence=lambda target, prediction: prediction.new_zeros(len(prediction)))
    counts = sum((random_flips(flat, masks=1, seed=seed).masks ^ task.base).sum(dim=0) for seed in range(200))
    assert isinstance(counts, Tensor)
    assert counts.min() > 160 * 0.6  # 200 · 6 · 4 / 30 = 160 expected
    assert counts.max() < 160 * 1.4


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize("p", [0.5, 0.2])
def test_algorithm_1_is_what_the_regularisers_search_with(p: float, supervised: bool) -> None:
    torch.manual_seed(0)
    layer = AdversarialDropout(p, 0.25)
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), layer, nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    x, y = torch.randn(40, 8).double(), torch.randint(4, (40,))
    divergence: Divergence = cross_entropy if supervised else kl_divergence
    with torch.no_grad():
        search = Search(model, x)
        h = cast(Tensor, search.under_pass(x))
        target = y if supervised else search.base_pass(h)
        search.find(h, target, divergence)
        after = search.adversarial_pass(h)
    base, found = cast(Tensor, search.masks[0].base), cast(Tensor, search.masks[0].found)
    task = MaskProblem(model[3:], h, base, target, divergence, 5, 1 / (1 - p))
    own = linearised(task)
    assert torch.equal(own.masks, found)
    assert (found != base).any()
    torch.testing.assert_close(task.values(own.masks), divergence(target, after))
    assert (own.gradients, own.forwards) == (1, 0)


def test_shares() -> None:
    task = problem("qe", k=2, seed=2)
    searches = {"none": no_flip, "worst": lambda task: SearchResult(worst_masks(task)), "Algorithm 1": linearised}
    shares = compare(task, searches)
    assert list(shares) == list(searches)
    assert shares["none"].abs().max() < 1e-12
    assert (shares["worst"] >= EXACT).all()
    most = task.values(worst_masks(task))
    torch.testing.assert_close(shares["Algorithm 1"], task.values(linearised(task).masks) / most)
    assert shares["Algorithm 1"].min() < EXACT


def test_without_all_masks_the_largest_found_stands_for_the_maximum() -> None:
    task = problem("kl", units=40, k=10)
    shares = compare(task, exhaustive=False)
    assert torch.equal(torch.stack(list(shares.values())).amax(dim=0), torch.ones(N).double())


def test_where_no_unit_matters_nothing_is_missed() -> None:
    task = dataclasses.replace(problem("qe"), h=torch.zeros(N, 7).double())
    assert all((share == 1).all() for share in compare(task).values())


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"h": torch.zeros(N, 7, 1)}, InvalidValueError, r"h to have shape \(N, H\) with N > 0, got \(6, 7, 1\)"),
        ({"h": torch.zeros(0, 7)}, InvalidValueError, r"got \(0, 7\)"),
        ({"h": torch.zeros(N, 7, dtype=torch.long)}, InvalidTypeError, "floating h.*got torch.int64"),
        ({"base": torch.zeros(N, 7)}, InvalidTypeError, "bool base.*torch.float32; use base.bool"),
        ({"base": torch.zeros(N, 8, dtype=torch.bool)}, InvalidValueError, r"base of shape \(6, 7\).*got \(6, 8\)"),
        ({"target": torch.zeros(5, 3)}, InvalidValueError, r"target with 6 rows.*\(5, 3\)"),
        ({"max_flips": 8}, InvalidValueError, "max_flips from 0 to 7.*got 8"),
        ({"max_flips": -1}, InvalidValueError, "max_flips from 0 to 7.*got -1"),
        ({"scale": 0.0}, InvalidValueError, "scale to be finite and above 0, got 0.0"),
    ],
)
def test_problems_that_make_no_sense(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(problem(), **changed)


def test_too_many_masks_to_try() -> None:
    with pytest.raises(
        InvalidValueError, match=r"at most 262,144 masks to try, got 760,099 within 5 flips of 40 units"
    ):
        worst_masks(problem(units=40, k=5))


def test_points_that_make_no_sense() -> None:
    with pytest.raises(InvalidValueError, match=r'begin at "ones" or "base".*found'):
        linearised(problem(), points=(AT_FOUND,))
    with pytest.raises(InvalidValueError, match='begin at "ones"'):
        linearised(problem(), points=())
    with pytest.raises(InvalidValueError, match="keep to be one of last, best"):
        linearised(problem(), keep=cast(Any, "first"))
    with pytest.raises(InvalidValueError, match="mask to be one of ones, base, found"):
        Point(cast(Any, "zeros"), rescaled=True)

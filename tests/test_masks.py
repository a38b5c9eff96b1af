"""``adversarial_mask`` against brute force, a loop and invariances; the budget; the random mask."""

import math
import re
import warnings
from fractions import Fraction
from typing import Any

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from adversarial_dropout import masks
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidTypeError, InvalidValueError
from adversarial_dropout.masks import adversarial_mask, flip_budget, sample_mask

Problem = tuple[list[list[int]], list[list[float]], int]


@st.composite
def problems(draw: st.DrawFn, entries: st.SearchStrategy[float], max_units: int = 8) -> Problem:
    """Masks and Jacobians of one to three examples, and a budget that may exceed the number of units."""
    examples, units = draw(st.integers(1, 3)), draw(st.integers(1, max_units))

    def table(cells: st.SearchStrategy[Any]) -> list[list[Any]]:
        return draw(st.lists(st.lists(cells, min_size=units, max_size=units), min_size=examples, max_size=examples))

    return table(st.integers(0, 1)), table(entries), draw(st.integers(0, units + 2))


few_values = st.integers(-2, 2).map(float)
any_values = st.floats(allow_nan=False, allow_infinity=False, width=32)


def found(masks: list[list[int]], jacobians: list[list[float]], max_flips: int) -> list[list[int]]:
    mask = torch.tensor(masks, dtype=torch.bool)
    result: list[list[int]] = adversarial_mask(mask, torch.tensor(jacobians), max_flips=max_flips).int().tolist()
    return result


def drawn(examples: int, units: int, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    """A random bool mask and Jacobian; with ``ties`` the Jacobian has about five values, zeros among them."""
    mask, jacobian = torch.rand(examples, units) < 0.5, torch.randn(examples, units)
    return mask, jacobian.round() if ties else jacobian


def gains(mask: Tensor, jacobian: Tensor) -> Tensor:
    return (1 - 2 * mask.to(jacobian.dtype)) * jacobian


def assert_equals_loop(mask: Tensor, jacobian: Tensor, max_flips: int) -> None:
    result = adversarial_mask(mask, jacobian, max_flips=max_flips)
    rows = zip(mask.int().tolist(), jacobian.tolist(), strict=True)
    expected = [oracles.algorithm_1(bits, row, max_flips) for bits, row in rows]
    assert result.shape == mask.shape
    assert result.int().tolist() == expected


@pytest.mark.parametrize("entries", [few_values, any_values], ids=["ties", "floats"])
@given(data=st.data())
def test_equals_brute_force(entries: st.SearchStrategy[float], data: st.DataObject) -> None:
    masks, jacobians, k = data.draw(problems(entries))
    for mask, jacobian, result in zip(masks, jacobians, found(masks, jacobians, k), strict=True):
        best = oracles.brute_force_mask(mask, jacobian, k)
        objective = oracles.linearised_objective
        assert objective(result, jacobian) == objective(best, jacobian)
        assert result == best


def test_the_slips_of_the_printed_algorithm() -> None:
    """docs/method.md: from 8 kept units and δH = 2, the printed algorithm flips 5 units that matter little, not 2."""
    mask, jacobian = [1] * 8, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, 8.0]
    letter = oracles.printed_algorithm_1(mask, jacobian, 2)
    assert letter == [0, 0, 0, 0, 0, 1, 1, 1]  # √5 > 2 is the first root above the bound.
    assert oracles.printed_algorithm_1(mask, jacobian, 2, count=True) == [0, 0, 0, 1, 1, 1, 1, 1]
    corrected = oracles.printed_algorithm_1(mask, jacobian, 2, count=True, largest_first=True)
    assert corrected == [1, 1, 1, 1, 0, 0, 0, 1]  # Still one flip too many.
    assert found([mask], [jacobian], 2) == [[1, 1, 1, 1, 1, 0, 0, 1]] == [oracles.brute_force_mask(mask, jacobian, 2)]
    # "No increment in the divergence": no further flip has a positive gain. The last unit has none.
    assert found([mask], [jacobian], 8) == [[0, 0, 0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize(("units", "delta", "counted", "letter"), [(2048, 0.005, 10, 104), (128, 0.05, 6, 40)])
def test_appendix_b_counts_flips(units: int, delta: float, counted: int, letter: int) -> None:
    """The flips that the paper states, and the flips that an L2 norm of at most δH would allow."""
    assert flip_budget(delta, units) == counted
    assert math.floor(Fraction(str(delta)) ** 2 * units**2) == letter


@pytest.mark.parametrize("k", [0, 1, 5, 6, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_brute_force_at_twelve_units(k: int, ties: bool) -> None:
    mask, jacobian = drawn(2, 12, ties=ties)
    expected = [oracles.brute_force_mask(m, j, k) for m, j in zip(mask.int().tolist(), jacobian.tolist(), strict=True)]
    assert found(mask.int().tolist(), jacobian.tolist(), k) == expected


@given(problem=problems(st.one_of(few_values, any_values), max_units=40))
def test_equals_the_algorithm(problem: Problem) -> None:
    masks, jacobians, k = problem
    pairs = zip(masks, jacobians, strict=True)
    assert found(masks, jacobians, k) == [oracles.algorithm_1(mask, jacobian, k) for mask, jacobian in pairs]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("examples", "units", "k"),
    [(0, 7, 2), (1, 1, 1), (1, 300, 20), (4096, 24, 3), (4096, 1, 1), (2, 65536, 327), (1, 65536, 40000), (3, 0, 2)],
)
def test_equals_the_algorithm_at_every_size(examples: int, units: int, k: int, ties: bool) -> None:
    assert_equals_loop(*drawn(examples, units, ties=ties), k)


@pytest.mark.parametrize("k", [1, 7, 50])
def test_permuted_units_give_the_permuted_mask(k: int) -> None:
    mask, jacobian = drawn(16, 100)
    assert all(len(set(row)) == 100 for row in gains(mask, jacobian).tolist()), "the gains must not tie"
    order = torch.randperm(100)
    permuted = adversarial_mask(mask[:, order], jacobian[:, order], max_flips=k)
    assert torch.equal(permuted, adversarial_mask(mask, jacobian, max_flips=k)[:, order])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [0, 1, 10, 64, 1000])
def test_flips_within_the_budget_and_only_for_a_gain(k: int, ties: bool) -> None:
    mask, jacobian = drawn(512, 64, ties=ties)
    flipped = adversarial_mask(mask, jacobian, max_flips=k) != mask
    gain = gains(mask, jacobian)
    assert (gain[flipped] > 0).all()
    assert flipped.sum(dim=1).tolist() == (gain > 0).sum(dim=1).clamp(max=k).tolist()


def test_equal_gains_go_to_the_lower_index() -> None:
    mask = torch.ones(1, 100, dtype=torch.bool)
    jacobian = -torch.ones(1, 100)
    assert (~adversarial_mask(mask, jacobian, max_flips=7)).nonzero()[:, 1].tolist() == list(range(7))
    jacobian[0, [40, 99]] = -2.0
    jacobian[0, :5] = 3.0  # of a kept unit: a loss, however large
    assert (~adversarial_mask(mask, jacobian, max_flips=5)).nonzero()[:, 1].tolist() == [5, 6, 7, 40, 99]


def test_examples_do_not_share_a_budget() -> None:
    mask = torch.ones(3, 4)
    jacobian = torch.tensor([[-9.0, -8.0, -7.0, -6.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, -0.001, 0.0]])
    expected = [[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]]
    assert adversarial_mask(mask, jacobian, max_flips=2).int().tolist() == expected


@pytest.mark.parametrize("jacobian_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_and_arguments_are_untouched(dtype: torch.dtype, jacobian_dtype: torch.dtype) -> None:
    mask, jacobian = drawn(64, 33)
    mask, jacobian = mask.to(dtype), jacobian.to(jacobian_dtype).requires_grad_()
    before = mask.clone(), jacobian.detach().clone()
    for k in (0, 4):
        result = adversarial_mask(mask, jacobian, max_flips=k)
        assert result.dtype == dtype
        assert not result.requires_grad
        assert result.data_ptr() != mask.data_ptr()
        assert ((result == 0) | (result == 1)).all()
        assert torch.equal(mask, before[0])
        assert torch.equal(jacobian, before[1])
        assert jacobian.grad is None
    assert_equals_loop(mask, jacobian.detach(), 4)


def test_float64_is_ranked_in_float64() -> None:
    mask = torch.zeros(3, 3)
    jacobian = torch.tensor(
        [[1.0, 1.0 + 1e-12, 1.0], [1e300, 2e300, 1e299], [0.0, 1e-300, 1e-301]], dtype=torch.float64
    )
    assert adversarial_mask(mask, jacobian, max_flips=1).int().tolist() == [[0, 1, 0]] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_subnormal_gains_count_and_signed_zeros_do_not(dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    jacobian = torch.tensor([[0.0, -0.0, least, 2 * least, -least]], dtype=dtype)
    assert jacobian[0, 2] > 0, "the platform must not flush subnormal numbers"
    dropped, kept = torch.zeros(1, 5), torch.ones(1, 5)
    assert adversarial_mask(dropped, jacobian, max_flips=5).int().tolist() == [[0, 0, 1, 1, 0]]
    assert adversarial_mask(dropped, jacobian, max_flips=1).int().tolist() == [[0, 0, 0, 1, 0]]
    assert adversarial_mask(kept, jacobian, max_flips=5).int().tolist() == [[1, 1, 1, 1, 0]]


def test_largest_float16_values_are_ranked_without_overflow() -> None:
    jacobian = torch.tensor([[65504.0, -65504.0, 65472.0]], dtype=torch.float16)
    assert adversarial_mask(torch.zeros(1, 3), jacobian, max_flips=2).int().tolist() == [[1, 0, 1]]


def test_a_sum_that_overflows_is_no_infinity() -> None:
    jacobian = torch.full((2, 8), 3e38)
    jacobian[1] *= -1
    found = adversarial_mask(torch.tensor([[False] * 8, [True] * 8]), jacobian, max_flips=2)
    assert found.tolist() == [[True] * 2 + [False] * 6, [False] * 2 + [True] * 6]


def test_views_and_expanded_masks() -> None:
    _, jacobian = drawn(9, 5)
    mask = torch.tensor([True, False, True, True, False]).expand(9, 5)
    expected = adversarial_mask(mask.clone(), jacobian, max_flips=2)
    assert torch.equal(adversarial_mask(mask, jacobian.t().contiguous().t(), max_flips=2), expected)


MASK, JACOBIAN = torch.ones(2, 3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("mask", "jacobian", "k", "error", "message"),
    [
        (MASK.long(), JACOBIAN, 1, InvalidTypeError, r"mask to be bool or floating, got torch\.int64"),
        (MASK, JACOBIAN.long(), 1, InvalidTypeError, r"jacobian to be floating, got torch\.int64"),
        (MASK, JACOBIAN.bool(), 1, InvalidTypeError, r"jacobian to be floating, got torch\.bool"),
        (MASK, JACOBIAN, 0.5, InvalidTypeError, r"max_flips to be a whole number, 0 or more, got 0\.5; flip_budget"),
        (MASK, JACOBIAN, True, InvalidTypeError, r"max_flips to be a whole number, 0 or more, got True"),
        (MASK, JACOBIAN, -1, InvalidValueError, r"max_flips to be a whole number, 0 or more, got -1"),
        (MASK[0], JACOBIAN[0], 1, InvalidValueError, r"have shape \(N, H\), got \(3,\); use mask\.flatten\(1\)"),
        (MASK[None], JACOBIAN[None], 1, InvalidValueError, r"mask to have shape \(N, H\), got \(1, 2, 3\)"),
        (MASK, JACOBIAN[:, :2], 1, InvalidValueError, r"the mask's shape \(2, 3\), got \(2, 2\)"),
        (MASK, JACOBIAN[:1], 1, InvalidValueError, r"the mask's shape \(2, 3\), got \(1, 3\)"),
        (MASK, JACOBIAN[0], 1, InvalidValueError, r"the mask's shape \(2, 3\), got \(3,\)"),
        (MASK, JACOBIAN.to("meta"), 1, InvalidValueError, r"on one device, got cpu and meta"),
        (MASK * 2, JACOBIAN, 1, InvalidValueError, r"mask entries 0 and 1, got others; .*before any rescaling"),
        (MASK * math.nan, JACOBIAN, 1, InvalidValueError, r"mask entries 0 and 1"),
    ],
)
def test_bad_arguments(mask: Tensor, jacobian: Tensor, k: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        adversarial_mask(mask, jacobian, max_flips=k)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("k", [0, 1])
def test_jacobian_that_is_not_finite(value: float, k: int) -> None:
    jacobian = torch.zeros(2, 3)
    jacobian[1, 2] = value
    with pytest.raises(InvalidValueError, match=rf"finite jacobian, got {value} at example 1, unit 2"):
        adversarial_mask(MASK, jacobian, max_flips=k)


# flip_budget


def budget(delta: float, units: int) -> int:
    """The budget without the warning that it is 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdversarialDropoutWarning)
        return flip_budget(delta, units)


@given(digits=st.integers(0, 6), numerator=st.integers(0, 10**6), units=st.integers(0, 10**6))
def test_budget_is_the_floor_of_the_decimal_product(digits: int, numerator: int, units: int) -> None:
    delta = numerator % (10**digits + 1) / 10**digits
    assert budget(delta, units) == math.floor(Fraction(str(delta)) * units)


@pytest.mark.parametrize(
    ("delta", "units", "flips"),
    [
        (0.005, 2048, 10),  # the paper's
        (0.05, 128, 6),  # the paper's
        (0.29, 100, 29),  # 28.999999999999996 in floats
        (0.1 + 0.7, 10, 8),  # 0.7999999999999999
        (1 - 0.9, 10, 1),  # 0.09999999999999998
        (0.2899999, 100, 28),  # not noise
        (0.999, 999, 998),
        (0, 100, 0),
        (1, 100, 100),
        (0.5, 1, 0),
    ],
)
def test_budget(delta: float, units: int, flips: int) -> None:
    assert budget(delta, units) == flips


@pytest.mark.parametrize("units", [2, 3, 7, 9, 12, 128, 2048, 9999, 65536])
def test_budget_of_no_flip_warns_and_the_delta_it_names_gives_one(units: int) -> None:
    delta = 0.99 / units
    with pytest.warns(AdversarialDropoutWarning, match=rf"delta={delta} of {units} units allows no flip") as caught:
        assert flip_budget(delta, units) == 0
    assert caught[0].filename == __file__
    named = re.search(r"delta=([0-9.e-]+) or more gives one flip", str(caught[0].message))
    assert named is not None
    assert budget(float(named[1]), units) == 1


@pytest.mark.parametrize(("delta", "units"), [(0.0, 100), (0.0, 0), (0.5, 0), (0.01, 100)])
def test_budget_does_not_warn(delta: float, units: int) -> None:
    flip_budget(delta, units)  # a warning would be an error


@pytest.mark.parametrize(
    ("delta", "units", "error", "message"),
    [
        (-0.1, 10, InvalidValueError, r"delta to be in \[0, 1\], got -0\.1"),
        (5, 10, InvalidValueError, r"delta to be in \[0, 1\], got 5; delta is a fraction, not a percentage"),
        (math.nan, 10, InvalidValueError, r"delta to be in \[0, 1\], got nan"),
        ("0.1", 10, InvalidTypeError, r"delta to be a number in \[0, 1\], got '0\.1' \(str\)"),
        (True, 10, InvalidTypeError, r"delta to be a number in \[0, 1\], got True"),
        (0.1, -1, InvalidValueError, r"units to be a whole number, 0 or more, got -1"),
        (0.1, 10.0, InvalidTypeError, r"units to be a whole number, 0 or more, got 10\.0"),
        (0.1, True, InvalidTypeError, r"units to be a whole number, 0 or more, got True"),
    ],
)
def test_bad_budget(delta: Any, units: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        flip_budget(delta, units)


# sample_mask


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 300), (4, 3, 1, 1)])
def test_keeps_what_torch_dropout_keeps(shape: tuple[int, ...], p: float) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        kept = F.dropout(torch.ones(shape), p) != 0
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        mask = sample_mask(shape, p)
        assert mask.dtype == torch.bool
        assert torch.equal(mask, kept)
        assert torch.equal(torch.get_rng_state(), state), "as many numbers drawn"


@pytest.mark.parametrize("p", [0.1, 0.37, 0.5, 0.9])
def test_both_ways_to_draw_on_a_cpu_give_the_same(monkeypatch: pytest.MonkeyPatch, p: float) -> None:
    if not masks._COMPARES_DOUBLES:
        pytest.skip("on this processor bernoulli_ draws its numbers in another way")
    torch.manual_seed(5)
    quick = sample_mask((64, 300), p)
    monkeypatch.setattr(masks, "_COMPARES_DOUBLES", False)
    torch.manual_seed(5)
    assert torch.equal(sample_mask((64, 300), p), quick)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_ratio(p: float) -> None:
    n = 400_000
    ratio = sample_mask((4, n // 4), p).double().mean().item()
    assert ratio == pytest.approx(1 - p, abs=5 * math.sqrt(p * (1 - p) / n))  # five standard deviations


def test_generator_is_used_and_the_default_one_left_alone() -> None:
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    first, second = (sample_mask((50, 50), 0.5, generator=generator) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(sample_mask((50, 50), 0.5, generator=torch.Generator().manual_seed(3)), first)
    torch.manual_seed(3)
    assert torch.equal(sample_mask(torch.Size((50, 50)), 0.5), first)


def test_device() -> None:
    assert sample_mask((2, 3), 0.5).device.type == "cpu"
    assert sample_mask([2, 3], 0.5, device="meta").device.type == "meta"


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (-0.5, InvalidValueError, r"p to be in \[0, 1\], got -0\.5"),
        (50, InvalidValueError, r"p to be in \[0, 1\], got 50; p is a fraction, not a percentage"),
        (math.nan, InvalidValueError, r"p to be in \[0, 1\], got nan"),
        ("half", InvalidTypeError, r"p to be a number in \[0, 1\], got 'half' \(str\)"),
        (False, InvalidTypeError, r"p to be a number in \[0, 1\], got False"),
    ],
)
def test_bad_p(p: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_mask((2, 3), p)

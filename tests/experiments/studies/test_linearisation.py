"""D linearised in the mask, eqs. 8 to 11: against differences, the chain rule and what each of them leaves out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from adversarial_dropout.divergences import cross_entropy, kl_divergence, quadratic_error
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.studies.theory.equations import (
    equation_9,
    equation_10,
    equation_11,
    jacobian_at,
)

EXACT = 1e-10

DIVERGENCES = {"kl": kl_divergence, "qe": quadratic_error, "ce": cross_entropy}
Case = tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]


@st.composite
def networks(draw: st.DrawFn) -> Case:
    """A nonlinear network, activations, target logits, labels and a base mask that drops a unit."""
    n, units, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6)), draw(st.integers(2, 4))
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 10**6)))
        activation = draw(st.sampled_from([nn.Tanh(), nn.Softplus(), nn.ELU()]))
        upper = nn.Sequential(nn.Linear(units, 6), activation, nn.Linear(6, classes)).double()
        h, logits = torch.randn(n, units).double(), torch.randn(n, classes).double()
        mask = (torch.rand(n, units) < 0.5).double()
        mask[:, 0] = 0
        return upper, h, logits, torch.randint(classes, (n,)), mask


@pytest.mark.parametrize("name", DIVERGENCES)
@given(case=networks(), labelled=st.booleans())
def test_equation_11(case: Case, name: str, labelled: bool) -> None:
    upper, h, logits, labels, _ = case
    target = labels if labelled else logits
    left = jacobian_at(torch.ones_like(h), h, upper=upper, target=target, divergence=DIVERGENCES[name])
    right = equation_11(h, upper=upper, target=target, divergence=DIVERGENCES[name])
    assert left.shape == h.shape
    torch.testing.assert_close(left, right, rtol=EXACT, atol=1e-14)


@pytest.mark.parametrize("name", DIVERGENCES)
@given(case=networks())
def test_jacobian_equals_central_differences(case: Case, name: str) -> None:
    upper, h, logits, _, mask = case
    jacobian = jacobian_at(mask, h, upper=upper, target=logits, divergence=DIVERGENCES[name])
    step = 1e-5
    for unit in range(h.shape[1]):
        shift = torch.zeros_like(mask)
        shift[:, unit] = step
        with torch.no_grad():
            up, down = (DIVERGENCES[name](logits, upper(h * (mask + s))) for s in (shift, -shift))
        torch.testing.assert_close(jacobian[:, unit], (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["kl", "qe"])
@given(case=networks())
def test_jacobian_at_the_base_mask_is_0_for_its_own_output_and_not_for_labels(case: Case, name: str) -> None:
    upper, h, _, labels, mask = case
    output = upper(h * mask)
    at_base = jacobian_at(mask, h, upper=upper, target=output, divergence=DIVERGENCES[name])
    assert at_base.abs().max() <= 1e-14
    at_one = jacobian_at(torch.ones_like(mask), h, upper=upper, target=output, divergence=DIVERGENCES[name])
    assert at_one.abs().max() > 1e-8
    with_labels = jacobian_at(mask, h, upper=upper, target=labels, divergence=DIVERGENCES[name])
    assert with_labels.abs().max() > 1e-8
    assert all(parameter.grad is None for parameter in upper.parameters())


@pytest.mark.parametrize("name", DIVERGENCES)
@given(case=networks())
def test_equation_9_is_exact_to_first_order(case: Case, name: str) -> None:
    upper, h, logits, _, mask = case
    divergence = DIVERGENCES[name]
    ones = torch.ones_like(mask)
    at_one = divergence(logits, upper(h)).detach()
    jacobian = jacobian_at(ones, h, upper=upper, target=logits, divergence=divergence)
    assert torch.equal(equation_9(ones, at_one=at_one, jacobian=jacobian), at_one)

    def left_out(step: float) -> Tensor:
        moved = ones + step * (mask - 1)
        real = divergence(logits, upper(h * moved)).detach()
        return real - equation_9(moved, at_one=at_one, jacobian=jacobian)

    small, smaller = left_out(1e-3), left_out(5e-4)
    third_order = (small - 4 * smaller).abs()  # Half the step leaves out a quarter.
    assert (third_order <= 1e-2 * small.abs() + 1e-8).all()
    assert (left_out(1.0).abs() > 1e-3 * small.abs()).all()


@given(case=networks())
def test_equation_10_differs_from_eq_9_by_a_constant_and_has_the_same_best_mask(case: Case) -> None:
    upper, h, logits, _, mask = case
    jacobian = jacobian_at(torch.ones_like(mask), h, upper=upper, target=logits, divergence=kl_divergence)
    at_one = kl_divergence(logits, upper(h)).detach()
    masks = [mask, 1 - mask, torch.ones_like(mask), torch.zeros_like(mask)]
    objectives = torch.stack([equation_10(mask, jacobian=jacobian) for mask in masks])
    expansions = torch.stack([equation_9(mask, at_one=at_one, jacobian=jacobian) for mask in masks])
    constant = (at_one - jacobian.sum(dim=1)).expand(4, -1)
    torch.testing.assert_close(expansions - objectives, constant, rtol=EXACT, atol=1e-12)
    gaps = [side - side[:1] for side in (objectives, expansions)]
    torch.testing.assert_close(*gaps, rtol=EXACT, atol=1e-12)
    assert (objectives[3] == 0).all()  # Nothing kept: Σ ε_i J_i is 0 and eq. 9 is not, so they are not proportional.
    assert (expansions[3].abs() > 1e-8).all()


def test_equation_10_by_hand() -> None:
    """docs/theory.md: h = (1, 1), D = squared difference from 3 of the sum, J = (−2, −2)."""

    def upper(inputs: Tensor) -> Tensor:
        return inputs.sum(dim=1, keepdim=True)

    def square(target: Tensor, prediction: Tensor) -> Tensor:
        return (target - prediction).square().sum(dim=1)

    h, target = torch.ones(1, 2).double(), torch.full((1, 1), 3.0).double()
    jacobian = jacobian_at(torch.ones_like(h), h, upper=upper, target=target, divergence=square)
    at_one = square(target, upper(h))
    assert jacobian.tolist() == [[-2, -2]]
    masks = [torch.tensor([bits]).double() for bits in ((1, 1), (1, 0), (0, 0))]
    assert [float(equation_10(mask, jacobian=jacobian)) for mask in masks] == [-4, -2, 0]
    assert [float(equation_9(mask, at_one=at_one, jacobian=jacobian)) for mask in masks] == [1, 3, 5]
    assert float(at_one - jacobian.sum()) == 5


@pytest.mark.parametrize("name", ["kl", "qe"])
@given(case=networks())
def test_other_noise_in_the_target_gives_the_base_mask_a_gradient(case: Case, name: str) -> None:
    upper, h, _, _, mask = case
    mask[:, 1] = 1
    noisy = upper((h + 0.1) * mask)
    at_base = jacobian_at(mask, h, upper=upper, target=noisy, divergence=DIVERGENCES[name])
    assert (at_base.abs().max(dim=1).values > 1e-8).all()


# Bad arguments

X, Y = torch.ones(3, 2).double(), torch.ones(3).double()


@pytest.mark.parametrize(
    ("mask", "h", "error", "message"),
    [
        (X.float(), X, InvalidTypeError, "mask to be a float64 tensor, got torch.float32"),
        (X.bool(), X, InvalidTypeError, "mask to be a float64 tensor, got torch.bool"),
        (X, X.float(), InvalidTypeError, "h to be a float64 tensor"),
        (X.T, X, InvalidValueError, r"mask to have the shape of h \(3, 2\), got \(2, 3\)"),
        (Y, Y, InvalidValueError, r"h to have 2 dimensions, got shape \(3,\)"),
        (X, X * math.nan, InvalidValueError, "h to be finite"),
    ],
)
def test_bad_activations(mask: Tensor, h: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jacobian_at(mask, h, upper=nn.Linear(2, 2).double(), target=Y.long(), divergence=kl_divergence)

"""Spots of filters: drawn ones by hand, and a loop over pixels beside the whole."""

import math

import pytest
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.studies.autoencoders.features import LOCALISED, spots

SIDE = 28
LIT = torch.ones(SIDE, SIDE, dtype=torch.bool)


def drawn(row: int, column: int, *, dot: float = -3.0, ring: float = 0.0, far: float = 0.0) -> Tensor:
    """A filter with a dot of 3 × 3 pixels, strongest in its middle, a ring 3 to 5 pixels from there, and all else."""
    image = torch.full((SIDE, SIDE), far)
    for y in range(SIDE):
        for x in range(SIDE):
            distance = max(abs(y - row), abs(x - column))
            if distance <= 5:
                image[y, x] = ring
            if distance <= 2:
                image[y, x] = 0.0
            if distance <= 1:
                image[y, x] = dot
    image[row, column] = 2 * dot
    return image[None]


def test_drawn_filters() -> None:
    alone = drawn(10, 12)
    around = drawn(10, 12, ring=-0.4, far=0.1)
    ignored = drawn(3, 25, ring=0.0, far=0.1)
    flat = torch.ones(1, SIDE, SIDE)
    none = torch.zeros(1, SIDE, SIDE)
    spot = spots(torch.stack([alone, around, ignored, flat, none]), LIT)
    dot = 8 * 9 + 36
    rings, fars = 121 - 25, 784 - 121
    rest = rings * 0.16 + fars * 0.01
    assert spot.share.tolist()[:2] == pytest.approx([1, dot / (dot + rest)])
    # Of a flat one the first pixel counts as the strongest, and three by three pixels around it are inside.
    assert spot.share.tolist()[3:] == pytest.approx([9 / 784, 0])
    assert spot.localised.tolist() == [True, True, True, False, False]
    assert spot.rest.tolist()[:2] == pytest.approx([0, math.sqrt(rest / (784 - 25))])
    mean = (rings * 0.4 + fars * 0.1) / (784 - 25)
    assert spot.neighbourhood.tolist() == pytest.approx([0, 0.4 / mean, 0, 1, 0])


def test_neither_sign_nor_scale_matters() -> None:
    filters = torch.randn(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    one, other = spots(filters, LIT), spots(-3 * filters, LIT)
    torch.testing.assert_close(other.share, one.share)
    torch.testing.assert_close(other.neighbourhood, one.neighbourhood)
    torch.testing.assert_close(other.rest, 3 * one.rest)


def test_noise_is_not_localised() -> None:
    spot = spots(torch.randn(200, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), LIT)
    assert 0.03 < spot.share.mean() < 0.06
    assert spot.share.max() < LOCALISED / 2
    assert spot.neighbourhood.mean() == pytest.approx(1, abs=0.02)


def test_against_a_loop_over_pixels() -> None:
    draw = torch.Generator().manual_seed(2)
    filters = torch.randn(5, 3, 9, 11, generator=draw, dtype=torch.float64) ** 3
    lit = torch.rand(9, 11, generator=draw) < 0.7
    spot = spots(filters, lit)
    pixels = [(y, x) for y in range(9) for x in range(11) if lit[y, x]]
    for unit, weights in enumerate(filters):
        size = {(y, x): math.sqrt(sum(float(weights[c, y, x]) ** 2 for c in range(3))) for y, x in pixels}
        top, left = max(pixels, key=lambda pixel: size[pixel])
        far = {(y, x): max(abs(y - top), abs(x - left)) for y, x in pixels}
        outside = [size[pixel] for pixel in pixels if far[pixel] > 2]
        ring = [size[pixel] for pixel in pixels if 2 < far[pixel] <= 5]
        inside = sum(size[pixel] ** 2 for pixel in pixels if far[pixel] <= 2)
        assert spot.share[unit].item() == pytest.approx(inside / sum(value**2 for value in size.values()))
        assert spot.rest[unit].item() == pytest.approx(math.sqrt(sum(v * v for v in outside) / len(outside)))
        around = sum(ring) / len(ring) / (sum(outside) / len(outside))
        assert spot.neighbourhood[unit].item() == pytest.approx(around)


def test_pixels_that_do_not_count() -> None:
    image = drawn(10, 12, ring=0.2, far=0.1)
    image[0, 27, 0] = 50.0
    lit = LIT.clone()
    lit[27, 0] = False
    without = spots(drawn(10, 12, ring=0.2, far=0.1)[None], lit)
    spot = spots(image[None], lit)
    assert spot.share.item() == without.share.item()
    assert spot.rest.item() == without.rest.item()


@pytest.mark.parametrize(
    ("filters", "lit"),
    [
        (torch.ones(2, 28, 28), LIT),
        (torch.ones(2, 1, 28, 27), LIT),
        (torch.ones(2, 1, 28, 28), torch.zeros_like(LIT)),
    ],
)
def test_what_does_not_fit(filters: Tensor, lit: Tensor) -> None:
    with pytest.raises(InvalidValueError, match=r"expected filters of shape \(H, C, height, width\) and the pixels"):
        spots(filters, lit)

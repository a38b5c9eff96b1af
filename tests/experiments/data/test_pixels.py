"""The input of a network: scaled, whitened, and moved and flipped at random, independently for each image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening, affinely_mapped, relit, translated
from adversarial_dropout.experiments.data.sources import ImageData, digits
from adversarial_dropout.experiments.run import loop

N = 20_000


def stored(n: int, channels: int = 3, height: int = 4, width: int = 5, seed: int = 0) -> Tensor:
    """Random stored images without zeros: a gap can be told from a pixel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def pixels(*, brightest: int = 255, whitening: Whitening | None = None, **config: float) -> Pixels:
    return Pixels(DataConfig(**config), brightest, whitening)  # type: ignore[arg-type]


@pytest.mark.parametrize("brightest", [16, 255])
def test_scaling(brightest: int) -> None:
    images = torch.tensor([0, 1, brightest // 2, brightest], dtype=torch.uint8).view(1, 1, 2, 2)
    x = pixels(brightest=brightest)(images)
    assert x.dtype == torch.float32
    assert x.shape == (1, 1, 2, 2)
    expected = [0.0, 1 / brightest, (brightest // 2) / brightest, 1.0]
    assert x.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    centred = pixels(brightest=brightest, centre=True)(images)
    assert centred.flatten().tolist() == pytest.approx([value - 0.5 for value in expected], rel=1e-5)


def test_without_augmentation_a_view_is_what_evaluation_sees() -> None:
    show = pixels(centre=True)
    images = stored(10)
    before = torch.get_rng_state()
    assert torch.equal(show.view(images), show(images))
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"


def test_evaluation_sees_no_augmentation() -> None:
    images = stored(10)
    assert torch.equal(pixels(translate=2, flip=True)(images), images.float() / 255)


def test_nothing_is_changed_in_place() -> None:
    images = stored(10)
    before = images.clone()
    pixels(translate=2, flip=True, centre=True).view(images)
    assert torch.equal(images, before)
    x = images.float()
    translated(x, 2)
    assert torch.equal(x, before.float())


def moved(image: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """One image moved, pixel by pixel."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    result[channel, row, column] = image[channel, row - down, column - right]
    return result


def shift(before: Tensor, after: Tensor, most: int) -> tuple[int, int]:
    """By how much one image was moved, found by trying; exactly one answer fits."""
    span = range(-most, most + 1)
    fits = [
        (down, right)
        for down in span
        for right in span
        if np.array_equal(moved(before.numpy(), down, right), after.numpy())
    ]
    assert len(fits) == 1
    return fits[0]


@given(
    most=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(4, 6),
    width=st.integers(4, 6),
    seed=st.integers(0, 1000),
)
def test_translation_against_loops(most: int, channels: int, height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = stored(6, channels, height, width, seed).float()
    after = translated(x, most)
    assert after.shape == x.shape
    assert after.dtype == x.dtype
    for before, image in zip(x, after, strict=True):
        shift(before, image, most)  # It is one of the shifts: channels together, gaps zero.


def test_an_affine_map_against_coordinates() -> None:
    """The image is its own coordinates, which bilinear sampling keeps: what a pixel shows is where it comes from."""
    size, n = 41, 300
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
    coordinates = torch.stack((line.expand(size, size), line.view(-1, 1).expand(size, size)))
    for strength in (1.0, 0.3):
        torch.manual_seed(3)
        seen = affinely_mapped(coordinates.expand(n, 2, size, size).contiguous(), strength)
        middle = size // 2
        centre = seen[:, :, middle, middle]
        step = line[1] - line[0]
        across = (seen[:, :, middle, middle + 1] - centre) / step  # ∂(x, y) / ∂x
        down = (seen[:, :, middle + 1, middle] - centre) / step  # ∂(x, y) / ∂y
        assert centre.abs().max() <= 0.2 * strength + 1e-4
        assert centre.abs().amax(dim=0).min() > 0.19 * strength, "the largest shift is a tenth of the size"
        angle = torch.atan2(across[:, 1], across[:, 0] / 1.0)
        assert torch.rad2deg(angle).abs().max() < 10 * strength / (1 - 0.12 * strength) + 0.1
        assert torch.rad2deg(angle).abs().max() > 9 * strength
        zoom = across.norm(dim=1)
        assert zoom.max() < 1 + 0.13 * strength + 0.002
        assert zoom.max() > 1 + 0.11 * strength
        assert zoom.min() < 1 - 0.11 * strength
        shear = down[:, 0] + across[:, 1]
        assert shear.abs().max() < 0.12 * strength + 0.001
        assert shear.abs().max() > 0.11 * strength
        # Each number is drawn by itself; with 300 images, a correlation of 0.3 is five standard errors.
        drawn = torch.stack((angle, zoom, down[:, 1], shear, centre[:, 0], centre[:, 1]))
        assert (torch.corrcoef(drawn) - torch.eye(6)).abs().max() < 0.3
        away = torch.cat((centre, across, down), dim=1)
        assert len(torch.unique(away, dim=0)) == n, "each image has its own map"


def test_the_gaps_of_an_affine_map_have_the_colour_of_the_border() -> None:
    torch.manual_seed(0)
    image = torch.full((50, 1, 9, 9), 0.7)
    torch.testing.assert_close(affinely_mapped(image, 1.0), image)


def test_contrast_and_brightness() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-0.5, 0.5, 50).expand(400, 3, 2, 50).contiguous()
    for strength in (1.0, 0.4):
        after = relit(x, strength)
        factor = (after[..., -1] - after[..., 0])[:, :, 0]
        assert torch.allclose(factor, factor[:, :1].expand_as(factor), atol=1e-5), "one contrast for all channels"
        assert factor.min() < 1 - 0.95 * strength
        assert factor.min() > 1 - strength - 1e-5
        assert factor.max() > 1 + 0.95 * strength
        assert factor.max() < 1 + strength + 1e-5
        offset = after.mean(dim=(2, 3))
        assert offset.abs().max() <= strength / 4 + 1e-5
        assert offset.abs().max() > 0.24 * strength
        assert (offset[:, 0] - offset[:, 1]).abs().max() > 0.3 * strength, "each channel has its own"


def test_each_way_to_change_a_view() -> None:
    images = stored(10)
    for config in (DataConfig(centre=True, affine=0.5), DataConfig(centre=True, jitter=0.5)):
        show = Pixels(config, 255)
        torch.manual_seed(0)
        first, second = show.view(images), show.view(images)
        assert not torch.equal(first, second)
        assert torch.equal(show(images), pixels(centre=True)(images)), "evaluation sees the images as they are"
        assert config.augmented


def test_further_than_the_image_is_wide() -> None:
    x = stored(200, 1, 2, 2).float()
    after = translated(x, 5)
    for before, image in zip(x, after, strict=True):
        if image.any():
            shift(before, image, 1)
    empty = float((after == 0).flatten(1).all(dim=1).float().mean())
    assert abs(empty - (1 - (3 / 11) ** 2)) < 0.08


def lit_corner(n: int, size: int, most: int) -> Tensor:
    """Images with one bright pixel, so far from the border that it stays inside: its position tells the shift."""
    x = torch.zeros(n, 1, size, size)
    x[:, :, most, most] = 1
    return x


def shifts(after: Tensor, most: int) -> Tensor:
    """Shift of each image of :func:`lit_corner`, (n, 2), from 0 to 2 · most."""
    position = after.flatten(1).argmax(dim=1)
    assert torch.equal(after.flatten(1).sum(dim=1), torch.ones(len(after)))
    return torch.stack([position // after.shape[3], position % after.shape[3]], dim=1)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_all_shifts_are_equally_frequent(most: int) -> None:
    drawn = shifts(translated(lit_corner(N, 2 * most + 1, most), most), most)
    counts = torch.bincount(drawn[:, 0] * (2 * most + 1) + drawn[:, 1], minlength=(2 * most + 1) ** 2)
    expected = N / len(counts)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    # Of a χ² distribution: mean and standard deviation. A direction left out, or drawn twice as often, is far beyond.
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_half_of_the_images_are_flipped() -> None:
    images = stored(N, 1, 1, 2)
    images[:, :, :, 1] = 0
    x = pixels(flip=True).view(images)
    flipped = x[:, 0, 0, 0] == 0
    assert torch.equal(x[~flipped], images[~flipped].float() / 255)
    assert torch.equal(x[flipped], images[flipped].flip(3).float() / 255)
    assert abs(float(flipped.float().mean()) - 0.5) < 5 * 0.5 / N**0.5


def test_flips_turn_columns_and_nothing_else() -> None:
    images = stored(50)
    x = pixels(flip=True).view(images)
    whole = images.float() / 255
    for before, after in zip(whole, x, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))
    assert not torch.equal(x, whole)


def test_flips_and_shifts_are_independent_of_each_other() -> None:
    most, size = 2, 6
    images = torch.zeros(N, 1, size, size, dtype=torch.uint8)
    images[:, :, 2, 2] = 255
    images[:, :, 2, 3] = 100
    x = pixels(translate=most, flip=True).view(images).flatten(1)
    flipped = x.argmax(dim=1) > torch.where(x == x.max(), torch.zeros_like(x), x).argmax(dim=1)
    column = x.argmax(dim=1) % size
    column = torch.where(flipped, size - 1 - column, column)
    for side in (False, True):
        counts = torch.bincount(column[flipped == side], minlength=5).double()
        assert (counts / counts.sum() - 0.2).abs().max() < 0.02
    rows = (x.argmax(dim=1) // size)[flipped]
    assert (torch.bincount(rows, minlength=5).double() / len(rows) - 0.2).abs().max() < 0.02


def test_neighbours_are_moved_independently() -> None:
    drawn = shifts(translated(lit_corner(N, 5, 2), 2), 2).double()
    for pair in ((drawn[:-1, 0], drawn[1:, 0]), (drawn[:-1, 1], drawn[1:, 1]), (drawn[:, 0], drawn[:, 1])):
        correlation = torch.corrcoef(torch.stack(pair))[0, 1]
        assert abs(float(correlation)) < 5 / N**0.5


def test_gaps_are_zero_after_all_else() -> None:
    images = stored(200, 1, 5, 5)
    for show in (
        pixels(translate=2),
        pixels(translate=2, centre=True),
        pixels(translate=2, whitening=Whitening(torch.full((25,), 9.0), torch.eye(25))),
    ):
        whole, x = show(images), show.view(images)
        assert (whole != 0).all()
        gaps = (x == 0).flatten(1).sum(dim=1)
        # A shift by (d, r) leaves 25 - (5 - |d|) (5 - |r|) pixels free.
        assert set(gaps.tolist()) == {25 - (5 - down) * (5 - right) for down in range(3) for right in range(3)}


def test_a_seed_repeats_and_two_views_differ() -> None:
    show = pixels(translate=2, flip=True)
    images = stored(64)
    torch.manual_seed(3)
    first, second = show.view(images), show.view(images)
    torch.manual_seed(3)
    assert torch.equal(show.view(images), first)
    assert torch.equal(show.view(images), second)
    same = (first == second).flatten(1).all(dim=1).float().mean()
    assert same < 0.2, "each of 25 shifts and 2 sides"


def test_one_image_many_times_is_seen_in_many_ways() -> None:
    x = pixels(translate=2, flip=True).view(stored(1).expand(500, -1, -1, -1))
    assert len({tuple(image.flatten().tolist()) for image in x}) == 50


def covariance(x: Tensor) -> NDArray[np.float64]:
    """Of the rows of ``x``, divided by their number."""
    return np.asarray(np.cov(x.flatten(1).double().numpy(), rowvar=False, bias=True))


def direct(x: Tensor) -> NDArray[np.float64]:
    """ZCA as a textbook has it: covariance to the power of -1/2, from its eigenvalues."""
    values, vectors = np.linalg.eigh(covariance(x))
    return np.asarray(vectors @ np.diag(values**-0.5) @ vectors.T)


def test_whitening_against_the_formula() -> None:
    x = correlated(5000, 12)
    whitening = Whitening.fit(x)
    assert whitening.mean.dtype == whitening.matrix.dtype == torch.float32
    assert np.allclose(whitening.mean, x.flatten(1).double().mean(dim=0), atol=1e-6)
    assert np.allclose(whitening.matrix, direct(x), rtol=1e-4, atol=1e-4)
    assert torch.allclose(whitening.matrix, whitening.matrix.T, atol=1e-5)


def correlated(n: int, size: int, *, rank: int | None = None) -> Tensor:
    """Float images of 1 × 1 × size of a given rank, with neighbours alike, in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.rand(rank or size, size, generator=generator, dtype=torch.float64)
    if rank is None:
        mixing = mixing + torch.eye(size)
    x = torch.rand(n, mixing.shape[0], generator=generator, dtype=torch.float64) @ mixing
    return (x / x.max()).view(n, 1, 1, size).float()


@pytest.mark.parametrize("n", [3000, 2048, 5000])
def test_white_means_uncorrelated(n: int) -> None:
    x = correlated(n, 20)
    whitening = Whitening.fit(x)
    flat = x.flatten(1).double()
    white = (flat - whitening.mean.double()) @ whitening.matrix.double()
    assert np.abs(covariance(white) - np.eye(20)).max() < 1e-4
    assert white.mean(dim=0).abs().max() < 1e-4
    # Of all whitening maps, ZCA changes the images least: its matrix has no negative eigenvalue.
    assert torch.linalg.eigvalsh(whitening.matrix).min() > 0


def test_what_the_network_sees_is_white() -> None:
    images = stored(3000, 3, 3, 3)
    images[:, :, 1:] = images[:, :, 1:] // 2 + images[:, :, :2] // 2
    whitening = Whitening.fit(pixels(centre=True)(images))
    x = pixels(centre=True, whitening=whitening)(images)
    assert x.shape == images.shape
    assert np.abs(covariance(x) - np.eye(27)).max() < 1e-3
    two = pixels(centre=True, whitening=whitening)(images[[5, 2]])
    assert torch.allclose(two, x[[5, 2]], atol=1e-5), "each image for itself"


@pytest.mark.parametrize("rank", [1, 5])
def test_fewer_dimensions_than_pixels(rank: int) -> None:
    x = correlated(500, 20, rank=rank)
    x[:, :, :, 3] = 0.25
    whitening = Whitening.fit(x)
    white = (x.flatten(1) - whitening.mean) @ whitening.matrix
    assert white.isfinite().all()
    assert white.abs().max() < 50
    values = np.sort(np.linalg.eigvalsh(covariance(white)))
    assert np.abs(values[-rank:] - 1).max() < 0.1
    assert values[:-rank].max() < 0.1, "rounding is not blown up"


@pytest.mark.parametrize("n", [1, 100])
def test_images_that_are_all_the_same(n: int) -> None:
    x = torch.full((n, 1, 3, 3), 0.3)
    whitening = Whitening.fit(x)
    assert whitening.matrix.isfinite().all()
    assert ((x.flatten(1) - whitening.mean) @ whitening.matrix).abs().max() < 0.1


def test_a_run_whitens_by_its_training_images_alone(tmp_path: Path) -> None:
    data = digits()
    preset = presets.get("digits-100", "plain", "tiny")
    loop.run(preset.changed(data=DataConfig(labelled=100, whiten=True)), tmp_path)
    whitening = Whitening.load(tmp_path / records.WHITENING)
    expected = Whitening.fit(data.images[data.training].float() / 16)
    assert torch.equal(whitening.mean, expected.mean)
    assert torch.equal(whitening.matrix, expected.matrix)


def small_data() -> ImageData:
    return ImageData(stored(40, 1, 2, 3), torch.arange(40) % 2, torch.tensor([1, 2]), 255, ("a", "b"))


def test_saving_and_loading(tmp_path: Path) -> None:
    whitening = Whitening.fit(correlated(100, 6))
    whitening.save(tmp_path / "w.safetensors")
    reloaded = Whitening.load(tmp_path / "w.safetensors")
    assert torch.equal(reloaded.mean, whitening.mean)
    assert torch.equal(reloaded.matrix, whitening.matrix)


def test_moving_to_a_device() -> None:
    show = pixels(centre=True, whitening=Whitening(torch.zeros(4), torch.eye(4)))
    moved_there = show.to(torch.device("meta"))
    assert moved_there.whitening is not None
    assert moved_there.whitening.matrix.is_meta
    assert moved_there.whitening.mean.is_meta
    assert (moved_there.config, moved_there.brightest) == (show.config, 255)
    assert pixels().to(torch.device("meta")).whitening is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_a_gpu_sees_the_same() -> None:
    device = torch.device("cuda")
    data = small_data()
    config = DataConfig(whiten=True, translate=2, flip=True)
    there = Whitening.fit(data.images[data.training].to(device).float() / 255)
    here = Whitening.fit(data.images[data.training].float() / 255)
    assert torch.allclose(there.matrix.cpu(), here.matrix, rtol=1e-3, atol=1e-3)
    show = Pixels(config, 255, there)
    images = stored(40, 1, 2, 3)
    x = show.to(device)(images.to(device))
    assert torch.allclose(x.cpu(), show.to(torch.device("cpu"))(images), atol=1e-4)
    view = show.to(device).view(images.to(device))
    assert view.is_cuda
    most = shifts(translated(lit_corner(N, 5, 2).to(device), 2).cpu(), 2)
    assert torch.bincount(most[:, 0] * 5 + most[:, 1], minlength=25).min() > 0.8 * N / 25

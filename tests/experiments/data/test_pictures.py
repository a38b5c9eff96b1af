"""Images of every kind become uint8 pixels of one form, with an error for each kind of bad image."""

import io

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.pictures import ENDINGS, Form, Stack, UnreadableError

from ..pictures import as_tensor, encoded, noise, plain, png_of_16_bits


def stacked(
    *contents: bytes, channels: int | None = None, size: tuple[int, int] | None = None, resize: bool = False
) -> Tensor:
    stack = Stack(Form(size, channels, resize=resize, advice="do something"))
    for index, content in enumerate(contents):
        stack.add(content, f"image {index}")
    return stack.tensor()


def shades(images: Tensor) -> set[int]:
    return set(images.flatten().tolist())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "JPEG2000", "WEBP", "ICO"])
@pytest.mark.parametrize("channels", [1, 3])
def test_kinds_that_lose_nothing(kind: str, channels: int) -> None:
    picture = noise(0, size=(32, 32) if kind == "ICO" else (5, 7), channels=channels)
    content = encoded(picture, kind, lossless=True, sizes=[(32, 32)])
    images = stacked(content, channels=channels)
    assert images.dtype == torch.uint8
    assert torch.equal(images[0], as_tensor(picture))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_kinds_that_lose_a_little(kind: str) -> None:
    smooth = PIL.Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))
    images = stacked(encoded(smooth, kind, quality=95))
    assert images.shape == (1, 3, 32, 32)
    assert (images[0].int() - as_tensor(smooth).int()).abs().max() < 40
    assert not torch.equal(images[0], as_tensor(noise(0, size=(32, 32))))


def test_endings_are_of_kinds_that_pillow_reads() -> None:
    known = {ending for ending, kind in PIL.Image.registered_extensions().items() if kind in PIL.Image.OPEN}
    assert not ENDINGS - known


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_stays_grey(mode: str) -> None:
    picture = noise(1, channels=1).convert(mode)
    assert torch.equal(stacked(encoded(picture))[0], as_tensor(picture.convert("L")))


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"), ("RGBA", "PNG"), ("CMYK", "TIFF"), ("LAB", "TIFF")]
)
def test_colours_become_rgb(mode: str, kind: str) -> None:
    picture = noise(2)
    picture = picture.convert("P", palette=PIL.Image.Palette.ADAPTIVE) if mode == "P" else picture.copy()
    if mode == "LAB":
        picture = PIL.Image.frombytes("LAB", (5, 7), noise(2).tobytes())
    elif mode != "P":
        picture = picture.convert(mode)
    with PIL.Image.open(io.BytesIO(encoded(picture, kind))) as again:
        assert again.mode == mode
        expected = as_tensor(again.convert("RGB"))
    images = stacked(encoded(picture, kind))
    assert images.shape == (1, 3, 7, 5)
    assert torch.equal(images[0], expected)
    if mode in ("RGB", "RGBA", "P"):
        assert (images[0].int() - as_tensor(noise(2)).int()).abs().max() <= (0 if mode != "P" else 60)


def test_cmyk_jpeg_is_rgb() -> None:
    red = PIL.Image.new("RGB", (8, 8), (250, 5, 5))
    pixels = stacked(encoded(red.convert("CMYK"), "JPEG", quality=100))[0].float().mean(dim=(1, 2))
    assert torch.allclose(pixels, torch.tensor([250.0, 5.0, 5.0]), atol=6)


def test_transparency_is_left_out() -> None:
    colour = noise(3)
    alpha = noise(4, channels=1)
    seen_through = colour.copy()
    seen_through.putalpha(alpha)
    assert torch.equal(stacked(encoded(seen_through))[0], as_tensor(colour))
    grey = noise(5, channels=1)
    grey_through = PIL.Image.merge("LA", (grey, alpha))
    assert torch.equal(stacked(encoded(grey_through))[0], as_tensor(grey))


@pytest.mark.parametrize("transparency", [3, bytes([0, 100, 255, 7])])
def test_a_palette_with_transparency(transparency: int | bytes) -> None:
    picture = PIL.Image.new("P", (2, 2))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    picture.putdata([0, 1, 2, 3])
    images = stacked(encoded(picture, transparency=transparency))
    assert images[0].flatten(1).T.tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [plain(value, size=(8, 8)) for value in (10, 200, 90)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    with PIL.Image.open(io.BytesIO(content)) as film:
        assert getattr(film, "n_frames", 1) == 3
    assert shades(stacked(content, channels=1)) == {10}


def test_photographs_stand_upright() -> None:
    picture = noise(6, size=(5, 7))
    lying = picture.transpose(PIL.Image.Transpose.ROTATE_90)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter clockwise.
    assert torch.equal(stacked(encoded(lying, exif=exif))[0], as_tensor(picture))


@pytest.mark.parametrize(
    "content",
    [
        png_of_16_bits([[1000, 60000], [3, 4]], colour=False),
        encoded(PIL.Image.fromarray(np.array([[1, 70000]], dtype=np.int32)), "TIFF"),
        encoded(PIL.Image.fromarray(np.array([[0.5, 2.5]], dtype=np.float32)), "TIFF"),
    ],
)
def test_more_than_8_bits_of_grey(content: bytes) -> None:
    with pytest.raises(UnreadableError, match="expected 8 bits per channel, got 16 or more; convert it first"):
        stacked(content)


def test_16_bits_of_colour_are_rounded_down_to_8() -> None:
    content = png_of_16_bits([[0x1234, 0xFFFF, 0x00FF, 0x8000, 0x0100, 0x7FFF]], colour=True)
    assert stacked(content)[0].flatten(1).T.tolist() == [[0x12, 0xFF, 0x00], [0x80, 0x01, 0x7F]]


def test_one_in_colour_makes_all_rgb() -> None:
    grey, colour = noise(1, channels=1), noise(2)
    for contents in ((grey, colour), (colour, grey)):
        images = stacked(*(encoded(picture) for picture in contents))
        for image, picture in zip(images, contents, strict=True):
            assert torch.equal(image, as_tensor(picture.convert("RGB")))
    assert stacked(encoded(grey), encoded(grey)).shape == (2, 1, 7, 5)


def test_channels_that_are_asked_for() -> None:
    grey, colour = noise(1, channels=1), noise(2)
    rgb = stacked(encoded(grey), channels=3)
    assert torch.equal(rgb[0], as_tensor(grey).expand(3, 7, 5))
    one = stacked(encoded(colour), channels=1)
    # ITU-R 601-2, as Pillow's documentation has it.
    weights = torch.tensor([299.0, 587.0, 114.0]).view(3, 1, 1) / 1000
    assert ((as_tensor(colour) * weights).sum(0) - one[0, 0]).abs().max() <= 1


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_resizing(channels: int | None) -> None:
    pictures = [noise(seed, size) for seed, size in enumerate([(5, 7), (30, 2), (6, 6), (600, 500)])]
    images = stacked(*(encoded(picture) for picture in pictures), channels=channels, size=(6, 6), resize=True)
    assert images.shape == (4, channels or 3, 6, 6)
    for image, picture in zip(images, pictures, strict=True):
        mode = "L" if channels == 1 else "RGB"
        assert torch.equal(image, as_tensor(picture.convert(mode).resize((6, 6))))


def test_resizing_bits_and_palettes_mixes_shades_not_numbers() -> None:
    halves = PIL.Image.new("1", (64, 64))
    halves.paste(1, (0, 0, 32, 64))
    assert len(shades(stacked(encoded(halves), size=(8, 8), resize=True))) > 2
    picture = PIL.Image.new("P", (64, 64), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0] + [0, 255, 0] * 254)
    picture.paste(200, (0, 0, 32, 64))
    mixed = stacked(encoded(picture), size=(3, 3), resize=True)[0, :, 1, 1]
    assert mixed[0] > 90
    assert mixed[1] > 90, "halfway between red and green"


@pytest.mark.parametrize("size", [None, (5, 7)])
def test_another_size(size: tuple[int, int] | None) -> None:
    with pytest.raises(
        InvalidValueError, match=r"expected images of 5 × 7 pixels, got 7 × 5 in image 1; do something$"
    ):
        stacked(encoded(noise(1)), encoded(noise(2, size=(7, 5))), size=size)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image, or of an unknown kind"),
        (b"cats and dogs", "not an image, or of an unknown kind"),
        (b"\x89PNG\r\n\x1a\n", "."),
        (encoded(noise(1, size=(32, 32)), "JPEG")[:-200], "truncated"),
    ],
)
def test_what_is_no_image(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        stacked(content)


def test_the_reason_is_the_same_each_time() -> None:
    reasons = set()
    for _ in range(3):
        with pytest.raises(UnreadableError) as caught:
            stacked(b"cats and dogs")
        reasons.add(str(caught.value))
    assert len(reasons) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_file_cut_off_anywhere(kind: str) -> None:
    content = encoded(noise(1), kind)
    whole = stacked(content)
    refused = 0
    for length in range(len(content)):
        try:
            rest = stacked(content[:length])
        except UnreadableError:
            refused += 1
        else:
            assert torch.equal(rest, whole), "what is missing was no pixel"
    assert refused > 0.8 * len(content)


def test_an_image_too_large_to_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableError, match="decompression bomb"):
        stacked(encoded(noise(1)))


@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]),
    index=st.floats(0, 1),
    value=st.integers(0, 255),
    length=st.floats(0, 1),
)
def test_whatever_is_broken_there_is_one_error(kind: str, index: float, value: int, length: float) -> None:
    content = bytearray(encoded(noise(1), kind))
    content[int(index * (len(content) - 1))] = value
    stack = Stack(Form((5, 7), 3))
    try:
        stack.add(bytes(content[: int(length * len(content))]), "broken")
    except (UnreadableError, InvalidValueError):
        return
    assert stack.tensor().shape == (1, 3, 7, 5)

"""Decodes encoded images of any kind into one uint8 tensor."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError

ENDINGS = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".webp", ".avif", ".tif", ".tiff"),
        *(".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".pcx", ".dds", ".sgi", ".xbm", ".xpm"),
    )
)
"""Endings of the names of image files, in lower case."""

_GREY = ("1", "L", "LA", "La")


class UnreadableError(Exception):
    """An image is missing, broken, or of a kind that cannot be used."""


@dataclass(frozen=True)
class Form:
    """The form that the images and classes of a data set must have.

    Attributes:
        size: Width and height in pixels; ``None``: those of the first image.
        channels: 1 for grey, 3 for RGB; ``None``: grey if all images are grey.
        classes: Names of all classes, in order; ``None``: those that occur.
        resize: Whether images of another size are resized; otherwise they are an error.
        advice: What the message of that error advises; if empty, to resize them.
        largest: Height and width to which all images are resized if they are larger or their sizes differ; ``None``:
            larger ones stay, and different sizes are an error.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    classes: tuple[str, ...] | None = None
    resize: bool = False
    advice: str = field(default="", repr=False)  # The cache is keyed by the rest.
    largest: int | None = field(default=None, repr=False)  # By this too, where it is given.


class DifferentSizesError(InvalidValueError):
    """Images have different sizes, which is an error unless all are resized."""


class Stack:
    """Images of one form. Transparency is ignored, and so are all frames of an animation but the first."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._size = form.size
        self._arrays: list[np.ndarray[Any, np.dtype[np.uint8]]] = []

    def add(self, stored: bytes | Path | None, name: str) -> None:
        """Decode the content of an image file, or the file itself; messages call it ``name``."""
        picture = _decode(stored)
        grey = self._form.channels == 1 or (self._form.channels is None and picture.mode in _GREY)
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Otherwise Pillow warns.
        picture = picture.convert("L" if grey else "RGB")
        self._size = self._size or picture.size
        if self._form.resize:
            picture = picture.resize(self._size)
        largest = self._form.largest
        if picture.size != self._size or (largest is not None and min(picture.size) > largest):
            raise DifferentSizesError(
                f"expected images of {self._size[0]} × {self._size[1]} pixels, got {picture.size[0]} × "
                f"{picture.size[1]} in {name}; {self._form.advice or f'resize all with --data.resize {self._size[0]}'}"
            )
        self._arrays.append(np.array(picture))

    def tensor(self) -> Tensor:
        """All images, at least one, shape (N, C, H, W)."""
        height, width = self._arrays[0].shape[:2]
        channels = self._form.channels or (1 if all(array.ndim == 2 for array in self._arrays) else 3)
        images = torch.empty(len(self._arrays), channels, height, width, dtype=torch.uint8)
        for index, array in enumerate(self._arrays):
            images[index] = torch.from_numpy(array).view(height, width, -1).permute(2, 0, 1)
        return images


def _decode(stored: bytes | Path | None) -> PIL.Image.Image:
    if stored is None:
        raise UnreadableError("there is no image")
    try:
        picture = PIL.Image.open(io.BytesIO(stored.read_bytes() if isinstance(stored, Path) else stored))
        picture.load()
        PIL.ImageOps.exif_transpose(picture, in_place=True)
    except PIL.UnidentifiedImageError as error:
        raise UnreadableError("not an image, or of an unknown kind") from error
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow raises many kinds of errors for broken images.
        raise UnreadableError(str(error) or type(error).__name__) from error
    if picture.mode.startswith(("I", "F")):
        raise UnreadableError("expected 8 bits per channel, got 16 or more; convert it first")
    return picture

"""Encoded images, of whatever kind, brought to one form."""

import io
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
"""What the names of image files end in, in lower case."""

_GREY = ("1", "L", "LA", "La")


class UnreadableError(Exception):
    """What should be an image is none, or is broken, or of a kind that cannot be used."""


class Stack:
    """Images made into one uint8 tensor. Transparency is left out, and of an animation all but its first frame.

    Attributes:
        channels: 1 for grey, 3 for RGB; ``None``: grey if all images are.
        size: Width and height in pixels; ``None``: those of the first image.
        resize: Whether other images are brought to that size.
        advice: What to do about an image of another size, for the error message.
    """

    def __init__(self, channels: int | None, size: tuple[int, int] | None, *, resize: bool, advice: str) -> None:
        self.channels, self.size, self.resize, self.advice = channels, size, resize, advice
        self._arrays: list[np.ndarray[Any, np.dtype[np.uint8]]] = []

    def add(self, content: bytes, name: str) -> None:
        """Decode an image and put it on top; ``name`` is what messages call it.

        Raises:
            UnreadableError: it cannot be decoded.
            InvalidValueError: it has another size.
        """
        picture = _decode(content)
        grey = self.channels == 1 or (self.channels is None and picture.mode in _GREY)
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Otherwise Pillow warns.
        picture = picture.convert("L" if grey else "RGB")
        self.size = self.size or picture.size
        if self.resize:
            picture = picture.resize(self.size)
        if picture.size != self.size:
            raise InvalidValueError(
                f"expected images of {self.size[0]} × {self.size[1]} pixels, got {picture.size[0]} × "
                f"{picture.size[1]} in {name}; {self.advice}"
            )
        self._arrays.append(np.array(picture))

    def tensor(self) -> Tensor:
        """All of them, shape (N, C, H, W); there must be one at least."""
        height, width = self._arrays[0].shape[:2]
        channels = self.channels or (1 if all(array.ndim == 2 for array in self._arrays) else 3)
        images = torch.empty(len(self._arrays), channels, height, width, dtype=torch.uint8)
        for place, array in enumerate(self._arrays):
            images[place] = torch.from_numpy(array).view(height, width, -1).permute(2, 0, 1)
        return images


def _decode(content: bytes) -> PIL.Image.Image:
    try:
        picture = PIL.Image.open(io.BytesIO(content))
        picture.load()
        PIL.ImageOps.exif_transpose(picture, in_place=True)
    except PIL.UnidentifiedImageError as error:
        raise UnreadableError("not an image, or of an unknown kind") from error
    except Exception as error:  # What Pillow raises depends on what is broken where.
        raise UnreadableError(str(error) or type(error).__name__) from error
    if picture.mode.startswith(("I", "F")):
        raise UnreadableError("expected 8 bits per channel, got 16 or more; convert it first")
    return picture

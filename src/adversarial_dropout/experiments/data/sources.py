"""Where data come from: each source is a function that returns all of its images and labels."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, did_you_mean


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images and labels in memory.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
        test: Indices of the test part, int64; all others are for training.
        brightest: The pixel value that stands for 1.
        classes: Names of the classes; a label is an index into them.
    """

    images: Tensor
    labels: Tensor
    test: Tensor
    brightest: int
    classes: tuple[str, ...]

    def pixels(self, indices: Tensor) -> Tensor:
        """Images as float32 in [0, 1], shape (len(indices), C, H, W)."""
        return self.images[indices].float() / self.brightest

    def to(self, device: torch.device) -> "ImageData":
        """The same data with images and labels on ``device``."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


# The test part of digits is the same in every run, and no seed of a run leads to another.
_DIGITS_TEST = 500
_DIGITS_TEST_SEED = 20180101


def digits() -> ImageData:
    """Load scikit-learn's bundled 1,797 handwritten digits, 8 × 8 pixels of 0 to 16; a fixed random 500 are for test.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_DIGITS_TEST_SEED))
    return ImageData(
        images=images,
        labels=torch.from_numpy(bunch.target).long(),
        test=order[:_DIGITS_TEST].sort().values,
        brightest=16,
        classes=tuple(str(name) for name in bunch.target_names),
    )


_SOURCES: dict[str, Callable[[], ImageData]] = {"digits": digits}


def load(name: str) -> ImageData:
    """Load the source of that name.

    Raises:
        InvalidValueError: there is none.
    """
    if name not in _SOURCES:
        raise InvalidValueError(
            f"expected data from one of {', '.join(_SOURCES)}, got {name!r}{did_you_mean(name, _SOURCES)}"
        )
    return _SOURCES[name]()

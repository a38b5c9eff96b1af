"""Small data in files: the paper's sets as the hub lays them out, and folders of images. Every image shows its class.

Class c of n has a bright bar at c / n of the height, over dark noise; in colour the bar is of one of three colours.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from adversarial_dropout.experiments.presets.stated import Source

SOURCES: tuple[Source, ...] = ("mnist", "svhn", "cifar10")
DIGITS = tuple("0123456789")
SHAPES: dict[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}
CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": DIGITS,
    "svhn": DIGITS,
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
FRUIT = ("apple", "cherry", "pear")
_COLUMNS = {"mnist": "image", "svhn": "image", "cifar10": "img"}
_SEEDS = {"train": 1, "test": 2}


def pictures(shape: tuple[int, int, int], classes: int, number: int, *, seed: int = 0) -> Iterator[tuple[Tensor, int]]:
    """``number`` images, uint8 of ``shape`` (C, H, W), with their class: 0, 1, 2, ..., and again from 0."""
    draw = torch.Generator().manual_seed(seed)
    channels, height, _ = shape
    for index in range(number):
        label = index % classes
        image = torch.randint(0, 80, shape, generator=draw, dtype=torch.uint8)
        bar = torch.randint(180, 256, shape, generator=draw, dtype=torch.uint8)
        rows = slice(label * height // classes, (label + 1) * height // classes)
        lit = slice(label % 3, label % 3 + 1) if channels == 3 else slice(None)
        image[lit, rows] = bar[lit, rows]
        yield image, label


def png(image: Tensor) -> bytes:
    """A uint8 image (C, H, W) of 1 or 3 channels as a PNG file."""
    pixels = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def hub_files(folder: Path, source: Source, *, train: int = 12, test: int = 2) -> Path:
    """Write a data set of the paper's form to ``folder``: so many images of each class in each part."""
    folder.mkdir(parents=True, exist_ok=True)
    column = _COLUMNS[source]
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES[source]))})
    for part, each in (("train", train), ("test", test)):
        made = list(pictures(SHAPES[source], 10, 10 * each, seed=_SEEDS[part]))
        rows = datasets.Dataset.from_dict(
            {
                column: [{"bytes": png(image), "path": None} for image, _ in made],
                "label": [label for _, label in made],
            },
            features=features,
        )
        rows.to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
    return folder


def image_folder(
    folder: Path,
    classes: tuple[str, ...] = FRUIT,
    *,
    each: int = 10,
    unlabelled: int = 6,
    shape: tuple[int, int, int] = (3, 16, 20),
    seed: int = 3,
) -> Path:
    """Write PNG files to a folder of each class, and some to ``unlabeled/``."""
    for number, (image, label) in enumerate(pictures(shape, len(classes), each * len(classes), seed=seed)):
        write(folder / classes[label] / f"{number:03}.png", image)
    for number, (image, _) in enumerate(pictures(shape, len(classes), unlabelled, seed=seed + 100)):
        write(folder / "unlabeled" / f"{number:03}.png", image)
    return folder


def write(path: Path, image: Tensor) -> Path:
    """Write an image as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))
    return path

"""Finds the images or parquet files of a data set on this machine, and what their folders say of them.

The folder reader of ``datasets`` ("imagefolder") is no substitute. It passes over folders such as ``unlabeled/`` beside
``train/``, linked folders, broken links and folders that cannot be read, without a word; where depths differ, it drops
all labels; and it takes a file called ``my-test-photo.png`` for a test image.
"""

import glob
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.pictures import ENDINGS, Stack, UnreadableError
from adversarial_dropout.experiments.records import RecordError

UNLABELLED_NAMES = ("unlabeled", "unlabelled", "unsupervised")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "val", "valid")
_SPLITS = (*TRAIN_NAMES, *TEST_NAMES, *UNLABELLED_NAMES, "extra")


@dataclass(frozen=True)
class Files:
    """Files on this machine.

    Attributes:
        folder: Where they are.
        splits: Paths by split.
        classes: The class of each image that has one; ``None``: these are parquet files.
    """

    folder: Path
    splits: dict[str, list[Path]]
    classes: dict[Path, str] | None = None

    @property
    def identity(self) -> str:
        """What the decoded images are kept under: other files, or files that changed, have another identity."""
        described = []
        for split, paths in self.splits.items():
            for path in paths:
                state = path.stat(follow_symlinks=path.exists())
                name = str(path.relative_to(self.folder))
                described.append((split, name, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
        return f"files {self.folder.resolve()} {described}"

    def load(self, scratch: str) -> dict[str, Any]:
        """The splits by name, each a ``datasets.Dataset``; ``scratch`` is a folder that lasts as long as they do.

        Raises:
            RecordError: a parquet file cannot be read.
        """
        import datasets  # Here, because importing it takes a second and only the first reading of a data set needs it.

        if self.classes is not None:
            features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
            return {
                split: datasets.Dataset.from_dict(
                    {"image": list(map(str, paths)), "label": list(map(self.classes.get, paths))}, features
                )
                for split, paths in self.splits.items()
            }
        try:
            return {
                split: datasets.Dataset.from_parquet([glob.escape(str(path)) for path in paths], cache_dir=scratch)
                for split, paths in self.splits.items()
            }
        except Exception as error:  # What datasets raises depends on what went wrong where.
            raise RecordError(
                f"cannot read the parquet files in {self.folder} ({error.__cause__ or error}); are they whole, and of "
                f"one kind?"
            ) from error


def find(folder: Path, name: str | None = None, subset: str | None = None) -> Files:
    """Find a data set in ``folder``, or in the folder ``name`` there.

    Parquet files are looked for directly in it, in ``data/`` and in ``subset/``, as the hub has them; then images, in a
    folder per class; then parquet files anywhere below. Hidden files and others are passed over.

    Raises:
        InvalidValueError: there is none, or more than one; the message says what was expected.
        RecordError: a folder cannot be read.
    """
    if not folder.is_dir():
        raise InvalidValueError(
            f"expected a folder of images or parquet files, got {folder}, which is "
            f"{'a file' if folder.exists() else 'not there'}"
        )
    named = folder / (name or "")
    try:
        for place, inner in itertools.product((folder, named), ("", "data", subset or "")):
            if parquet := _parquet(place / inner):
                return Files(place / inner, parquet)
        for place in (named, folder):
            if paths := images_in(place):
                return _by_class(place, paths)
        return _deeper(named if named.is_dir() else folder)
    except OSError as error:
        raise RecordError(f"cannot read {error.filename}: {error.strerror}; make it readable") from error


def images_in(folder: Path) -> list[Path]:
    """All image files below ``folder``, by their endings, in order; hidden ones are left out."""
    return [path for path in _below(folder) if path.suffix.lower() in ENDINGS]


def decode(path: Path, shape: tuple[int, int, int], *, resize: bool = False) -> Tensor:
    """Read one image file as uint8 of ``shape`` (C, H, W).

    Raises:
        InvalidValueError: it cannot be read, or has another size and ``resize`` is not given.
    """
    channels, height, width = shape
    stack = Stack(
        channels, (width, height), resize=resize, advice="that is the size in training; bring it to that with --resize"
    )
    try:
        stack.add(path.read_bytes(), str(path))
    except (OSError, UnreadableError) as error:
        raise InvalidValueError(f"expected an image, but {path} cannot be read: {error}") from error
    return stack.tensor()[0]


def _parquet(folder: Path) -> dict[str, list[Path]]:
    """Parquet files in ``folder`` and in its ``train/``, ``test/``, ..., by split; any other name is for training."""
    splits: dict[str, list[Path]] = {}
    for place in (folder, *(path for path in _inside(folder) if path.name.lower() in _SPLITS)):
        for path in _inside(place):
            if path.suffix.lower() == ".parquet":
                words = (place.name.lower() if place != folder else "", *re.findall("[a-z]+", path.name.lower())[:1])
                split = next((word for word in words if word in _SPLITS), "train")
                splits.setdefault(split, []).append(path)
    return splits


def _deeper(folder: Path) -> Files:
    """The one data set in parquet files somewhere below ``folder``."""
    places = sorted({path.parent for path in _below(folder) if path.suffix.lower() == ".parquet"})
    if len(places) == 1:
        return Files(places[0], _parquet(places[0]))
    if places:
        raise InvalidValueError(
            f"expected one data set in {folder}, got parquet files in {', '.join(map(str, places))}; give one of "
            f"these, or, for a table of several, put train-*.parquet and test-*.parquet of each into a folder mnist, "
            f"svhn, cifar10 (on the hub: ylecun/mnist, ufldl-stanford/svhn, uoft-cs/cifar10), or leave columns out "
            f"with --presets"
        )
    raise InvalidValueError(
        f"expected images or parquet files in {folder}, got neither; give a folder with train-*.parquet and "
        f"test-*.parquet, or one with a folder of images per class"
    )


def _by_class(folder: Path, paths: list[Path]) -> Files:
    """Images in a folder per class, and these in ``train/``, ``test/`` and ``unlabeled/`` if there is a ``train/``."""
    around = {path: path.relative_to(folder).parts[:-1] for path in paths}
    while len({parts[:1] for parts in around.values()}) == 1 and all(len(parts) > 1 for parts in around.values()):
        folder = folder / around[paths[0]][0]  # One folder around all.
        around = {path: parts[1:] for path, parts in around.items()}
    # A train/ with images directly in it is a class of that name.
    is_split = any(len(parts) > 1 and parts[0].lower() in TRAIN_NAMES for parts in around.values())
    if is_split:
        others = sorted({parts[0] for parts in around.values() if parts and parts[0].lower() not in _SPLITS})
        if others:
            raise InvalidValueError(
                f"expected no other folders of images beside train/, test/ and unlabeled/ in {folder}, got "
                f"{', '.join(others)}; move them into these, or away"
            )
    splits: dict[str, list[Path]] = {}
    classes = {}
    for path, parts in around.items():
        split, *inner = parts if is_split and parts else ("train", *parts)
        splits.setdefault(split.lower(), []).append(path)
        if not any(name.lower() in UNLABELLED_NAMES for name in (split, *inner[:1])):
            classes[path] = inner[0] if inner else ""
    if loose := [path for path, name in classes.items() if not name]:
        raise InvalidValueError(
            f"expected each image in a folder of its class, got {len(loose)} without, such as {loose[0]}; make a "
            f"folder per class beside them and move them there, or into unlabeled/"
        )
    return Files(folder, splits, classes)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files in ``folder`` and the folders in it, in order. Links are followed, but not back to where they come from."""
    here = folder.resolve()
    if here in above:
        return
    for path in _inside(folder):
        if path.is_dir():
            yield from _below(path, (*above, here))
        else:
            yield path

"""Reads images and labels from the hub, from parquet or from a folder of images, through Hugging Face datasets."""

import io
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.records import RecordError

_UNLABELLED = ("unlabeled", "unlabelled", "unsupervised")
_TRAIN = ("train", "training")
_TEST = ("test", "validation", "val", "valid")
_IMAGE_COLUMNS = ("image", "img", "images", "picture")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "y")


@dataclass(frozen=True)
class Form:
    """What images are brought to.

    Attributes:
        size: Height and width in pixels that are expected; ``None``: that of the first image.
        channels: 1 for grey, 3 for RGB; ``None``: grey if all images are.
        classes: Number of classes, where labels are numbers without names; ``None``: those that occur.
        resize: Height and width that images of any size are brought to.
    """

    size: int | None = None
    channels: int | None = None
    classes: int | None = None
    resize: int | None = None


@dataclass(frozen=True)
class Hub:
    """A data set on the hub."""

    name: str
    subset: str | None = None

    @property
    def identity(self) -> str:
        """What the decoded images are kept under."""
        return f"hub {self.name} {self.subset}"


@dataclass(frozen=True)
class Files:
    """Files on this machine.

    Attributes:
        folder: Where they are.
        splits: Paths by split.
        images: Whether these are images, in a folder per class; otherwise parquet.
    """

    folder: Path
    splits: dict[str, list[Path]]
    images: bool

    @property
    def identity(self) -> str:
        """What the decoded images are kept under: other files, or files that changed, have another identity."""
        described = [
            (split, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
            for split, paths in self.splits.items()
            for path in paths
        ]
        return f"files {described}"


Origin = Hub | Files


def find(folder: Path, name: str) -> Files:
    """Find the parquet files or images of ``name`` in ``folder``: there, in ``data/``, or below a folder of that name.

    Raises:
        InvalidValueError: there are none; the message says what was expected.
    """
    if not folder.is_dir():
        raise InvalidValueError(f"expected a folder of images or parquet files, got {folder}, which is none")
    below = folder / Path(name).name
    places = [folder, folder / "data", below, *(sorted(path for path in below.rglob("*") if path.is_dir()))]
    for place in places:
        parquet = sorted(place.glob("*.parquet"))
        if parquet:
            return Files(place, _by_split(parquet), images=False)
    for place in (below, folder):
        splits = _image_splits(place)
        if any(splits.values()):
            return Files(place, splits, images=True)
    raise InvalidValueError(
        f"expected images or parquet files in {folder}, got neither; give a folder with train-*.parquet and "
        f"test-*.parquet, or one with a folder of images per class"
    )


def _by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for path in paths:
        split = path.name.replace(".", "-").split("-")[0].lower()
        splits.setdefault(split if split in (*_TRAIN, *_TEST, *_UNLABELLED, "extra") else "train", []).append(path)
    return splits


def _image_splits(folder: Path) -> dict[str, list[Path]]:
    """Images by split: those of ``train/`` and ``test/`` if there are such folders, otherwise all are for training."""
    inner = [place for place in sorted(folder.iterdir()) if place.is_dir()] if folder.is_dir() else []
    named = {place.name.lower(): place for place in inner}
    if not any(name in named for name in _TRAIN):
        return {"train": images_in(folder)} if folder.is_dir() else {}
    return {name: images_in(place) for name, place in named.items() if name in (*_TRAIN, *_TEST, *_UNLABELLED)}


def images_in(folder: Path) -> list[Path]:
    """All image files below ``folder``, by their endings, in order; hidden ones are left out."""
    endings = PIL.Image.registered_extensions()
    found = (path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


@dataclass(frozen=True)
class Decoded:
    """All images of a data set that can be read.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,), -1 = none.
        test: Indices of the test part, int64.
        classes: Names of the classes.
        bad: A line for each image that cannot be read.
    """

    images: Tensor
    labels: Tensor
    test: Tensor
    classes: tuple[str, ...]
    bad: list[str]


def read(origin: Origin, form: Form) -> Decoded:
    """Decode all images of ``origin``.

    Raises:
        InvalidValueError: images of several sizes, labels outside the classes, no labels, or no image.
        RecordError: the files cannot be read, or cannot be had without a network.
    """
    with tempfile.TemporaryDirectory() as scratch:
        splits = [
            _Stored(split, rows, isinstance(origin, Files) and origin.images, form)
            for split, rows in _used(_load(origin, scratch)).items()
        ]
        declared = [name for split in splits for name in split.declared]
        rows = [row for split in splits for row in split.rows()]
    occurring = {row.label for row in rows if row.label is not None}
    classes = tuple(dict.fromkeys([*declared, *sorted(occurring, key=_numbers_first)]))
    if len(classes) < 2:
        raise InvalidValueError(
            f"expected labelled images of two classes or more, got {len(rows)} images of {len(classes)}: "
            f"{', '.join(classes) or 'none has a label'}; put them into a folder per class, or add a label column"
        )
    pictures: list[PIL.Image.Image] = []
    read_rows: list[_Row] = []
    bad: list[str] = []
    for row in rows:
        try:
            pictures.append(_decode(row.content))
            read_rows.append(row)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            bad.append(f"{row.name}: {error}")
    if not pictures:
        raise InvalidValueError(f"expected images, got none that can be read; the first is {bad[0]}")
    index: dict[str | None, int] = {name: place for place, name in enumerate(classes)}
    return Decoded(
        images=_stack(pictures, [row.name for row in read_rows], form),
        labels=torch.tensor([index.get(row.label, -1) for row in read_rows]),
        test=torch.tensor([row.is_test for row in read_rows]).nonzero().squeeze(1),
        classes=classes,
        bad=bad,
    )


@dataclass(frozen=True)
class _Row:
    """One image as stored: encoded, with its label's name (``None`` = unlabelled) and what to call it in a message."""

    content: bytes
    label: str | None
    is_test: bool
    name: str


def _numbers_first(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _used(splits: dict[str, Any]) -> dict[str, Any]:
    """Training rows, unlabelled ones, and one split for test."""
    test = [name for name in _TEST if name in splits][:1]
    return {name: rows for name, rows in splits.items() if name in (*_TRAIN, *_UNLABELLED, *test)}


def _load(origin: Origin, scratch: str) -> dict[str, Any]:
    """The splits by name, each a ``datasets.Dataset``."""
    import datasets  # Here, because importing it takes a second and only the first reading of a data set needs it.

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        match origin:
            case Hub(name, subset):
                return dict(datasets.load_dataset(name, subset))
            case Files(_, splits, images):
                paths = {split: [str(path) for path in paths] for split, paths in splits.items() if paths}
                kind, options = ("imagefolder", {"drop_labels": False}) if images else ("parquet", {})
                return dict(datasets.load_dataset(kind, data_files=paths, cache_dir=scratch, **options))
    except Exception as error:  # What datasets raises depends on what went wrong where.
        cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if isinstance(origin, Hub):
            raise RecordError(
                f"cannot load {origin.name} from the Hugging Face hub ({cause}). Without a network: download the "
                f"parquet files of {origin.name}{f', subset {origin.subset},' if origin.subset else ''} elsewhere "
                f"(train-*.parquet and test-*.parquet), put them into a folder here and give it with --data FOLDER"
            ) from error
        raise RecordError(f"cannot read the files in {origin.folder} ({cause}); are they whole?") from error
    finally:
        if not shown:
            datasets.enable_progress_bars()


class _Stored:
    """One split as ``datasets`` has it."""

    def __init__(self, split: str, rows: Any, named_by_path: bool, form: Form) -> None:
        import datasets

        features = rows.features
        self._split, self._named_by_path = split, named_by_path
        self._image = _column(features, _IMAGE_COLUMNS, datasets.Image, "images", split)
        if isinstance(features[self._image], datasets.Image):
            rows = rows.cast_column(self._image, datasets.Image(decode=False))
        self._rows = rows
        self._label, self._names = "", None
        if split not in _UNLABELLED:
            self._label = _column(features, _LABEL_COLUMNS, datasets.ClassLabel, "labels", split)
            if isinstance(features[self._label], datasets.ClassLabel):
                self._names = features[self._label].names
            elif form.classes is not None:
                self._names = [str(number) for number in range(form.classes)]

    @property
    def declared(self) -> list[str]:
        """Names of the classes, where the files say them."""
        return [name for name in self._names or [] if name.lower() not in _UNLABELLED]

    def rows(self) -> Iterator[_Row]:
        for number, row in enumerate(self._rows):
            stored = row[self._image]
            path = stored.get("path") if isinstance(stored, dict) else None
            name = path if path and self._named_by_path else f"row {number} of {self._split}"
            label = _label(row[self._label], self._names, name) if self._label else None
            yield _Row(_content(stored, name), label, self._split in _TEST, name)


def _column(features: Any, usual: Iterable[str], kind: type, what: str, split: str) -> str:
    fitting = [name for name in features if isinstance(features[name], kind)]
    if len(fitting) == 1:
        return fitting[0]
    for name in usual:
        if name in (fitting or features):
            return name
    raise InvalidValueError(
        f"expected a column of {what} ({', '.join(usual)}) in {split}, got {', '.join(features)}; rename one"
    )


def _label(value: object, names: list[str] | None, row: str) -> str | None:
    if value is None or value == -1 or (names is not None and isinstance(value, int) and value < 0):
        return None
    if isinstance(value, str):
        return None if value.lower() in _UNLABELLED else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or value < 0:
        raise InvalidValueError(f"{row}: expected a label of 0 or more, -1 for none, or a name, got {value!r}")
    if names is None:
        return str(value)
    if value >= len(names):
        raise InvalidValueError(f"{row}: expected a label from 0 to {len(names) - 1}, got {value}")
    return None if names[value].lower() in _UNLABELLED else names[value]


def _content(stored: object, name: str) -> bytes:
    if isinstance(stored, bytes):
        return stored
    if isinstance(stored, dict) and isinstance(stored.get("bytes"), bytes):
        return bytes(stored["bytes"])
    if isinstance(stored, dict) and stored.get("path"):
        try:
            return Path(stored["path"]).read_bytes()
        except OSError as error:
            raise RecordError(f"cannot read {stored['path']}: {error.strerror}") from error
    raise InvalidValueError(f"{name}: expected an encoded image, got {type(stored).__name__}")


def _decode(content: bytes) -> PIL.Image.Image:
    picture = PIL.Image.open(io.BytesIO(content))
    picture.load()
    if picture.mode.startswith("I"):
        raise ValueError("expected 8 bits per channel, got 16 or more; convert it first")
    return picture


_GREY = ("1", "L", "LA")


def _stack(pictures: list[PIL.Image.Image], names: list[str], form: Form) -> Tensor:
    channels = form.channels or (1 if all(picture.mode in _GREY for picture in pictures) else 3)
    expected = (form.size, form.size) if form.size else pictures[0].size
    if form.resize is not None:
        expected = (form.resize, form.resize)
        pictures = [picture.convert(_mode(channels)).resize(expected) for picture in pictures]
    for picture, name in zip(pictures, names, strict=True):
        if picture.size != expected:
            raise InvalidValueError(
                f"expected images of one size, {expected[0]} × {expected[1]} pixels, got {picture.size[0]} × "
                f"{picture.size[1]} in {name}; bring them to one size with --data.resize {max(expected)}"
            )
    images = torch.empty(len(pictures), channels, expected[1], expected[0], dtype=torch.uint8)
    for place, picture in enumerate(pictures):
        pixels = torch.from_numpy(np.array(picture.convert(_mode(channels))))
        images[place] = pixels.view(expected[1], expected[0], channels).permute(2, 0, 1)
    return images


def _mode(channels: int) -> str:
    return "L" if channels == 1 else "RGB"


def decode(path: Path, shape: tuple[int, int, int], *, resize: bool = False) -> Tensor:
    """Read one image file as uint8 of ``shape`` (C, H, W).

    Raises:
        InvalidValueError: it cannot be read, or has another size and ``resize`` is not given.
    """
    try:
        picture = _decode(path.read_bytes())
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InvalidValueError(f"expected an image, but {path} cannot be read: {error}") from error
    channels, height, width = shape
    if resize:
        picture = picture.convert(_mode(channels)).resize((width, height))
    if picture.size != (width, height):
        raise InvalidValueError(
            f"expected an image of {width} × {height} pixels, as in training, got {picture.size[0]} × "
            f"{picture.size[1]} in {path}; bring it to that size with --resize"
        )
    return _stack([picture], [str(path)], Form(channels=channels))[0]

"""Reads images and labels from the hub, from parquet or from a folder of images, through Hugging Face datasets."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.files import TEST_NAMES, TRAIN_NAMES, UNLABELLED_NAMES, Files
from adversarial_dropout.experiments.data.hub import Hub
from adversarial_dropout.experiments.data.pictures import Stack, UnreadableError

_IMAGE_COLUMNS = ("image", "img", "images", "picture")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "y")


@dataclass(frozen=True)
class Form:
    """What a data set looks like, or is brought to.

    Attributes:
        size: Height and width in pixels that are expected; ``None``: that of the first image.
        channels: 1 for grey, 3 for RGB; ``None``: grey if all images are.
        classes: Names of the classes that there are at most, in order; ``None``: those that occur.
        resize: Height and width that images of any size are brought to.
    """

    size: int | None = None
    channels: int | None = None
    classes: tuple[str, ...] | None = None
    resize: int | None = None

    def stack(self) -> Stack:
        """An empty stack of such images."""
        advice = "bring all to one size with --data.resize PIXELS"
        if self.size is not None:
            advice = f"give the folder of the data set that is asked for, or bring all to --data.resize {self.size}"
        size = self.resize or self.size
        return Stack(self.channels, (size, size) if size else None, resize=self.resize is not None, advice=advice)


Origin = Hub | Files


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
    stack = form.stack()
    labels: list[int] = []
    test: list[int] = []
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        splits = [_Split(name, rows, form) for name, rows in _used(origin.load(scratch)).items()]
        classes = _classes(splits, form)
        index: dict[str | None, int] = {name: place for place, name in enumerate(classes)}
        for split in splits:
            for (name, stored), label in zip(split.images(), split.labels, strict=True):
                try:
                    stack.add(_content(stored, name), name)
                except (OSError, UnreadableError) as error:
                    bad.append(f"{name}: {error}")
                    continue
                if split.is_test:
                    test.append(len(labels))
                labels.append(index.get(label, -1))
    if not labels:
        raise InvalidValueError(f"expected images, got none that can be read; the first is {bad[0]}")
    return Decoded(stack.tensor(), torch.tensor(labels), torch.tensor(test, dtype=torch.int64), classes, bad)


def _used(splits: dict[str, Any]) -> dict[str, Any]:
    """One split for test, training rows and unlabelled ones, in this order wherever they come from."""
    test = [name for name in TEST_NAMES if name in splits][:1]
    used = {name: splits[name] for name in (*test, *TRAIN_NAMES, *UNLABELLED_NAMES) if name in splits}
    if not used:
        raise InvalidValueError(f"expected a split train, and one test, got {', '.join(splits) or 'none'}")
    return used


def _classes(splits: "list[_Split]", form: Form) -> tuple[str, ...]:
    """Names of all classes: as the files declare them, then those that only occur, numbers in their order."""
    declared = [name for split in splits for name in split.declared]
    occurring = {label for split in splits for label in split.labels if label is not None}
    classes = tuple(dict.fromkeys([*declared, *sorted(occurring, key=_numbers_first)]))
    shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    if form.classes is not None:
        numbered = tuple(str(number) for number in range(len(form.classes)))
        for names in (form.classes, numbered):
            if set(classes) <= set(names):
                return names
        raise InvalidValueError(
            f"expected the classes {', '.join(form.classes)}, got {shown}; give the folder of the data set that is "
            f"asked for"
        )
    if len(classes) < 2:
        raise InvalidValueError(
            f"expected labelled images of two classes or more, got {sum(len(split.labels) for split in splits)} images "
            f"of {len(classes)}: {shown or 'none has a label'}; put them into a folder per class, or add a label column"
        )
    return classes


def _numbers_first(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


class _Split:
    """One split as ``datasets`` has it.

    Attributes:
        is_test: Whether it is the test part.
        labels: Name of each row's class; ``None`` = unlabelled.
        declared: Names of the classes, where the files say them.
    """

    def __init__(self, name: str, rows: Any, form: Form) -> None:
        import datasets

        self._name = name
        self._image = _column(rows.features, _IMAGE_COLUMNS, datasets.Image, "images", name)
        self._rows = rows.select_columns([self._image])
        if isinstance(rows.features[self._image], datasets.Image):
            self._rows = self._rows.cast_column(self._image, datasets.Image(decode=False))
        self.is_test = name in TEST_NAMES
        self.labels: list[str | None] = [None] * len(rows)
        self.declared: list[str] = []
        if name not in UNLABELLED_NAMES:
            column = _column(rows.features, _LABEL_COLUMNS, datasets.ClassLabel, "labels", name)
            kind, names = rows.features[column], None
            if isinstance(kind, datasets.ClassLabel):
                names = list(kind.names)
            elif form.classes is not None and "string" not in str(kind.dtype):
                names = list(form.classes)
            self.labels = [_label(value, names, self._row(place)) for place, value in enumerate(rows[column])]
            self.declared = [declared for declared in names or [] if declared.lower() not in UNLABELLED_NAMES]
        if self.is_test and None in self.labels:
            raise InvalidValueError(
                f"expected a label of each test image, got none of {self._row(self.labels.index(None))}; call the "
                f"split unlabeled, or leave these rows out"
            )

    def images(self) -> Iterator[tuple[str, object]]:
        """What to call each image in a message, and how it is stored: a path, bytes, or something else."""
        for place, row in enumerate(self._rows):
            stored = row[self._image]
            if isinstance(stored, dict):
                path, stored = stored.get("path"), stored.get("bytes")
                if stored is None and path:
                    yield path, Path(path)
                    continue
            yield self._row(place), stored

    def _row(self, place: int) -> str:
        return f"row {place} of {self._name}"


def _column(features: Any, usual: Iterable[str], kind: type, what: str, split: str) -> str:
    """The column with a usual name, one of the fitting kind before others; or the only one of that kind."""
    fitting = [name for name in features if isinstance(features[name], kind)]
    for names in (fitting, list(features)):
        by_name = {name.lower(): name for name in names}
        for name in usual:
            if name in by_name:
                return str(by_name[name])
    if len(fitting) == 1:
        return str(fitting[0])
    raise InvalidValueError(
        f"expected a column of {what} ({', '.join(usual)}) in {split}, got {', '.join(features)}; rename one"
    )


def _label(value: object, names: list[str] | None, row: str) -> str | None:
    """The name of a row's class; ``names`` are what whole numbers stand for."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == -1:
        return None
    if isinstance(value, int) and value >= 0 and names is not None:
        if value >= len(names):
            raise InvalidValueError(
                f"expected labels from 0 to {len(names) - 1}, and -1 for none, got {value} in {row}; correct it"
            )
        value = names[value]
    if isinstance(value, str):
        return None if value.lower() in ("", *UNLABELLED_NAMES) else value
    if not isinstance(value, int) or value < 0:
        raise InvalidValueError(
            f"expected labels that are names, or whole numbers from 0 and -1 for none, got {value!r} in {row}; "
            f"correct it"
        )
    return str(int(value))


def _content(stored: object, name: str) -> bytes:
    if isinstance(stored, Path):
        return stored.read_bytes()
    if stored is None:
        raise UnreadableError("there is no image")
    if not isinstance(stored, bytes):
        raise InvalidValueError(
            f"expected encoded images (the content of a PNG or JPEG file, say), got {type(stored).__name__} in {name}; "
            f"encode them"
        )
    return stored


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of ``datasets``."""
    import datasets  # Here, because importing it takes a second and only the first reading of a data set needs it.

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()

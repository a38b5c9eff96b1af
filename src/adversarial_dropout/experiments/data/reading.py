"""Reads the parts of a data set through Hugging Face datasets: encoded images, and names of their classes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.files import TEST_NAMES, TRAIN_NAMES, UNLABELLED_NAMES, Files, Hub

_IMAGE_COLUMNS = ("image", "img", "images", "picture")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "y")


class Part:
    """The training, test or unlabelled part of a data set.

    Attributes:
        is_test: Whether it is the test part.
        labels: Name of each image's class; ``None``: unlabelled.
        declared: Names of the classes, where the files declare them.
    """

    def __init__(self, name: str, rows: Any, classes: Sequence[str] | None) -> None:
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
                names = kind.names
            elif classes is not None and "string" not in str(kind):
                names = classes
            self.labels = [_label(value, names, self._row(index)) for index, value in enumerate(rows[column])]
            self.declared = [declared for declared in names or [] if declared.lower() not in UNLABELLED_NAMES]
        if self.is_test and None in self.labels:
            raise InvalidValueError(
                f"expected a label of each test image, got none of {self._row(self.labels.index(None))}; call the "
                f"split unlabeled, or leave these rows out"
            )

    def images(self) -> Iterator[tuple[str, bytes | Path | None]]:
        """For each image, its name in messages and its content or its file."""
        for index, row in enumerate(self._rows):
            stored: Any = row[self._image]
            path = None
            if isinstance(stored, dict):  # Of datasets.Image, or of a column of the same form.
                path, stored = stored.get("path"), stored.get("bytes")
            if stored is None and isinstance(path, str):
                yield path, Path(path)
                continue
            if not isinstance(stored, bytes | None):
                raise InvalidValueError(
                    f"expected encoded images (the content of a PNG or JPEG file, say), got {type(stored).__name__} in "
                    f"{self._row(index)}; encode them"
                )
            yield self._row(index), stored

    def _row(self, index: int) -> str:
        return f"row {index} of {self._name}"


def read_parts(origin: Hub | Files, classes: Sequence[str] | None) -> list[Part]:
    """Read the test, training and unlabelled parts of ``origin`` in this order, whatever the order of its files.

    Numbers without names among the labels stand for ``classes``.
    """
    import datasets  # Imported here, because it takes a second and data in the cache do not need it.

    progress_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        splits = origin.load()
    finally:
        if progress_bars:
            datasets.enable_progress_bars()
    test = [name for name in TEST_NAMES if name in splits][:1]
    used = [name for name in (*test, *TRAIN_NAMES, *UNLABELLED_NAMES) if name in splits]
    if not used:
        raise InvalidValueError(f"expected a split train, and one test, got {', '.join(splits) or 'none'}")
    return [Part(name, splits[name], classes) for name in used]


def class_names(parts: Sequence[Part], expected: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of all classes: ``expected``, or those that the files declare, then others, numbers first."""
    declared = [name for part in parts for name in part.declared]
    occurring = {label for part in parts for label in part.labels if label is not None}
    ordered = sorted(occurring, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    classes = tuple(dict.fromkeys([*declared, *ordered]))
    shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    if expected is not None:
        for names in (expected, tuple(str(number) for number in range(len(expected)))):
            if set(classes) <= set(names):
                return names
        raise InvalidValueError(
            f"expected the classes {', '.join(expected)}, got {shown}; give the folder of the data set that is asked "
            f"for"
        )
    if len(classes) < 2:
        raise InvalidValueError(
            f"expected labelled images of two classes or more, got {sum(len(part.labels) for part in parts)} images "
            f"of {len(classes)}: {shown or 'none has a label'}; put them into a folder per class, or add a label column"
        )
    return classes


def _column(features: Any, usual: Iterable[str], kind: type, what: str, split: str) -> str:
    """The column with a usual name, preferably of the fitting kind; otherwise the only one of that kind."""
    fitting = [name for name in features if isinstance(features[name], kind)]
    named = [name for names in (fitting, [*features]) for word in usual for name in names[::-1] if name.lower() == word]
    if not named and len(fitting) != 1:
        raise InvalidValueError(
            f"expected a column of {what} ({', '.join(usual)}) in {split}, got {', '.join(features)}; rename one"
        )
    return str((named or fitting)[0])


def _label(value: object, names: Sequence[str] | None, row: str) -> str | None:
    """The name of a row's class; ``names`` are the names for whole numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == -1:
        return None
    if isinstance(value, int) and value >= 0:
        if names is None:
            return str(int(value))
        if value >= len(names):
            raise InvalidValueError(
                f"expected labels from 0 to {len(names) - 1}, and -1 for none, got {value} in {row}; correct it"
            )
        value = names[value]
    if not isinstance(value, str):
        raise InvalidValueError(
            f"expected labels that are names, or whole numbers from 0 and -1 for none, got {value!r} in {row}; "
            f"correct it"
        )
    return None if value.lower() in ("", *UNLABELLED_NAMES) else value

"""Lists of images with their classes: CSV files with a column of files and a column of labels.

The header names the columns, so that it also tells the delimiter: a comma, a semicolon or a tab. ``csv.Sniffer``
guesses it from the frequencies of characters, and is wrong for short lists and for names with spaces or points.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.files import (
    TEST_NAMES,
    TRAIN_NAMES,
    UNLABELLED_NAMES,
    Files,
    images_in,
)
from adversarial_dropout.experiments.records import RecordError

ENDINGS = (".csv", ".tsv")
"""Endings of the names of lists, in lower case."""

_FILES = ("file", "image", "path", "filename", "file_name", "filepath", "image_path")
_LABELS = ("label", "class", "labels", "class_name")
_SPLIT = "split"
_DELIMITERS = ",;\t"
_NO_LABEL = ("", "-1", *UNLABELLED_NAMES)
_SHOWN = 5


@dataclass(frozen=True)
class _Row:
    """What a line of a list says of an image; the label is "" for none."""

    line: int
    path: Path
    split: str
    label: str


def is_list(path: Path) -> bool:
    """Whether ``path`` is a file whose name ends as those of lists do."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def read(path: Path) -> Files:
    """Read a list of images and their classes.

    The header has a column of files (file, image, path, filename), one of labels (label, class), and perhaps one of
    splits (train, test, unlabeled; train where it is empty). Other columns are ignored, and so is the case of these
    names. Files are relative to the folder of the list. An empty label or -1 means that the image has none; in the
    split unlabeled, labels are not used. A line that repeats another one counts once. The text is UTF-8, with or
    without a byte order mark, or UTF-16 with one.

    Raises:
        InvalidValueError: the columns are missing or named twice, a line is incomplete, names no file, has an unknown
            split or contradicts another line, or a test image has no label.
    """
    rows = _distinct(path, list(_rows(path, labelled=True)))
    splits: dict[str, list[Path]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row.path)
    test = [name for name in splits if name in TEST_NAMES]
    if len(test) > 1:
        raise InvalidValueError(f"expected one test part in {path}, got the splits {', '.join(test)}; keep one of them")
    for row in rows:
        if row.split in TEST_NAMES and not row.label:
            raise InvalidValueError(
                f"expected a label of each test image, got none in line {row.line} of {path}; add it, or change the "
                f"split to unlabeled"
            )
    classes = {row.path: row.label for row in rows if row.label and row.split not in UNLABELLED_NAMES}
    return Files(path.parent, splits, classes, listed_in=path)


def images(path: Path) -> list[Path]:
    """The files that a list names, in its order; it needs no column of labels."""
    return [row.path for row in _rows(path, labelled=False)]


def unlisted(read: Sequence[Files], elsewhere: Iterable[Path] = (), *, skip: bool = False) -> list[Path]:
    """Find images that lie among those of lists, but that none of the lists names and that are not ``elsewhere``.

    An image in the same folder as one that is named was probably forgotten: without ``skip`` it is an error. Images in
    folders that no list uses may belong to something else, and are never an error.
    """
    named = {path.resolve() for files in read for paths in files.splits.values() for path in paths}
    used = {path.parent for path in named}
    known = named | {path.resolve() for path in elsewhere}
    others: dict[Path, None] = {}
    for folder in dict.fromkeys(files.folder for files in read):
        if below := sorted(parent for parent in used if parent.is_relative_to(folder.resolve())):
            others |= dict.fromkeys(images_in(Path(os.path.commonpath(below))))
    over = [path for path in others if path.resolve() not in known]
    beside = [path for path in over if path.resolve().parent in used]
    if beside and not skip:
        raise InvalidValueError(
            f"expected every image beside those of the list in the list too, got {len(beside)} that it does not name: "
            f"{_some(beside)}; add them, with an empty label where they have none, or pass over them with "
            f"--skip-unlisted"
        )
    return over


def _distinct(path: Path, rows: Sequence[_Row]) -> list[_Row]:
    """The first row of each file; rows that say different things of one file are an error."""
    by_file: dict[Path, _Row] = {}
    for row in rows:
        first = by_file.setdefault(row.path.resolve(), row)
        if (first.split, first.label) != (row.split, row.label):
            raise InvalidValueError(
                f"expected one class and one split of each file in {path}, got {_described(first)} in line "
                f"{first.line} and {_described(row)} in line {row.line} for {row.path}; remove one of the lines"
            )
    return list(by_file.values())


def _described(row: _Row) -> str:
    return f"{row.label or 'no label'} ({row.split})"


def _rows(path: Path, *, labelled: bool) -> Iterator[_Row]:
    """The rows of a list, all of whose files are there."""
    text = _text(path)
    delimiter, header = _header(path, text, labelled=labelled)
    file_column, label_column = _column(path, header, _FILES), _column(path, header, _LABELS)
    split_column = _column(path, header, (_SPLIT,))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, missing = [], []
    try:
        next(reader)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InvalidValueError(
                    f"expected {len(header)} cells in each line of {path}, got {len(cells)} in line {reader.line_num}; "
                    f"quote names with {delimiter!r} in them"
                )
            name = "" if file_column is None else cells[file_column].strip()
            if not name:
                raise InvalidValueError(f"expected a file in each line of {path}, got none in line {reader.line_num}")
            file = path.parent / Path(name).expanduser()
            try:
                found = file.is_file()
            except ValueError:  # A name with a NUL character.
                found = False
            if not found:
                missing.append(file)
            label = "" if label_column is None else cells[label_column].strip()
            split = "" if split_column is None else cells[split_column].strip().lower()
            if split not in ("", *TRAIN_NAMES, *TEST_NAMES, *UNLABELLED_NAMES):
                raise InvalidValueError(
                    f"expected the split train, test or unlabeled in each line of {path}, got {split!r} in line "
                    f"{reader.line_num}"
                )
            label = "" if label.lower() in _NO_LABEL else label
            rows.append(_Row(reader.line_num, file, _usual(split), label))
    except csv.Error as error:
        raise InvalidValueError(f"expected a list in CSV, got {error} in line {reader.line_num} of {path}") from error
    if missing:
        raise InvalidValueError(
            f"expected files that are there in {path}, got {len(missing)} of {len(rows)} that are not: "
            f"{_some(missing)}; correct these names, which are relative to {path.parent}, or remove their lines"
        )
    if not rows:
        raise InvalidValueError(f"expected a header and a line per image in {path}, got the header alone")
    yield from rows


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; make it readable") from error
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidValueError(
            f"expected a list in UTF-8, got other bytes in line {line} of {path}; save it as UTF-8"
        ) from error
    return text


def _header(path: Path, text: str, *, labelled: bool) -> tuple[str, list[str]]:
    """The delimiter with which the first line has the columns of a list, and the names of all columns."""
    first = text.splitlines()[0] if text else ""
    for delimiter in _DELIMITERS:
        header = [
            name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True))
        ]
        if any(name in _FILES for name in header) and (not labelled or any(name in _LABELS for name in header)):
            return delimiter, header
    raise InvalidValueError(
        f"expected a header with a column of files ({', '.join(_FILES[:4])})"
        f"{' and a column of labels (label, class)' if labelled else ''} in {path}, separated by commas, semicolons or "
        f"tabs, got {first[:80]!r}; add or rename them"
    )


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> int | None:
    """The column with one of ``names``."""
    found = [index for index, name in enumerate(header) if name in names]
    if len(found) > 1:
        raise InvalidValueError(
            f"expected one column of {', '.join(names[:4])} in {path}, got {', '.join(header[i] for i in found)}; "
            f"rename or remove the others"
        )
    return found[0] if found else None


def _usual(split: str) -> str:
    """The usual name of a split: folders have others for the same, but a list may mix them."""
    if split in ("", *TRAIN_NAMES):
        return TRAIN_NAMES[0]
    return UNLABELLED_NAMES[0] if split in UNLABELLED_NAMES else split


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:_SHOWN])) + (", ..." if len(paths) > _SHOWN else "")

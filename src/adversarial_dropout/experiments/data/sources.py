"""Loads data sets as uint8 tensors: bundled digits, the paper's data sets and others, which are decoded once."""

import dataclasses
import hashlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, did_you_mean
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data.files import Files, Hub
from adversarial_dropout.experiments.data.location import DEFAULT_LOCATION as DEFAULT_LOCATION
from adversarial_dropout.experiments.data.location import DataLocation as DataLocation
from adversarial_dropout.experiments.data.location import as_test_part, found
from adversarial_dropout.experiments.data.pictures import DifferentSizesError, Form, Stack, UnreadableError
from adversarial_dropout.experiments.data.reading import Part, class_names, read_parts
from adversarial_dropout.experiments.records import RecordError, RecordWarning


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images and labels in memory.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,); -1 where there is none.
        test: Indices of the test part, int64; all other images are for training.
        brightest: The pixel value that stands for 1.
        classes: Names of the classes; a label is an index into them.
        bad: A line for each image that is left out because it cannot be read.
        names: Name of each image: its file as seen from the data's folder, or its row; empty for the digits.
    """

    images: Tensor
    labels: Tensor
    test: Tensor
    brightest: int
    classes: tuple[str, ...]
    bad: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def name(self, row: int) -> str:
        """Name of the image in ``row``."""
        return self.names[row] if self.names else f"row {row}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def training(self) -> Tensor:
        """Indices of all rows that are not in the test part, in order."""
        is_test = torch.zeros(len(self.labels), dtype=torch.bool)
        is_test[self.test.cpu()] = True
        return (~is_test).nonzero().squeeze(1)

    @property
    def digest(self) -> str:
        """SHA-256 of images, labels, test indices and classes: two data sets with the same digest are the same."""
        content = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        for tensor in (self.images, self.labels, self.test):
            content.update(tensor.cpu().contiguous().numpy().data)
        return content.hexdigest()

    def to(self, device: torch.device) -> "ImageData":
        """The same data with images and labels on ``device``."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


_DIGITS = tuple("0123456789")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The paper's data sets: where the hub has them, and their form.
_KNOWN = {
    "mnist": (Hub("ylecun/mnist", "mnist"), Form((28, 28), 1, _DIGITS)),
    "svhn": (Hub("ufldl-stanford/svhn", "cropped_digits"), Form((32, 32), 3, _DIGITS)),
    "cifar10": (Hub("uoft-cs/cifar10", "plain_text"), Form((32, 32), 3, _THINGS)),
}
NAMES = ("digits", *_KNOWN)
"""Names of data sets; a folder of one's own is not called so."""
_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(:(?P<subset>[\w.-]+))?")
_FORMAT = 2  # Of the files in the cache; increasing it makes them anew.


def load(
    config: DataConfig,
    location: DataLocation = DEFAULT_LOCATION,
    like: Form | None = None,
    *,
    largest: int | None = None,
) -> ImageData:
    """Load the source that ``config`` names. Decoded images are cached in :func:`cache_folder`.

    The data must have the form ``like``, or, without it, that of the source with the config's ``resize``. If neither
    gives a size, ``largest`` is the height and width to which all are resized if some are larger or sizes differ.
    """
    if config.name == "digits" and like is None:
        if config.resize is not None:
            raise InvalidValueError(
                f"digits have 8 × 8 pixels: expected no data.resize, got {config.resize}; leave it out"
            )
        if location.test is not None:
            raise InvalidValueError(f"expected no --test for digits, which have a test part, got {location.test}")
        return digits()
    hub, form = _KNOWN.get(config.name, (None, Form()))
    origin = _origin(config.name, hub, location)
    if config.resize is not None:
        form = dataclasses.replace(form, size=(config.resize, config.resize), resize=True)
    elif largest is not None and form.size is None:
        form = dataclasses.replace(form, largest=largest)
    form = like or form
    test = None if location.test is None else as_test_part(location.test, origin)
    identities = " and ".join(part.identity for part in (origin, test) if part is not None)
    described = f"{_FORMAT} {identities} {form}" + (f" at most {form.largest}" if form.largest else "")
    key = hashlib.sha256(described.encode(errors="surrogateescape")).hexdigest()
    path = cache_folder() / f"{key[:32]}.safetensors"
    data = _from_cache(path)
    if data is None:
        data = read(origin, form, test)
        if not data.bad or location.skip_bad_images:
            _to_cache(path, data)
    if data.bad and not location.skip_bad_images:
        shown = "\n".join(f"  {line}" for line in data.bad[:10]) + ("\n  ..." if len(data.bad) > 10 else "")
        raise InvalidValueError(
            f"expected images that can be read, got {len(data.bad)} of {len(data.labels) + len(data.bad)} that "
            f"cannot:\n{shown}\nRepair or remove them, or leave them out with --skip-bad-images"
        )
    if data.bad:
        more = f", and {len(data.bad) - 1} more" if len(data.bad) > 1 else ""
        warnings.warn(f"an image that cannot be read is left out: {data.bad[0]}{more}", RecordWarning, stacklevel=2)
    return data


def _origin(name: str, hub: Hub | None, location: DataLocation) -> Hub | Files:
    named = Path(name).expanduser()
    if location.folder is not None:
        inner = None if named.is_absolute() or named == location.folder else named.name
        return found(location.folder.expanduser(), inner, None if hub is None else hub.subset)
    if hub is not None:
        return hub
    if name and named.exists():
        return found(named)
    if hub_id := _HUB_ID.fullmatch(name):
        return Hub(hub_id["name"], hub_id["subset"])
    raise InvalidValueError(
        f"expected data from one of {', '.join(NAMES)}, a folder that exists (--data FOLDER), or a hub id OWNER/NAME "
        f"or OWNER/NAME:SUBSET, got {name!r}{did_you_mean(name, NAMES)}"
    )


def read(origin: Hub | Files, form: Form, test: Files | None = None) -> ImageData:
    """Decode all images of ``origin`` except bad ones, and of ``test``, its test part, if that is somewhere else.

    Without a test part, a fifth of each class becomes one.
    """
    try:
        return _read(origin, form, test)
    except DifferentSizesError:
        if form.largest is None:
            raise
        side = form.largest
        return _read(origin, dataclasses.replace(form, size=(side, side), resize=True, largest=None), test)


def _read(origin: Hub | Files, form: Form, test: Files | None) -> ImageData:
    parts = [(part, origin) for part in read_parts(origin, form.classes)]
    classes = class_names([part for part, _ in parts], form.classes)
    if test is not None:
        parts = [*((part, test) for part in _read_test(test, parts, classes, form)), *parts]
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    stack = Stack(form)
    labels: list[int] = []
    rows: list[int] = []
    bad: list[str] = []
    names: list[str] = []
    for part, source in parts:
        for (name, stored), label in zip(part.images(), part.labels, strict=True):
            try:
                stack.add(stored, name)
            except UnreadableError as error:
                bad.append(f"{name}: {error}")
                continue
            if part.is_test:
                rows.append(len(labels))
            labels.append(label_of.get(label, -1))
            names.append(source.name(Path(name)) if isinstance(source, Files) and source.classes is not None else name)
    if not labels:
        raise InvalidValueError(f"expected images, got none that can be read; the first is {bad[0]}")
    labelled = torch.tensor(labels)
    if test is not None and not rows:
        raise InvalidValueError(f"expected test images in {test.folder}, got none that can be read")
    held_out = torch.tensor(rows, dtype=torch.int64) if rows else _held_out(labelled)
    return ImageData(stack.tensor(), labelled, held_out, 255, classes, tuple(bad), tuple(names))


def _read_test(
    test: Files, parts: Sequence[tuple[Part, Hub | Files]], classes: tuple[str, ...], form: Form
) -> list[Part]:
    """The parts of ``test``, whose classes are all among ``classes``."""
    if any(part.is_test for part, _ in parts):
        raise InvalidValueError(
            f"expected no test part in the data with --test {test.folder}, got one; leave --test out, or move it away"
        )
    read = read_parts(test, form.classes)
    unknown = sorted({label for part in read for label in part.labels if label is not None} - set(classes))
    if unknown:
        raise InvalidValueError(
            f"expected test images of the classes {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}, got "
            f"{', '.join(unknown[:20])} too in {test.folder}, which no training image has; rename or move them"
        )
    return read


def cache_folder() -> Path:
    """The folder of decoded images: ``$ADVERSARIAL_DROPOUT_CACHE``, or ``~/.cache/adversarial-dropout``."""
    named = os.environ.get("ADVERSARIAL_DROPOUT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "adversarial-dropout"


def _from_cache(path: Path) -> ImageData | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            note = json.loads(file.metadata()["adversarial-dropout"])
            tensors = {name: file.get_tensor(name) for name in ("images", "labels", "test")}
        classes, bad, names = (tuple(note[name]) for name in ("classes", "bad", "names"))
        return ImageData(**tensors, brightest=255, classes=classes, bad=bad, names=names)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return None  # It is missing or damaged.


def _to_cache(path: Path, data: ImageData) -> None:
    content = safetensors.torch.save(
        {"images": data.images, "labels": data.labels, "test": data.test},
        {"adversarial-dropout": json.dumps({"classes": data.classes, "bad": data.bad, "names": data.names})},
    )
    write_to_cache(path, content, "the decoded images cannot be cached, and will be decoded again next time")


def write_to_cache(path: Path, content: bytes, failure: str) -> None:
    """Write a file of the cache. A warning that begins with ``failure`` says why it is not possible."""
    try:
        records.write_bytes(path, content)
    except RecordError as error:
        warnings.warn(
            f"{failure}: {error.__cause__}; set ADVERSARIAL_DROPOUT_CACHE to a folder with free space",
            RecordWarning,
            stacklevel=2,
        )


# The test part is the same in every run, whatever its seed.
_TEST_SEED = 20180101
_DIGITS_TEST = 500
_HELD_OUT = 5


def _held_out(labels: Tensor) -> Tensor:
    """A test part for data without one: a random fifth of the labelled rows of each class, at least one row."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_TEST_SEED))
    by_class = [order[labels[order] == label] for label in range(int(labels.max()) + 1)]
    return torch.cat([order[:0], *(rows[: max(1, len(rows) // _HELD_OUT)] for rows in by_class)]).sort().values


def digits() -> ImageData:
    """Load scikit-learn's bundled 1,797 handwritten digits, 8 × 8 pixels of 0 to 16; a fixed random 500 are for test.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_TEST_SEED))
    test = order[:_DIGITS_TEST].sort().values
    return ImageData(images, torch.from_numpy(bunch.target).long(), test, brightest=16, classes=_DIGITS)

"""Where data come from: bundled digits, the paper's sets and any others, decoded once into uint8 tensors."""

import dataclasses
import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, did_you_mean
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import files
from adversarial_dropout.experiments.data.hub import Hub
from adversarial_dropout.experiments.data.reading import Form, Origin, read
from adversarial_dropout.experiments.records import RecordError, RecordWarning


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images and labels in memory.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,); -1 where there is none.
        test: Indices of the test part, int64; all others are for training.
        brightest: The pixel value that stands for 1.
        classes: Names of the classes; a label is an index into them.
    """

    images: Tensor
    labels: Tensor
    test: Tensor
    brightest: int
    classes: tuple[str, ...]

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
        """SHA-256 of images, labels and test indices: two data sets with one digest are the same."""
        content = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        for tensor in (self.images, self.labels, self.test):
            content.update(tensor.cpu().contiguous().numpy().data)
        return content.hexdigest()

    def to(self, device: torch.device) -> "ImageData":
        """The same data with images and labels on ``device``."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class DataLocation:
    """Where a data set lies on this machine; no part of what a run is.

    Attributes:
        folder: Of parquet files or images; ``None``: the hub, or what the config names.
        skip_bad_images: Leave out images that cannot be read; otherwise they are an error.
    """

    folder: Path | None = None
    skip_bad_images: bool = False

    def note(self, run: Path) -> None:
        """Note it with a run, so that what looks at the run later finds the data."""
        if self.folder is not None:
            content = {"folder": str(self.folder.expanduser().resolve()), "skip_bad_images": self.skip_bad_images}
            records.write_json(run / records.LOCATION, content)

    @classmethod
    def of_run(cls, run: Path) -> "DataLocation":
        """What :meth:`note` has noted.

        Raises:
            RecordError: the note is damaged.
        """
        if not (run / records.LOCATION).exists():
            return cls()
        content = records.read_json(run / records.LOCATION)
        with records.reading(run / records.LOCATION):
            return cls(Path(content["folder"]), content["skip_bad_images"])


_DIGITS = tuple("0123456789")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The paper's sets: where the hub has them, and their form. Other data say their form themselves.
_KNOWN = {
    "mnist": (Hub("ylecun/mnist", "mnist"), Form(size=28, channels=1, classes=_DIGITS)),
    "svhn": (Hub("ufldl-stanford/svhn", "cropped_digits"), Form(size=32, channels=3, classes=_DIGITS)),
    "cifar10": (Hub("uoft-cs/cifar10", "plain_text"), Form(size=32, channels=3, classes=_THINGS)),
}
_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(:(?P<subset>[\w.-]+))?")
_FORMAT = 1  # Of the files in the cache; another number makes them anew.
DEFAULT_LOCATION = DataLocation()


def load(config: DataConfig, location: DataLocation = DEFAULT_LOCATION, like: Form | None = None) -> ImageData:
    """Load the source that ``config`` names. What had to be decoded is kept in :func:`cache_folder`.

    Args:
        config: Uses ``name`` and ``resize``.
        location: Where it lies.
        like: Bring the images to this form, and expect these classes; ``None``: those of the source itself.

    Raises:
        InvalidValueError: there is no such source, or it holds something else than labelled images of one size.
        RecordError: it cannot be read, or cannot be had without a network.
    """
    if config.name == "digits" and like is None:
        if config.resize is not None:
            raise InvalidValueError(
                f"digits have 8 × 8 pixels: expected no data.resize, got {config.resize}; leave it out"
            )
        return digits()
    origin, form = _origin(config, location)
    form = form if like is None else dataclasses.replace(like, resize=config.resize)
    key = hashlib.sha256(f"{_FORMAT} {origin.identity} {form}".encode()).hexdigest()
    kept = cache_folder() / f"{key[:32]}.safetensors"
    data, bad = _from_cache(kept)
    if data is None:
        found = read(origin, form)
        test = found.test if len(found.test) else _held_out(found.labels)
        data, bad = ImageData(found.images, found.labels, test, 255, found.classes), found.bad
        if not bad or location.skip_bad_images:
            _to_cache(kept, data, bad)
    if bad and not location.skip_bad_images:
        shown = "\n".join(f"  {line}" for line in bad[:10]) + ("\n  ..." if len(bad) > 10 else "")
        raise InvalidValueError(
            f"expected images that can be read, got {len(bad)} of {len(data.labels) + len(bad)} that cannot:\n{shown}\n"
            f"Mend or remove them, or leave them out with --skip-bad-images"
        )
    if bad:
        others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        warnings.warn(f"an image that cannot be read is left out: {bad[0]}{others}", RecordWarning, stacklevel=2)
    return data


def _origin(config: DataConfig, location: DataLocation) -> tuple[Origin, Form]:
    hub, form = _KNOWN.get(config.name, (None, Form()))
    form = dataclasses.replace(form, resize=config.resize)
    named = Path(config.name).expanduser()
    if location.folder is not None:
        inner = None if named.is_absolute() or named == location.folder else named.name
        return files.find(location.folder.expanduser(), inner, None if hub is None else hub.subset), form
    if hub is not None:
        return hub, form
    if config.name and named.exists():
        return files.find(named), form
    hub_id = _HUB_ID.fullmatch(config.name)
    if hub_id:
        return Hub(hub_id["name"], hub_id["subset"]), form
    known = ("digits", *_KNOWN)
    raise InvalidValueError(
        f"expected data from one of {', '.join(known)}, a folder that exists (--data FOLDER), or a hub id OWNER/NAME "
        f"or OWNER/NAME:SUBSET, got {config.name!r}{did_you_mean(config.name, known)}"
    )


def cache_folder() -> Path:
    """Where decoded images are kept: ``$ADVERSARIAL_DROPOUT_CACHE``, or ``~/.cache/adversarial-dropout``."""
    named = os.environ.get("ADVERSARIAL_DROPOUT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "adversarial-dropout"


def _from_cache(path: Path) -> tuple[ImageData | None, list[str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            noted = json.loads(file.metadata()["adversarial-dropout"])
            tensors = {name: file.get_tensor(name) for name in ("images", "labels", "test")}
        return ImageData(**tensors, brightest=255, classes=tuple(noted["classes"])), noted["bad"]
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return None, []  # Not there, or damaged: it is made anew.


def _to_cache(path: Path, data: ImageData, bad: list[str]) -> None:
    content = safetensors.torch.save(
        {"images": data.images, "labels": data.labels, "test": data.test},
        {"adversarial-dropout": json.dumps({"classes": data.classes, "bad": bad})},
    )
    try:
        records.write_bytes(path, content)
    except RecordError as error:
        warnings.warn(
            f"the decoded images are not kept, and will be decoded again next time: {error.__cause__}; set "
            f"ADVERSARIAL_DROPOUT_CACHE to a folder with room",
            RecordWarning,
            stacklevel=2,
        )


# The test part is the same in every run, and no seed of a run leads to another.
_TEST_SEED = 20180101
_DIGITS_TEST = 500
_HELD_OUT = 5


def _held_out(labels: Tensor) -> Tensor:
    """A test part for data without one: of each class a fifth of the labelled rows, one at least, at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_TEST_SEED))
    rows = [order[labels[order] == label] for label in range(int(labels.max()) + 1)]
    return torch.cat([order[:0], *(own[: max(1, len(own) // _HELD_OUT)] for own in rows)]).sort().values


def digits() -> ImageData:
    """Load scikit-learn's bundled 1,797 handwritten digits, 8 × 8 pixels of 0 to 16; a fixed random 500 are for test.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_TEST_SEED))
    return ImageData(
        images=images,
        labels=torch.from_numpy(bunch.target).long(),
        test=order[:_DIGITS_TEST].sort().values,
        brightest=16,
        classes=tuple(str(name) for name in bunch.target_names),
    )

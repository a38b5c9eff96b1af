"""Where a data set is on this machine: folders and lists, for the training images and for the test images."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import files, lists
from adversarial_dropout.experiments.data.files import TEST_NAMES, UNLABELLED_NAMES, Files, Hub
from adversarial_dropout.experiments.records import RecordWarning


@dataclass(frozen=True)
class DataLocation:
    """Where a data set is on this machine; not part of a run's config.

    Attributes:
        folder: A folder of parquet files or images, or a list of images; ``None``: the hub, or the folder or list that
            the config names.
        skip_bad_images: Leave out images that cannot be read; otherwise they are an error.
        test: A folder or list of labelled images, which are the test part; ``None``: the data have one, or a part of
            the training images is held out.
    """

    folder: Path | None = None
    skip_bad_images: bool = False
    test: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders and lists that it names."""
        return tuple(path for path in (self.folder, self.test) if path is not None)

    def absolute(self) -> "DataLocation":
        """The same location from every working directory."""
        folder, test = (path and path.expanduser().absolute() for path in (self.folder, self.test))
        return dataclasses.replace(self, folder=folder, test=test)

    def note(self, run: Path) -> None:
        """Write it to the folder of a run, so that later commands find the data."""
        if self.paths:
            named = {"folder": self.folder, "test": self.test}
            paths = {name: str(path.expanduser().resolve()) for name, path in named.items() if path is not None}
            records.write_json(run / records.LOCATION, {**paths, "skip_bad_images": self.skip_bad_images})

    @classmethod
    def of_run(cls, run: Path) -> "DataLocation":
        """Read what :meth:`note` wrote."""
        if not (run / records.LOCATION).exists():
            return cls()
        content = records.read_json(run / records.LOCATION)
        with records.reading(run / records.LOCATION):
            folder, test = (Path(content[name]) if name in content else None for name in ("folder", "test"))
            return cls(folder, content["skip_bad_images"], test)


DEFAULT_LOCATION = DataLocation()


def found(folder: Path, name: str | None = None, subset: str | None = None) -> Files:
    """The data set in a folder, see :func:`files.find`, or in a list: ``folder`` itself, or the list ``name`` in it."""
    for path in (folder, folder / (name or "")):
        if lists.is_list(path):
            return lists.read(path)
    return files.find(folder, name, subset)


def check_lists(config: DataConfig, location: DataLocation = DEFAULT_LOCATION, *, skip_unlisted: bool = False) -> None:
    """Look for images beside those that the lists of a run name, where there are such lists.

    Images in a folder that a list uses are an error, or passed over with ``skip_unlisted``. A warning says how many
    images are passed over, here and in other folders.
    """
    given = [path.expanduser() for path in dict.fromkeys((location.folder or Path(config.name), *location.paths))]
    read = [lists.read(path) for path in given if lists.is_list(path)]
    elsewhere = [image for path in given if read and path.is_dir() for image in files.images_in(path)]
    if over := lists.unlisted(read, elsewhere, skip=skip_unlisted):
        warnings.warn(
            f"{len(over)} images that the list does not name are passed over, such as {over[0]}; to use "
            f"them without a label, add them with an empty one",
            RecordWarning,
            stacklevel=2,
        )


def as_test_part(given: Path, origin: Hub | Files) -> Files:
    """All images of a folder or list as the test part of ``origin``."""
    test = found(given.expanduser())
    split, *others = test.splits
    if others or split in UNLABELLED_NAMES:
        raise InvalidValueError(
            f"expected one part, the test images, in {given}, got {', '.join(test.splits)}; give a folder or list of "
            f"these alone with --test"
        )
    paths = test.splits[split]
    if test.classes is not None and (without := [path for path in paths if path not in test.classes]):
        raise InvalidValueError(
            f"expected a label of each test image, got {len(without)} without one in {given}, such as {without[0]}; "
            f"leave them out"
        )
    if isinstance(origin, Files):
        training = {path.resolve() for members in origin.splits.values() for path in members}
        if both := [path for path in paths if path.resolve() in training]:
            raise InvalidValueError(
                f"expected test images that are not among the training images in {origin.folder}, got {len(both)} that "
                f"are, such as {both[0]}; move the test images away from there"
            )
    return dataclasses.replace(test, splits={TEST_NAMES[0]: paths})

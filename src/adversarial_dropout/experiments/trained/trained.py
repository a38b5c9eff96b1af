"""The saved network of a run, with all that it takes to show it images."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import models, records
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.models.network import Shape, Task
from adversarial_dropout.experiments.records import Record


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network.

    Attributes:
        record: Of its run.
        model: In evaluation mode, on the CPU.
        pixels: Makes its input from stored images.
        shape: Of a stored image, (C, H, W).
        classes: Names of the classes, in the order of its logits.
    """

    record: Record
    model: nn.Module
    pixels: Pixels
    shape: Shape
    classes: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "Trained":
        """Load the run in ``folder``; see :meth:`load`."""
        if not records.is_finished(folder):
            raise InvalidValueError(
                f"expected the folder of a finished run, with {records.FINAL} in it, got {folder}; `train` prints "
                f"where the record of a run is"
            )
        return cls.load(records.read_record(folder))

    @classmethod
    def load(cls, record: Record) -> "Trained":
        """Load what a finished run has saved.

        Raises:
            InvalidValueError, RecordError: a file is missing or damaged, or an earlier version wrote it.
        """
        seen = record.final.get("data")
        if seen is None:
            raise InvalidValueError(
                f"{record.folder} was written by an earlier version, which did not note what its data look like; "
                f"delete it and give the command of the run again"
            )
        config, whitening = record.config, None
        with records.reading(record.folder / records.FINAL):
            channels, height, width = seen["shape"]
            classes, brightest = tuple(seen["classes"]), int(seen["brightest"])
        if config.data.whiten:
            with records.reading(record.folder / records.WHITENING):
                whitening = Whitening.load(record.folder / records.WHITENING)
        return cls(
            record=record,
            model=models.load(config.model, (channels, height, width), len(classes), record.folder / records.WEIGHTS),
            pixels=Pixels(config.data, brightest, whitening),
            shape=(channels, height, width),
            classes=classes,
        )

    @property
    def task(self) -> Task:
        """What it has learned."""
        return self.record.config.model.task

    def data(self, location: DataLocation | None = None) -> ImageData:
        """The data of the run: those where they lay at the time, or in ``location``.

        Raises:
            InvalidValueError: they are not the data that the run has seen.
        """
        data = sources.load(self.record.config.data, location or DataLocation.of_run(self.record.folder))
        if data.digest != self.record.final["data"]["sha256"]:
            raise InvalidValueError(
                f"expected the data that {self.record.folder} was trained on, got others: images, labels or their "
                f"order have changed since"
            )
        return data

    def split(self) -> Split:
        """Which rows of the data the run has used for what.

        Raises:
            RecordError: the file is missing or damaged.
        """
        path = self.record.folder / records.SPLIT
        content = records.read_json(path)
        with records.reading(path):
            return Split.from_dict(content)

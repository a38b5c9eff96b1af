"""Loads the saved network of a run, with everything needed to apply it to images."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import models, records
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pictures import Form
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.models.network import Shape, Task
from adversarial_dropout.experiments.models.pretrained import Pretrained, check_backbone
from adversarial_dropout.experiments.records import Record


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network."""

    record: Record  # Of its run.
    model: nn.Module  # In evaluation mode, on the CPU.
    pixels: Pixels  # Turns stored images into its input.
    shape: Shape  # Of a stored image, (C, H, W).
    classes: tuple[str, ...]  # Their names, in the order of the logits.

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
        """Load what a finished run saved."""
        config, whitening = record.config, None
        with records.reading(record.folder / records.FINAL):
            described = record.final["data"]
            channels, height, width = described["shape"]
            classes, brightest = tuple(described["classes"]), int(described["brightest"])
            described["sha256"]  # It is compared when the data are loaded.
        if config.data.whiten:
            with records.reading(record.folder / records.WHITENING):
                whitening = Whitening.load(record.folder / records.WHITENING)
        if isinstance(config.model, Pretrained):
            with records.reading(record.folder / records.FINAL):
                described = {**record.final["backbone"]}
            check_backbone(config.model, described, record.folder)
        model = models.load(config.model, (channels, height, width), len(classes), record.folder / records.WEIGHTS)
        return cls(record, model, Pixels(config.data, brightest, whitening), (channels, height, width), classes)

    @property
    def task(self) -> Task:
        """The task that the network was trained for."""
        return self.record.config.model.task

    @property
    def form(self) -> Form:
        """The form of the training images, which other images must have."""
        channels, height, width = self.shape
        config = self.record.config
        resize = config.data.resize is not None or isinstance(config.model, Pretrained)  # A backbone takes all sizes.
        return Form(
            (width, height),
            channels,
            self.classes,
            resize,
            "resize it: the training images have this size",
        )

    def data(self, location: DataLocation | None = None) -> ImageData:
        """Load the data of the run from where they were during training, or from ``location``."""
        config = self.record.config
        where = location or DataLocation.of_run(self.record.folder)
        data = sources.load(config.data, where, largest=config.model.input_size)
        if data.digest != self.record.final["data"]["sha256"]:
            raise InvalidValueError(
                f"expected the data that {self.record.folder} was trained on, got others: images, labels or their "
                f"order have changed since"
            )
        return data

    def split(self) -> Split:
        """Read the run's split of the data."""
        path = self.record.folder / records.SPLIT
        content = records.read_json(path)
        with records.reading(path):
            return Split.from_dict(content)

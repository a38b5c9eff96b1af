"""What a trained network says: of labelled images, as errors; of any images, as classes and probabilities."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data import files, sources
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.reading import Form
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.trained.prediction import errors, outputs
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.regularizers.base import UNLABELLED

_BRIGHTEST = 255  # In image files.


@dataclass(frozen=True)
class Evaluation:
    """Errors on labelled images.

    Attributes:
        error: In percent.
        examples: Number of images.
        classes: Error in percent and number of images by class.
    """

    error: float
    examples: int
    classes: dict[str, tuple[float, int]]

    @property
    def by_class(self) -> Table:
        """The errors by class."""
        rows = [(name, f"{error:.2f}", examples) for name, (error, examples) in self.classes.items()]
        return Table(("class", "error in %", "n"), rows)


def evaluate(trained: Trained, location: DataLocation | None = None) -> Evaluation:
    """Measure the error of a run on its own evaluation part, or on all labelled images in ``location``: where these
    are the data that it was trained on, on its evaluation part again.

    Raises:
        InvalidValueError: the images have another form, or classes that the run does not know.
    """
    if location is None:
        data = trained.data()
        rows = trained.split().evaluation
    else:
        channels, height, width = trained.shape
        form = Form(size=height if height == width else None, channels=channels, classes=trained.classes)
        data = sources.load(trained.record.config.data, location, like=form)
        if data.shape != trained.shape:
            raise InvalidValueError(
                f"expected images of shape (C, H, W) = {trained.shape}, as in training, got {data.shape} in "
                f"{location.folder}"
            )
        rows = (data.labels != UNLABELLED).nonzero().squeeze(1)
        if data.digest == trained.record.final["data"]["sha256"]:
            rows = trained.split().evaluation  # The run's own data: not those that it was trained on.
        if not len(rows):
            raise InvalidValueError(f"expected images with labels in {location.folder}, got {len(data.labels)} without")
    labels = data.labels[rows]
    with _same_noise():
        found = errors(trained.model, _pixels(trained, data.brightest), data, rows, trained.task)
    by_class = {}
    for label, name in enumerate(trained.classes):
        own = found[labels == label]
        if len(own):
            by_class[name] = (float(own.sum()) / len(own), len(own))
    return Evaluation(float(found.sum()) / len(rows), len(rows), by_class)


def _pixels(trained: Trained, brightest: int) -> Pixels:
    return dataclasses.replace(trained.pixels, brightest=brightest)


@contextlib.contextmanager
def _same_noise() -> Iterator[None]:
    """Noise in evaluation, which the authors' presets have, is the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        image: Its file.
        probabilities: By class, the most probable first.
    """

    image: str
    probabilities: dict[str, float]

    @property
    def best(self) -> tuple[str, float]:
        """The most probable class and its probability."""
        return next(iter(self.probabilities.items()))


def predict(trained: Trained, images: Iterable[Path], *, resize: bool = False) -> tuple[list[Prediction], list[str]]:
    """Predict the class of image files, and of those in folders.

    Args:
        trained: The network.
        images: Files or folders.
        resize: Bring them to the size of the training images; otherwise another size is an error. A run that was
            trained on resized images always does so.

    Returns:
        A prediction for each image that can be read, and a line for each other.

    Raises:
        InvalidValueError: there is no image at all, or the run has no classes to predict.
    """
    if trained.task == "images":
        raise InvalidValueError(
            f"expected a run that predicts classes, got the autoencoder {trained.record.folder}; `inspect` looks at it"
        )
    paths = [path for given in images for path in (files.images_in(given) if given.is_dir() else [given])]
    if not paths:
        raise InvalidValueError(
            f"expected image files, or folders of them, got {', '.join(map(str, images)) or 'none'}"
        )
    read: list[tuple[Path, Tensor]] = []
    bad = []
    for path in paths:
        try:
            read.append(
                (path, files.decode(path, trained.shape, resize=resize or trained.pixels.config.resize is not None))
            )
        except InvalidValueError as error:
            bad.append(str(error))
    if not read:
        return [], bad
    with _same_noise():
        stored = torch.stack([stored for _, stored in read])
        probabilities = outputs(trained.model, _pixels(trained, _BRIGHTEST), stored).softmax(dim=1)
    found = []
    for (path, _), row in zip(read, probabilities, strict=True):
        ordered = row.argsort(descending=True, stable=True).tolist()
        found.append(Prediction(str(path), {trained.classes[label]: float(row[label]) for label in ordered}))
    return found, bad


def table(found: Sequence[Prediction]) -> Table:
    """Image, class and probability, a row each."""
    rows = [(one.image, name, f"{probability:.6f}") for one in found for name, probability in [one.best]]
    return Table(("image", "class", "probability"), rows)


def as_json(found: Sequence[Prediction]) -> str:
    """A list with image, class, probability, and the probabilities of all classes."""
    content = [
        {
            "image": prediction.image,
            "class": prediction.best[0],
            "probability": prediction.best[1],
            "probabilities": prediction.probabilities,
        }
        for prediction in found
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

"""What a trained network says: of labelled images, as errors; of any images, as classes and probabilities."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data import files, sources
from adversarial_dropout.experiments.data.reading import Form
from adversarial_dropout.experiments.data.sources import Place
from adversarial_dropout.experiments.models.prediction import logits
from adversarial_dropout.experiments.trained import Trained
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


def evaluate(trained: Trained, place: Place | None = None) -> Evaluation:
    """Measure the error of a run on its own evaluation part, or on all labelled images in ``place``: where these
    are the data that it was trained on, on its evaluation part again.

    Raises:
        InvalidValueError: the images have another form, or classes that the run does not know.
    """
    if place is None:
        data = trained.data()
        rows = trained.split().evaluation
    else:
        channels, height, width = trained.shape
        form = Form(size=height if height == width else None, channels=channels, classes=trained.classes)
        data = sources.load(trained.record.config.data, place, like=form)
        if data.shape != trained.shape:
            raise InvalidValueError(
                f"expected images of shape (C, H, W) = {trained.shape}, as in training, got {data.shape} in "
                f"{place.folder}"
            )
        rows = (data.labels != UNLABELLED).nonzero().squeeze(1)
        if data.digest == trained.record.final["data"]["sha256"]:
            rows = trained.split().evaluation  # The run's own data: not those that it was trained on.
        if not len(rows):
            raise InvalidValueError(f"expected images with labels in {place.folder}, got {len(data.labels)} without")
    labels = data.labels[rows]
    wrong = _logits(trained, data.images[rows], data.brightest).argmax(dim=1) != labels
    by_class = {}
    for label, name in enumerate(trained.classes):
        own = wrong[labels == label]
        if len(own):
            by_class[name] = (100 * float(own.double().mean()), len(own))
    return Evaluation(100 * float(wrong.double().mean()), len(rows), by_class)


def _logits(trained: Trained, stored: Tensor, brightest: int = _BRIGHTEST) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # Of noise in evaluation, which the authors' presets have.
        return logits(trained.model, dataclasses.replace(trained.pixels, brightest=brightest), stored)


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
        InvalidValueError: there is no image at all.
    """
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
    probabilities = _logits(trained, torch.stack([stored for _, stored in read])).softmax(dim=1)
    found = []
    for (path, _), row in zip(read, probabilities, strict=True):
        ordered = row.argsort(descending=True, stable=True).tolist()
        found.append(Prediction(str(path), {trained.classes[label]: float(row[label]) for label in ordered}))
    return found, bad


def as_csv(found: Sequence[Prediction]) -> str:
    """Image, class and probability, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "class", "probability"))
    for prediction in found:
        name, probability = prediction.best
        writer.writerow((prediction.image, name, f"{probability:.6f}"))
    return text.getvalue()


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

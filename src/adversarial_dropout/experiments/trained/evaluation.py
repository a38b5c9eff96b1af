"""Applies a trained network to images: its errors on labelled ones, the predicted classes of others."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_fraction
from adversarial_dropout.experiments.data import files, lists, sources
from adversarial_dropout.experiments.data.pictures import Stack, UnreadableError
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import Task
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.trained.classification import Classification
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.regularizers.base import UNLABELLED

_BATCH = 500
_BRIGHTEST = 255  # In image files.


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in evaluation mode, without gradients; the mode of each module is restored."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def outputs(model: nn.Module, pixels: Pixels, stored: Tensor) -> Tensor:
    """Output of ``model`` in evaluation mode for stored images, uint8 (N, C, H, W); the mode is restored."""
    with evaluating(model):
        return torch.cat([model(pixels(part)) for part in torch.split(stored, _BATCH)])


def errors(model: nn.Module, pixels: Pixels, data: ImageData, rows: Tensor, task: Task = "classes") -> Tensor:
    """Error of ``model`` on each of ``rows`` in percent, float64, shape (N,).

    For a classifier it is 0 or 100. For an autoencoder it is the squared error over the mean squared distance of the
    images from their mean, so that the mean over all rows is the share of the variance that is not explained.
    """
    return _errors_of(outputs(model, pixels, data.images[rows]), pixels, data, rows, task)


def _errors_of(output: Tensor, pixels: Pixels, data: ImageData, rows: Tensor, task: Task) -> Tensor:
    """See :func:`errors`, for an output that is there already."""
    if task == "images":
        images = pixels(data.images[rows]).flatten(1)
        if bool((images == images[0]).all()):
            raise InvalidValueError(f"expected images that differ, got {len(rows)} that are all the same")
        spread = reconstruction_error(images, images.mean(dim=0).expand_as(images)).double().mean()
        return 100 * reconstruction_error(images, output).double() / spread
    return 100 * (output.argmax(dim=1) != data.labels[rows]).double()


def error(model: nn.Module, pixels: Pixels, data: ImageData, rows: Tensor, task: Task = "classes") -> float:
    """Mean of :func:`errors`: for a classifier, the percentage of ``rows`` that it gets wrong."""
    return float(errors(model, pixels, data, rows, task).sum()) / len(rows)


@dataclass(frozen=True)
class Evaluation:
    """Error in percent and number of labelled images: of all images, and by class.

    A classifier's predictions are compared with the labels in ``classification``; an autoencoder has none.
    """

    error: float
    examples: int
    classes: dict[str, tuple[float, int]]
    classification: Classification | None = None

    @property
    def by_class(self) -> Table:
        """The errors by class."""
        rows = [(name, f"{error:.2f}", examples) for name, (error, examples) in self.classes.items()]
        return Table(("class", "error in %", "n"), rows)

    def to_dict(self, mistakes: int) -> dict[str, object]:
        """All figures for JSON, with so many of the most confident mistakes."""
        compared = {} if self.classification is None else self.classification.to_dict(mistakes)
        return {"error": self.error, "examples": self.examples, "classes": self.classes, **compared}


def evaluate(trained: Trained, location: DataLocation | None = None) -> Evaluation:
    """Measure the error of a run on its evaluation part, or on all labelled images in ``location``.

    If the data in ``location`` are those of the run, its evaluation part is used as well.
    """
    config = trained.record.config.data
    data = trained.data() if location is None else sources.load(config, location, like=trained.form)
    if location is None or data.digest == trained.record.final["data"]["sha256"]:
        rows = trained.split().evaluation
    else:
        rows = (data.labels != UNLABELLED).nonzero().squeeze(1)
        if not len(rows):
            raise InvalidValueError(f"expected images with labels in {location.folder}, got {len(data.labels)} without")
    return evaluate_rows(trained, data, rows)


def evaluate_rows(trained: Trained, data: ImageData, rows: Tensor) -> Evaluation:
    """Measure the error of a run on labelled rows of ``data``, which have its form."""
    pixels = Pixels(trained.record.config.data, data.brightest, trained.pixels.whitening)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # Noise in evaluation, which the authors' presets have, is the same in every call.
        output = outputs(trained.model, pixels, data.images[rows])
    labels = data.labels[rows]
    wrong = _errors_of(output, pixels, data, rows, trained.task)
    by_class = {name: wrong[labels == label] for label, name in enumerate(trained.classes)}
    classes = {name: (float(part.sum()) / len(part), len(part)) for name, part in by_class.items() if len(part)}
    compared = None
    if trained.task == "classes":
        names = tuple(map(data.name, rows.tolist()))
        compared = Classification.of(output.double().softmax(dim=1), labels, trained.classes, rows, names)
    return Evaluation(float(wrong.sum()) / len(rows), len(rows), classes, compared)


Prediction = TypedDict(
    "Prediction", {"image": str, "class": str | None, "probability": float, "probabilities": dict[str, float]}
)
"""An image file, its class, the highest probability, and the probabilities of all classes in decreasing order.

The class is the most probable one, or ``None`` if the highest probability is below a threshold."""


def predict(
    trained: Trained, images: Iterable[Path], *, resize: bool = False, threshold: float = 0.0
) -> tuple[list[Prediction], list[str]]:
    """Predict the classes of image files, and of those in folders and lists.

    With ``resize``, or if the training images were resized, images of another size are resized as well. An image whose
    highest probability is below ``threshold``, in [0, 1], gets no class.

    Returns:
        A prediction for each image that can be used, and a line for each of the others.
    """
    if trained.task == "images":
        raise InvalidValueError(
            f"expected a run that predicts classes, got the autoencoder {trained.record.folder}; use `inspect` instead"
        )
    check_fraction("threshold", threshold)
    paths = [path for given in images for path in _images(given)]
    if not paths:
        raise InvalidValueError(
            f"expected image files, or folders of them, got {', '.join(map(str, images)) or 'none'}"
        )
    form = trained.form
    stack = Stack(dataclasses.replace(form, resize=form.resize or resize, advice="resize it with --resize"))
    readable, bad = [], []
    for path in paths:
        try:
            stack.add(path, str(path))
        except UnreadableError as error:
            bad.append(f"{path} cannot be read: {error}")
        except InvalidValueError as error:
            bad.append(str(error))
        else:
            readable.append(str(path))
    if not readable:
        return [], bad
    pixels = Pixels(trained.pixels.config, _BRIGHTEST, trained.pixels.whitening)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probabilities = outputs(trained.model, pixels, stack.tensor()).softmax(dim=1)
    predictions: list[Prediction] = []
    for image, row in zip(readable, probabilities, strict=True):
        order = row.argsort(descending=True, stable=True).tolist()
        by_class = {trained.classes[label]: float(row[label]) for label in order}
        best, highest = next(iter(by_class.items()))
        given = best if highest >= threshold else None
        predictions.append({"image": image, "class": given, "probability": highest, "probabilities": by_class})
    return predictions, bad


def _images(given: Path) -> list[Path]:
    """The image files that a path stands for."""
    if given.is_dir():
        return files.images_in(given)
    return lists.images(given) if lists.is_list(given) else [given]

"""What the report shows of the best classifier of a group: its confusion matrix and its most confident mistakes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
from torch import Tensor

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.records import WEIGHTS, Record
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.results.summary import Group
from adversarial_dropout.experiments.show.canvas import canvas, short, style
from adversarial_dropout.experiments.show.page import Picture, named
from adversarial_dropout.experiments.show.table import visible
from adversarial_dropout.experiments.trained.classification import Classification, Mistake
from adversarial_dropout.experiments.trained.evaluation import evaluate_rows
from adversarial_dropout.experiments.trained.trained import Trained

_MOST_IMAGES = 2_000  # On a slow core, the largest network of the paper needs some minutes for them.
_MISTAKES = 8
_NAMED_CONFUSIONS = 5
_WITH_NUMBERS = 20  # Classes, with more of which the cells are too small for numbers.
_WITH_NAMES = 60
_SIDE = 96  # Pixels of a picture, about.


@dataclass(frozen=True)
class Best:
    """The predictions of one run, the best of its group.

    Attributes:
        run: The run in words.
        examples: Number of images that it was applied to.
        compared: Its predictions beside the labels.
        confusion: The confusion matrix.
        mistakes: The most confident mistakes: a picture of each, and what is wrong in words.
    """

    run: str
    examples: int
    compared: Classification
    confusion: Picture
    mistakes: tuple[tuple[Picture, str], ...]


def best_classifier(group: Group) -> Best | str | None:
    """Apply the run with the lowest error and saved weights to its evaluation part, or to 2,000 images of it.

    Returns why it could not be applied, or ``None`` if no weights of a classifier are saved.
    """
    saved = [
        record
        for row in group.rows
        for record in row.records
        if record.config.model.task == "classes" and (record.folder / WEIGHTS).exists()
    ]
    if not saved:
        return None
    record = min(saved, key=lambda record: record.error)
    try:
        return _look(record)
    except AdversarialDropoutError as error:  # The data may have moved; the report does without them.
        return f"The model of {record.folder} could not be looked at: {error}"


def _look(record: Record) -> Best:
    trained = Trained.load(record)
    data = trained.data()
    rows = evenly_spaced(trained.split().evaluation, _MOST_IMAGES)
    compared = evaluate_rows(trained, data, rows).classification
    assert compared is not None
    frequent = "; ".join(
        f"{visible(label)} taken for {visible(predicted)}: {number}"
        for label, predicted, number in compared.confusions[:_NAMED_CONFUSIONS]
    )
    alt = (
        f"Confusion matrix of {named(record)} on {len(rows)} images, true classes in rows and predicted ones in "
        f"columns. Most frequent confusions: {frequent or 'none'}."
    )
    mistakes = tuple(_shown(mistake, data) for mistake in compared.mistakes[:_MISTAKES])
    return Best(named(record), len(rows), compared, Picture(draw_confusion(compared), alt), mistakes)


def _shown(mistake: Mistake, data: ImageData) -> tuple[Picture, str]:
    label, predicted, image = map(visible, (mistake.label, mistake.predicted, mistake.image))
    words = f"{label} taken for {predicted}, with probability {mistake.probability:.3f}: {image}"
    return Picture(_png(data.images[mistake.row], data.brightest), f"Image of {words}"), words


def _png(image: Tensor, brightest: int) -> bytes:
    """A stored image, uint8 (C, H, W), as a PNG file of about ``_SIDE`` pixels."""
    array = (image.cpu().int() * 255 // brightest).byte().movedim(0, -1).numpy()
    picture = PIL.Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    largest = max(picture.size)
    if largest > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
    else:
        factor = -(-_SIDE // largest)
        picture = picture.resize((factor * picture.width, factor * picture.height), PIL.Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def draw_confusion(compared: Classification) -> str:
    """Draw the confusion matrix, with numbers and names where there are not too many classes."""
    import numpy as np
    from sklearn.metrics import ConfusionMatrixDisplay

    number = len(compared.classes)
    side = min(12.0, 2.5 + 0.42 * number)
    with canvas(side, side) as (figure, done):
        axes = figure.subplots()
        named = number <= _WITH_NAMES
        drawn = ConfusionMatrixDisplay(
            np.array(compared.confusion), display_labels=[short(name) for name in compared.classes] if named else None
        )
        drawn.plot(
            include_values=number <= _WITH_NUMBERS,
            cmap="Blues",
            xticks_rotation="vertical",
            ax=axes,
            colorbar=number > _WITH_NUMBERS,
        )
        axes.set(xlabel="predicted class", ylabel="true class")
        if not named:
            axes.set_xticks([])
            axes.set_yticks([])
    return done()


def draw_spread(rows: Sequence[tuple[str, Sequence[float]]], label: str) -> str:
    """Draw errors in percent by name: a dot each, mean and standard deviation as a bar."""
    with canvas(8, 0.9 + 0.42 * len(rows)) as (figure, done):
        axes = figure.subplots()
        for i, (_, errors) in enumerate(rows):
            axes.plot(errors, [i] * len(errors), "o", color="#999999", markersize=4, zorder=1)
            mean, std = MeanStd.of(errors)
            colour, marker = style(i)
            axes.errorbar(mean, i, xerr=std or 0.0, fmt=marker, color=colour, capsize=4, markersize=7, zorder=2)
        axes.set_yticks(range(len(rows)), [short(name) for name, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
    return done()

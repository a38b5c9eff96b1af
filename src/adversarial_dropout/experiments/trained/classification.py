"""Compares the probabilities of a classifier with the labels: confusions, calibration, the most confident mistakes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.experiments.show.table import Table

BINS = 15
"""Bins of the expected calibration error, as in Guo et al. (2017)."""


@dataclass(frozen=True)
class Mistake:
    """An image that is given a wrong class.

    Attributes:
        image: Its name: a file, or a row of the data.
        row: Its row in the data.
        label: Its class.
        predicted: The class that it is given.
        probability: The probability of that class, in [0, 1].
    """

    image: str
    row: int
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Bin:
    """The images whose confidence, the probability of their most probable class, is in (low, high].

    Attributes:
        low: Lower limit of the confidence, in [0, 1].
        high: Its upper limit.
        examples: Number of images.
        confidence: Mean confidence in percent; 0 without images.
        accuracy: Share of right predictions in percent; 0 without images.
    """

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float


def calibration(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort images into bins of equal width by their confidence; one of exactly 0 is in the first bin.

    Args:
        probabilities: float, shape (N, C), rows that sum to 1.
        labels: int64, shape (N,), from 0 to C - 1.
        bins: Number of bins.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    right = (predicted == labels).double()
    limits = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, limits[1:-1])
    made = []
    for number in range(bins):
        inside = index == number
        examples = int(inside.sum())
        means = (100 * float(values[inside].mean()) if examples else 0.0 for values in (confidence, right))
        made.append(Bin(float(limits[number]), float(limits[number + 1]), examples, *means))
    return tuple(made)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """ECE = Σ_b n_b / N · |accuracy_b - confidence_b| in percent: 0 if, of predictions made with 80 %, 80 % are right.

    Source: M. Pakdaman Naeini, G. Cooper, M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning", AAAI 2015; with the confidence of the predicted class: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On
    Calibration of Modern Neural Networks", ICML 2017, eq. 3.
    """
    total = sum(part.examples for part in bins)
    return sum(part.examples * abs(part.accuracy - part.confidence) for part in bins) / total


@dataclass(frozen=True)
class Classification:
    """What a classifier says of labelled images.

    Attributes:
        classes: Names of the classes.
        confusion: Numbers of images by true class (row) and predicted class (column).
        bins: The images by confidence.
        mistakes: Wrong predictions, those with the highest probability first.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]
    mistakes: tuple[Mistake, ...]

    @classmethod
    def of(
        cls, probabilities: Tensor, labels: Tensor, classes: tuple[str, ...], rows: Tensor, names: tuple[str, ...]
    ) -> "Classification":
        """Compare ``probabilities``, shape (N, C), with ``labels``, shape (N,), of the images ``names`` in ``rows``."""
        from sklearn.metrics import confusion_matrix

        confidence, predicted = probabilities.max(dim=1)
        matrix = confusion_matrix(labels.cpu().numpy(), predicted.cpu().numpy(), labels=range(len(classes)))
        wrong = (predicted != labels).nonzero().squeeze(1)
        wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)]
        mistakes = tuple(
            Mistake(
                image=names[index],
                row=int(rows[index]),
                label=classes[int(labels[index])],
                predicted=classes[int(predicted[index])],
                probability=float(confidence[index]),
            )
            for index in wrong.tolist()
        )
        return cls(classes, tuple(map(tuple, matrix.tolist())), calibration(probabilities, labels), mistakes)

    @property
    def calibration_error(self) -> float:
        """See :func:`expected_calibration_error`."""
        return expected_calibration_error(self.bins)

    @property
    def confidence(self) -> float:
        """Mean confidence in percent."""
        return sum(part.examples * part.confidence for part in self.bins) / sum(part.examples for part in self.bins)

    @property
    def accuracy(self) -> float:
        """Share of right predictions in percent."""
        return sum(part.examples * part.accuracy for part in self.bins) / sum(part.examples for part in self.bins)

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """True class, predicted class and number of images of each confusion, the most frequent first."""
        pairs = [
            (label, predicted, number)
            for label, row in zip(self.classes, self.confusion, strict=True)
            for predicted, number in zip(self.classes, row, strict=True)
            if label != predicted and number
        ]
        return sorted(pairs, key=lambda pair: -pair[2])

    @property
    def matrix(self) -> Table:
        """The confusion matrix."""
        rows = [(name, *row) for name, row in zip(self.classes, self.confusion, strict=True)]
        return Table(("true \\ predicted", *self.classes), rows, "confusion matrix: images by true and predicted class")

    def frequent(self, most: int) -> Table:
        """The ``most`` frequent confusions."""
        sizes = {name: sum(row) for name, row in zip(self.classes, self.confusion, strict=True)}
        rows = [(*pair, f"{100 * pair[2] / sizes[pair[0]]:.1f}") for pair in self.confusions[:most]]
        return Table(("true", "predicted", "images", "% of the class"), rows, "most frequent confusions")

    def worst(self, most: int) -> Table:
        """The ``most`` confident mistakes."""
        rows = [
            (mistake.image, mistake.label, mistake.predicted, f"{mistake.probability:.4f}")
            for mistake in self.mistakes[:most]
        ]
        return Table(("image", "true", "predicted", "probability"), rows, "most confident mistakes")

    def to_dict(self, most: int) -> dict[str, object]:
        """Everything for JSON, with the ``most`` confident mistakes."""
        return {
            "confusion": {"classes": self.classes, "images": self.confusion},
            "calibration": {
                "ece": self.calibration_error,
                "confidence": self.confidence,
                "accuracy": self.accuracy,
                "bins": [vars(part) for part in self.bins],
            },
            "mistakes": [vars(mistake) for mistake in self.mistakes[:most]],
        }

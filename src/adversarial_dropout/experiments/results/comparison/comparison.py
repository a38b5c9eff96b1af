"""Errors of several methods on the same images, compared with plain training seed by seed."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from adversarial_dropout.experiments.classical import MAJORITY
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

PLAIN = "plain"
ENOUGH = 3
"""Fewest seeds from which a method is called better or worse."""

Outcome = Literal["better", "worse", "too few repetitions", "within the spread", "too few test images"]


@dataclass(frozen=True)
class Images:
    """The images of a comparison, in numbers.

    Attributes:
        name: Folder, list or hub id.
        classes: Names of the classes.
        labels: Labelled training images of each class.
        unlabelled: Training images that methods use without a label, besides the labelled ones.
        tested: Images on which errors are measured.
        evaluated_on: Part that these images are: "test" or "validation".
        size: Height and width of a stored image in pixels.
    """

    name: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    unlabelled: int
    tested: int
    evaluated_on: str
    size: tuple[int, int]

    @classmethod
    def of(cls, config: ExperimentConfig, data: ImageData, split: Split) -> "Images":
        """Count the images of one run; others have as many."""
        labels = data.labels.cpu()[split.labelled].bincount(minlength=len(data.classes))
        known: Tensor = split.labelled
        others = len(set(split.unlabelled.tolist()) - set(known.tolist())) if config.training.batch_unlabelled else 0
        return cls(
            name=config.data.name,
            classes=data.classes,
            labels=tuple(labels.tolist()),
            unlabelled=others,
            tested=len(split.evaluation),
            evaluated_on="validation" if config.data.validation else "test",
            size=data.shape[1:],
        )


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        method: Its name.
        errors: Error in percent by seed.
        seconds: Mean time of a run; ``None`` for a classifier that is no network.
    """

    method: str
    errors: Mapping[int, float]
    seconds: float | None = None

    @property
    def error(self) -> MeanStd:
        """Mean and standard deviation (n - 1) of the errors."""
        return MeanStd.of(tuple(self.errors.values()))


@dataclass(frozen=True)
class Difference:
    """One method minus another on the same seeds, that is, on the same splits of the same images.

    Attributes:
        points: Difference of the errors in percentage points, by seed; negative where the first makes fewer mistakes.
        chance: The largest standard error of the mean that so few test images can cause, in percentage points.
    """

    points: tuple[float, ...]
    chance: float

    @classmethod
    def of(cls, first: Row, second: Row, tested: int) -> "Difference | None":
        """Compare two methods on the seeds that both have, on ``tested`` images; ``None`` if there is no such seed.

        With mean errors e and f, as shares, the difference on N images has a variance of (b - (e - f)²) / N, where b is
        the share of the images that only one of the two gets wrong. b is e + f, or 1, at most.
        """
        seeds = [seed for seed in first.errors if seed in second.errors]
        if not seeds:
            return None
        e, f = (statistics.fmean(row.errors[seed] for seed in seeds) / 100 for row in (first, second))
        chance = 100 * math.sqrt(max(0.0, min(1.0, e + f) - (e - f) ** 2) / tested)
        return cls(tuple(first.errors[seed] - second.errors[seed] for seed in seeds), chance)

    @property
    def mean(self) -> float:
        """Mean in percentage points."""
        return statistics.fmean(self.points)

    @property
    def std(self) -> float | None:
        """Standard deviation (n - 1) in percentage points."""
        return MeanStd.of(self.points).std

    @property
    def wins(self) -> int:
        """Seeds with which the first makes fewer mistakes."""
        return sum(point < 0 for point in self.points)

    @property
    def outcome(self) -> Outcome:
        """What may be said of the first.

        It is better or worse if that holds with each of at least three seeds, and the mean difference is larger than
        both its standard deviation over seeds and its :attr:`chance`.
        """
        if len(self.points) < ENOUGH:
            return "too few repetitions"
        same = all(point < 0 for point in self.points) or all(point > 0 for point in self.points)
        if not same or abs(self.mean) <= (self.std or 0.0):
            return "within the spread"
        if abs(self.mean) <= self.chance:
            return "too few test images"
        return "better" if self.mean < 0 else "worse"

    @property
    def result(self) -> str:
        """The outcome in a word: better, worse or unclear."""
        return self.outcome if self.outcome in ("better", "worse") else "unclear"

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


def by_chance(seeds: int) -> float:
    """Probability that a method without any effect is called better, if only seeds matter and differ normally.

    The mean difference must exceed its standard deviation, so t = √n, with n - 1 degrees of freedom.
    """
    from scipy.stats import t

    return float(t.sf(math.sqrt(seeds), seeds - 1))


def interval(error: float, images: int) -> tuple[float, float]:
    """The 95 % interval of an error in percent that was measured on so many images (E. B. Wilson, JASA 1927)."""
    z, p = 1.959964, error / 100
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


@dataclass(frozen=True)
class Comparison:
    """Methods on one's own images.

    Attributes:
        images: What they learned from and were tested on.
        trained: The networks, plain training first if it is there.
        beside: Classifiers that are no networks, on the same seeds.
        scale: Length of the training.
        runs: The records of the networks.
    """

    images: Images
    trained: tuple[Row, ...]
    beside: tuple[Row, ...]
    scale: str
    runs: tuple[Record, ...] = ()

    @classmethod
    def of(cls, images: Images, runs: Sequence[Record], beside: Mapping[int, Mapping[str, float]]) -> "Comparison":
        """Compare finished runs, in the order of their methods, and errors of other classifiers by seed and name."""
        names = dict.fromkeys(run.config.method for run in runs)
        trained = [
            Row(
                name,
                {run.config.seed: run.error for run in members},
                statistics.fmean(run.seconds for run in members),
            )
            for name in names
            if (members := [run for run in runs if run.config.method == name])
        ]
        others = dict.fromkeys(name for errors in beside.values() for name in errors)
        rows = [Row(name, {seed: errors[name] for seed, errors in beside.items() if name in errors}) for name in others]
        return cls(images, tuple(trained), tuple(rows), runs[0].config.scale, tuple(runs))

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows."""
        return (*self.trained, *self.beside)

    @property
    def plain(self) -> Row | None:
        """Plain training."""
        return self.named(PLAIN)

    def named(self, method: str) -> Row | None:
        """The row of a method."""
        return next((row for row in self.rows if row.method == method), None)

    def difference(self, row: Row, other: Row | None = None) -> Difference | None:
        """``row`` minus ``other``, or minus plain training; ``None`` for plain training itself."""
        other = other or self.plain
        return None if other is None or other is row else Difference.of(row, other, self.images.tested)

    def cost(self, row: Row) -> float | None:
        """Time of a run over that of plain training."""
        plain = self.plain
        return row.seconds / plain.seconds if row.seconds and plain is not None and plain.seconds else None

    @property
    def repetitions(self) -> int:
        """Most seeds of a network."""
        return max(len(row.errors) for row in self.trained)

    @property
    def table(self) -> Table:
        """The rows in words."""
        return Table(
            ("method", "error in %", "n", "to plain", "ahead", "time", "result"),
            [self._cells(row) for row in self.rows],
            f"Is it worth it? Error on {self.images.tested} {self.images.evaluated_on} images, mean ± std over n seeds",
        )

    def _cells(self, row: Row) -> tuple[object, ...]:
        difference, cost = self.difference(row), self.cost(row)
        compared: Iterable[object] = (None, None)
        if difference is not None:
            compared = (str(difference), f"{difference.wins} of {len(difference.points)}")
        return (
            row.method,
            str(row.error),
            len(row.errors),
            *compared,
            None if cost is None else f"{cost:.1f} ×",
            None if difference is None or row.method == MAJORITY else difference.result,
        )

    @property
    def figures(self) -> Table:
        """The rows in numbers, for CSV."""
        header = ("method", "n", "error", "std", "difference", "difference std", "wins", "cost", "seconds", "outcome")
        rows = []
        for row in self.rows:
            found = self.difference(row)
            compared = (None,) * 3 if found is None else (found.mean, found.std, found.wins)
            outcome = None if found is None else found.outcome
            rows.append((row.method, len(row.errors), *row.error, *compared, self.cost(row), row.seconds, outcome))
        return Table(header, rows)

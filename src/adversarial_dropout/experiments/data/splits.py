"""Splits the rows of a data set into labelled, unlabelled and evaluation rows."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.regularizers.base import UNLABELLED

ENOUGH = 10
"""Labels that each class must have so that some are held out to choose the epoch."""


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices, int64.

    Attributes:
        labelled: Training rows whose labels are used.
        unlabelled: Training rows that are used without a label: of all of them, or all but the labelled ones, the
            number that the config allows.
        choosing: Labelled rows of the training part that are held out to choose the epoch whose weights are kept.
        evaluation: Rows on which errors are measured: the validation part if there is one, otherwise the test part;
            all of it, or evenly spaced rows.
    """

    labelled: Tensor
    unlabelled: Tensor
    evaluation: Tensor
    choosing: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def rows_seen(self, *, unlabelled: bool) -> tuple[Tensor, Tensor]:
        """Rows that a network is trained on, with the unlabelled ones or without, and those on which errors are
        measured.
        """
        trained = torch.unique(torch.cat([self.labelled, self.unlabelled])) if unlabelled else self.labelled
        return trained, torch.cat([self.evaluation, self.choosing])

    def to_dict(self) -> dict[str, str]:
        """The indices as text like "3, 17, 20-25", for JSON."""
        return {field.name: _as_text(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, plain: dict[str, str]) -> "Split":
        """The inverse of :meth:`to_dict`."""
        earlier = {"choosing": ""}  # Records of earlier versions have no such rows.
        return cls(**{field.name: _from_text({**earlier, **plain}[field.name]) for field in dataclasses.fields(cls)})


def _as_text(rows: Tensor) -> str:
    breaks = (rows.diff() != 1).nonzero().squeeze(1) + 1
    runs = [(int(run[0]), int(run[-1])) for run in torch.tensor_split(rows, breaks) if len(run)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _from_text(text: str) -> Tensor:
    rows: list[int] = []
    for run in text.split(", ") if text else []:
        first, _, last = run.partition("-")
        rows += range(int(first), int(last or first) + 1)
    return torch.tensor(rows, dtype=torch.int64)


def make_split(data: ImageData, config: DataConfig, seed: int) -> Split:
    """Draw the split of a run. Validation and labelled rows depend on the seed, the test part does not."""
    generator = torch.Generator().manual_seed(seed)
    pool = data.training
    if not len(pool):
        raise InvalidValueError(f"expected images for training in {config.name}, got {len(data.test)} test images only")
    pool = pool[torch.randperm(len(pool), generator=generator)]
    known = pool[data.labels.cpu()[pool] != UNLABELLED]
    if not len(known):
        raise InvalidValueError(
            f"expected images with a label for training in {config.name}, got none besides the {len(data.test)} test "
            f"images; add labels, two for each class at least, or give test images of their own (--test FOLDER)"
        )
    if config.validation >= len(known):
        raise InvalidValueError(
            f"expected data.validation below the {len(known)} labelled training examples of {config.name}, "
            f"got {config.validation}"
        )
    held_out = known[: config.validation]
    training = pool[~torch.isin(pool, held_out)]
    by_class = _labelled(data, known[config.validation :], config)
    choosing = torch.cat([pool[:0], *(rows[: _held_out(by_class, config.choosing, len(rows))] for rows in by_class)])
    labelled = torch.cat(by_class)
    labelled = labelled[~torch.isin(labelled, choosing)].sort().values
    training = training[~torch.isin(training, choosing)]
    unlabelled = training if config.overlap else training[~torch.isin(training, labelled)]
    unlabelled = unlabelled[: config.unlabelled].sort().values
    evaluation = held_out.sort().values if config.validation else data.test
    if config.evaluated is not None:
        evaluation = evenly_spaced(evaluation, config.evaluated)
    return Split(labelled, unlabelled, evaluation, choosing.sort().values)


def _held_out(by_class: Sequence[Tensor], share: float, labels: int) -> int:
    """How many of a class with so many labels choose the epoch: none if a class has too few."""
    return max(1, round(share * labels)) if share and min(map(len, by_class)) >= ENOUGH else 0


def evenly_spaced(rows: Tensor, most: int) -> Tensor:
    """All of ``rows``, or ``most`` of them, evenly spaced."""
    return rows if len(rows) <= most else rows[torch.arange(most) * len(rows) // most]


def _labelled(data: ImageData, shuffled: Tensor, config: DataConfig) -> list[Tensor]:
    """The labelled rows by class: all of ``shuffled``, or the first rows of each class."""
    classes = len(data.classes)
    labels = data.labels.cpu()[shuffled]
    by_class = [shuffled[labels == label] for label in range(classes)]
    least, advice = 1, "add labels"
    if config.labelled is not None:
        if config.labelled % classes:
            raise InvalidValueError(
                f"expected data.labelled to be a multiple of the {classes} classes of {config.name}, got "
                f"{config.labelled}"
            )
        least, advice = config.labelled // classes, "lower data.labelled, or add labels"
        by_class = [rows[:least] for rows in by_class]
    name, rows = min(zip(data.classes, by_class, strict=True), key=lambda pair: len(pair[1]))
    if len(rows) < least:
        raise InvalidValueError(
            f"expected {least} labelled examples of each class, but class {name!r} of {config.name} has "
            f"{len(rows)} training examples with a label; {advice}"
        )
    return by_class

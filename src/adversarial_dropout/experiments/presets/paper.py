"""The paper's experiments as it states them (``paper/``), and as the authors' released code runs them (``authors/``).

``stated.py`` has what the paper states; what the authors' code does otherwise is here.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from adversarial_dropout.experiments.config import Parts, Scale
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.presets.stated import STATED, TITLES, Source
from adversarial_dropout.experiments.terms import Entmin, Vadd, Vat

METHODS = ("plain", "at", "vat", "pi", "sadd", "vadd-kl", "vadd-qe", "vadd-kl+vat", "vadd-qe+vat")
SCALES: tuple[Scale, ...] = ("tiny", "quick", "paper")
Family = Literal["paper", "authors"]


@dataclass(frozen=True)
class Column:
    """One column of a table, in one of the two families."""

    family: Family
    source: Source
    all_labels: bool

    @property
    def preset(self) -> str:
        """Its name, as the command line takes it."""
        return f"{self.family}/{self.source}-{'all' if self.all_labels else STATED[self.source].labelled}"

    @property
    def labels(self) -> int:
        """Number of labelled examples."""
        stated = STATED[self.source]
        return stated.training_images if self.all_labels else stated.labelled

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        how = "as the paper states it" if self.family == "paper" else "as the authors' code runs it"
        return f"{TITLES[self.source]}, {self.labels:,} labels, {how}"


_FAMILIES: tuple[tuple[Family, tuple[Source, ...]], ...] = (
    ("paper", ("mnist", "svhn", "cifar10")),
    ("authors", ("svhn", "cifar10")),  # Their code has no MNIST.
)
COLUMNS = tuple(
    Column(family, source, all_labels)
    for family, sources in _FAMILIES
    for source in sources
    for all_labels in (False, True)
)


def make(column: Column, method: str, scale: Scale) -> Parts:
    """What one method trains in one column."""
    stated = STATED[column.source]
    parts = Parts(
        data=dataclasses.replace(stated.data, labelled=None if column.all_labels else stated.labelled),
        model=stated.model,
        training=stated.with_all_labels if column.all_labels else stated.with_few_labels,
        terms=stated.terms(method),
    )
    if column.family == "authors":
        parts = _authors(parts, column)
    return parts if scale == "paper" else _shrunk(parts, column, scale)


def _authors(parts: Parts, column: Column) -> Parts:
    """What the released code does differently."""
    cifar, model, terms = column.source == "cifar10", parts["model"], dict(parts["terms"])
    assert isinstance(model, ConvLarge)
    for kind, term in parts["terms"].items():
        if isinstance(term, Vat):
            terms[kind] = dataclasses.replace(term, eps=8.0 if cifar else 3.5, xi=1e-6)
        elif isinstance(term, Vadd) and term.divergence == "qe" and column.preset == "authors/svhn-all":
            terms[kind] = dataclasses.replace(term, weight=10.0)
    if not column.all_labels and not terms.keys().isdisjoint(("pi", "vat", "vadd")):
        terms["entmin"] = Entmin(weight=1.0, ramp=False)
    return Parts(
        data=dataclasses.replace(parts["data"], overlap=True, whiten=cifar),
        model=dataclasses.replace(
            model,
            norm_momentum=0.01,
            norm_logits=not cifar or (column.all_labels and {"vadd", "vat"} <= terms.keys()),
            dropout2=0.5,
            input_noise=model.input_noise if cifar else 0.0,
            noise_in_evaluation=cifar,
            rescale="sum",
        ),
        training=dataclasses.replace(parts["training"], steps_per_epoch=None if column.all_labels else 400),
        terms=terms,
    )


def _shrunk(parts: Parts, column: Column, scale: Scale) -> Parts:
    """The same with a fixed number of steps. The ramps take the same share of the epochs."""
    data, training = parts["data"], parts["training"]
    labelled, unlabelled, learning_rate = training.batch_labelled, training.batch_unlabelled, training.learning_rate
    if scale == "tiny":
        epochs, steps, labelled, unlabelled = 2, 1, 2, min(2, unlabelled)
        data = dataclasses.replace(data, labelled=data.labelled and 20, evaluated=20)
    elif column.source == "mnist":  # 2,400 and 1,500 steps.
        epochs, steps = 10, 240 if column.all_labels else 150
    else:  # 20 steps with an eighth of the batch show on a CPU that the loss falls, and no more.
        epochs, steps, labelled, unlabelled = 5, 4, labelled // 8, unlabelled // 8
        learning_rate /= 10  # It has no time to rise.
        data = dataclasses.replace(data, evaluated=200)

    def share(ramp: int) -> int:
        return max(1, round(ramp * epochs / training.epochs)) if ramp else 0

    shrunk = dataclasses.replace(
        training,
        epochs=epochs,
        steps_per_epoch=steps,
        batch_labelled=labelled,
        batch_unlabelled=unlabelled,
        learning_rate=learning_rate,
        ramp_up=share(training.ramp_up),
        ramp_down=share(training.ramp_down),
    )
    return {**parts, "data": data, "training": shrunk}

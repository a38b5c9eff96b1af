"""The paper's experiments as it states them (``paper/``), and as the authors' released code runs them (``authors/``).

The numbers are in ``stated.py``; what the authors' code does otherwise is here.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from adversarial_dropout.experiments.config import DataConfig, Scale, Settings, TrainingConfig
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.presets.stated import (
    BATCH_LABELLED,
    BATCH_UNLABELLED,
    DEVIATIONS,
    LEFT_OPEN,
    STATED,
    TITLES,
    Source,
    Stated,
)
from adversarial_dropout.experiments.terms import At, Entmin, Pi, Sadd, Term, Vadd, Vat, by_kind

METHODS = ("plain", "at", "vat", "pi", "sadd", "vadd-kl", "vadd-qe", "vadd-kl+vat", "vadd-qe+vat")
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


def make(column: Column, method: str, scale: Scale, seed: int) -> Settings:
    """The settings of one method in one column."""
    config = _paper(column, method, scale, seed)
    if column.family == "authors":
        config = _authors(config, column, method)
    return config if scale == "paper" else _shrunk(config, column, scale)


def _paper(column: Column, method: str, scale: Scale, seed: int) -> Settings:
    stated = STATED[column.source]
    natural = column.source != "mnist"
    steps = None
    if column.all_labels:
        labelled, unlabelled = stated.batch, 0
    elif natural:
        labelled, unlabelled = BATCH_LABELLED, BATCH_UNLABELLED
    else:
        labelled = int(LEFT_OPEN["MNIST: labelled images among the 128 of a step, 1,000 labels"].value)
        unlabelled = stated.batch - labelled
        steps = int(LEFT_OPEN["MNIST: steps of an epoch, 1,000 labels"].value)
    return Settings(
        preset=column.preset,
        method=method,
        scale=scale,
        seed=seed,
        data=DataConfig(
            name=column.source,
            labelled=None if column.all_labels else stated.labelled,
            overlap=False,
            centre=natural,
            translate=int(LEFT_OPEN["translation in pixels, SVHN and CIFAR-10"].value) if natural else 0,
            flip=column.source == "cifar10",
        ),
        model=_network(stated),
        training=TrainingConfig(
            epochs=stated.epochs,
            steps_per_epoch=steps,
            batch_labelled=labelled,
            batch_unlabelled=unlabelled,
            learning_rate=stated.learning_rate,
            ramp_up=stated.ramp_up,
            ramp_up_learning_rate=stated.ramp_up_learning_rate,
            ramp_down=stated.ramp_down,
            beta1=stated.beta1,
            beta1_end=stated.beta1_end,
        ),
        terms=by_kind(*(_term(name, column.source) for name in method.split("+") if name != "plain")),
    )


def _network(stated: Stated) -> Network:
    common = {name: getattr(stated, name) for name in ("input_noise", "dropout1", "dropout2", "p", "delta")}
    if stated.norm is None or stated.norm_momentum is None:
        return MnistCnn(kernel_size=int(DEVIATIONS["MNIST: kernel size"].value), **common)
    return ConvLarge(norm=stated.norm, norm_momentum=stated.norm_momentum, **common)


def _term(name: str, source: Source) -> Term:
    stated = STATED[source]
    mnist = source == "mnist"
    one = LEFT_OPEN["weight of AT and SAdD; of VAT on SVHN, CIFAR-10"].value
    at = LEFT_OPEN["MNIST: ε of AT (L∞)" if mnist else "SVHN, CIFAR-10: ε of AT (L∞)"].value
    vat = LEFT_OPEN[f"{TITLES[source]}: ε of VAT (L2)"].value
    terms: dict[str, Term] = {
        "at": At(weight=one, eps=at, ramp=mnist),
        "vat": Vat(weight=stated.weight_kl if mnist else one, eps=vat, ramp=mnist),
        "pi": Pi(weight=stated.weight_qe, divergence="qe"),
        "sadd": Sadd(weight=one, divergence="ce"),
        "vadd-kl": Vadd(weight=stated.weight_kl, divergence="kl"),
        "vadd-qe": Vadd(weight=stated.weight_qe, divergence="qe"),
    }
    return terms[name]


_AUTHORS_EPS = {"svhn": 3.5, "cifar10": 8.0}
_AUTHORS_XI = 1e-6
_AUTHORS_NORM_MOMENTUM = 0.01
_AUTHORS_STEPS = 400
_AUTHORS_WEIGHT_QE_SVHN_ALL = 10.0


def _authors(config: Settings, column: Column, method: str) -> Settings:
    """What the released code does otherwise; docs/experiments.md says where it does so."""
    cifar = column.source == "cifar10"
    both = "vadd" in method and "vat" in method
    terms = dict(config.terms)
    for kind, term in config.terms.items():
        if isinstance(term, Vat):
            terms[kind] = dataclasses.replace(term, eps=_AUTHORS_EPS[column.source], xi=_AUTHORS_XI)
        elif isinstance(term, Vadd) and term.divergence == "qe" and column.source == "svhn" and column.all_labels:
            terms[kind] = dataclasses.replace(term, weight=_AUTHORS_WEIGHT_QE_SVHN_ALL)
    if not column.all_labels and not terms.keys().isdisjoint(("pi", "vat", "vadd")):
        terms["entmin"] = Entmin(weight=1.0, ramp=False)
    assert isinstance(config.model, ConvLarge)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, overlap=True, whiten=cifar),
        model=dataclasses.replace(
            config.model,
            norm_momentum=_AUTHORS_NORM_MOMENTUM,
            dropout2=0.5,
            norm_logits=not cifar or (column.all_labels and both),
            input_noise=config.model.input_noise if cifar else 0.0,
            noise_in_evaluation=cifar,
            rescale="sum",
        ),
        training=dataclasses.replace(config.training, steps_per_epoch=None if column.all_labels else _AUTHORS_STEPS),
        terms=terms,
    )


def _shrunk(config: Settings, column: Column, scale: Scale) -> Settings:
    """The same with a fixed number of steps; the ramps take the same share of the epochs."""
    training, data = config.training, config.data
    if scale == "tiny":
        epochs, steps, labelled, unlabelled = 2, 1, 2, 2
        data = dataclasses.replace(data, labelled=None if column.all_labels else 20, evaluated=20)
    elif column.source == "mnist":  # 2,400 and 1,500 steps.
        epochs, steps = 10, 240 if column.all_labels else 150
        labelled, unlabelled = training.batch_labelled, training.batch_unlabelled
    else:  # 20 steps with an eighth of the batch: shows on a CPU that the loss falls, and no more.
        epochs, steps = 5, 4
        labelled, unlabelled = training.batch_labelled // 8, training.batch_unlabelled // 8
        training = dataclasses.replace(training, learning_rate=training.learning_rate / 10)  # There is no time to rise.
        data = dataclasses.replace(data, evaluated=200)
    return dataclasses.replace(
        config,
        data=data,
        training=dataclasses.replace(
            training,
            epochs=epochs,
            steps_per_epoch=steps,
            batch_labelled=labelled,
            batch_unlabelled=0 if column.all_labels else unlabelled,
            ramp_up=_share(training.ramp_up, epochs, training.epochs),
            ramp_down=_share(training.ramp_down, epochs, training.epochs),
        ),
    )


def _share(ramp: int, epochs: int, of: int) -> int:
    """A ramp that takes the same share of fewer epochs, one at the least; no ramp stays none."""
    return max(1, round(ramp * epochs / of)) if ramp else 0

"""The figures that the paper prints in Tables 1, 2, 6 and 7, in its own order: test errors in percent."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adversarial_dropout.experiments.presets.stated import Source

Column = tuple[Source, bool]
"""A column of a table: the data set, and whether all of its labels are used."""


class Published(NamedTuple):
    """A test error in percent: mean, and standard deviation where one is given."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, errors: Sequence[float]) -> "Published":
        """Mean and standard deviation (n - 1) of errors, one or more; of a single one there is no deviation."""
        return cls(statistics.fmean(errors), statistics.stdev(errors) if len(errors) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


@dataclass(frozen=True)
class PrintedRow:
    """A row of a table of the paper.

    Attributes:
        name: The method. "authors' implementation" is what the paper calls "our implementation".
        method: The method of this project that is trained for it; ``None`` for a row quoted from another paper.
        figures: One per column; ``None`` where a dash is printed.
    """

    name: str
    method: str | None
    figures: tuple[Published | None, ...]


@dataclass(frozen=True)
class PrintedTable:
    """A table of the paper.

    Attributes:
        columns: What its figures are for.
        rows: Its rows, in its order.
        notes: What must be known beside it; a note on a row begins with the mark that stands behind the row's name.
    """

    columns: tuple[Column, ...]
    rows: tuple[PrintedRow, ...]
    notes: tuple[str, ...] = ()


def _row(name: str, method: str | None, *figures: str) -> PrintedRow:
    return PrintedRow(name, method, tuple(None if figure == "-" else _figure(figure) for figure in figures))


def _figure(text: str) -> Published:
    mean, _, std = text.partition(" ± ")
    return Published(float(mean), float(std) if std else None)


_ENTROPY = "VAT with entropy minimisation; VAT alone has 11.36 on CIFAR-10 in that paper, a figure that this one lacks"
_TEXT = "The text has 10.04 with 4,000 labels of CIFAR-10; what the tables print stands here"
_SAME = "The rows from Π model (authors' implementation) on repeat Table 2"

PRINTED: dict[str, PrintedTable] = {
    "table1": PrintedTable(
        columns=(("mnist", False), ("mnist", True)),
        rows=(
            _row("Plain (only dropout)", "plain", "2.99 ± 0.23", "0.53 ± 0.03"),
            _row("AT", "at", "-", "0.51 ± 0.03"),
            _row("VAT", "vat", "1.35 ± 0.14", "0.50 ± 0.01"),
            _row("Π model", "pi", "1.00 ± 0.08", "0.50 ± 0.02"),
            _row("SAdD", "sadd", "-", "0.46 ± 0.01"),
            _row("VAdD (KL)", "vadd-kl", "0.99 ± 0.07", "0.47 ± 0.01"),
            _row("VAdD (QE)", "vadd-qe", "0.99 ± 0.09", "0.46 ± 0.02"),
        ),
    ),
    "table2": PrintedTable(
        columns=(("svhn", False), ("svhn", True), ("cifar10", False), ("cifar10", True)),
        rows=(
            _row("Π model (Laine and Aila 2016)", None, "4.82", "2.54", "12.36", "5.56"),
            _row("Temporal ensembling (Laine and Aila 2016)", None, "4.42", "2.74", "12.16", "5.60"),
            _row("Sajjadi et al. (2016)", None, "-", "-", "11.29", "-"),
            _row("VAT (Miyato et al. 2017) ¹", None, "3.86", "-", "10.55", "5.81"),
            _row(
                "Π model (authors' implementation)", "pi", "4.35 ± 0.04", "2.53 ± 0.05", "12.62 ± 0.29", "5.77 ± 0.11"
            ),
            _row("VAT (authors' implementation)", "vat", "3.74 ± 0.09", "2.69 ± 0.04", "11.96 ± 0.10", "5.65 ± 0.17"),
            _row("SAdD", "sadd", "-", "2.46 ± 0.05", "-", "5.46 ± 0.16"),
            _row("VAdD (KL)", "vadd-kl", "4.16 ± 0.08", "2.31 ± 0.01", "11.68 ± 0.19", "5.27 ± 0.10"),
            _row("VAdD (QE)", "vadd-qe", "4.26 ± 0.14", "2.37 ± 0.03", "11.32 ± 0.11", "5.24 ± 0.12"),
            _row("VAdD (KL) + VAT ²", "vadd-kl+vat", "3.55 ± 0.05", "2.23 ± 0.03", "10.07 ± 0.11", "4.40 ± 0.12"),
            _row("VAdD (QE) + VAT", "vadd-qe+vat", "3.55 ± 0.07", "2.34 ± 0.05", "9.22 ± 0.10", "4.73 ± 0.04"),
        ),
        notes=(
            f"¹ 3.86 and 10.55 are {_ENTROPY}.",
            f"² {_TEXT}.",
            'The text seems to mean this table where it writes "Table 7".',
        ),
    ),
    "table6": PrintedTable(
        columns=(("cifar10", True),),
        rows=(
            _row("Network in Network (2013)", None, "8.81"),
            _row("All-CNN (2014)", None, "7.25"),
            _row("Deep Supervised Net (2015)", None, "7.97"),
            _row("Highway Network (2015)", None, "7.72"),
            _row("Π model (2016)", None, "5.56"),
            _row("Temporal ensembling (2016)", None, "5.60"),
            _row("VAT (2017)", None, "5.81"),
            _row("Π model (authors' implementation)", "pi", "5.77 ± 0.11"),
            _row("VAT (authors' implementation)", "vat", "5.65 ± 0.17"),
            _row("AdD ¹", "sadd", "5.46 ± 0.16"),
            _row("VAdD (KL)", "vadd-kl", "5.27 ± 0.10"),
            _row("VAdD (QE)", "vadd-qe", "5.24 ± 0.12"),
            _row("VAdD (KL) + VAT", "vadd-kl+vat", "4.40 ± 0.12"),
            _row("VAdD (QE) + VAT", "vadd-qe+vat", "4.73 ± 0.04"),
        ),
        notes=("¹ SAdD in Table 2, with the same figure.", f"{_SAME}."),
    ),
    "table7": PrintedTable(
        columns=(("cifar10", False),),
        rows=(
            _row("Ladder network (2015)", None, "20.40"),
            _row("CatGAN (2015)", None, "19.58"),
            _row("GAN with feature matching (2016)", None, "18.63"),
            _row("Π model (2016)", None, "12.36"),
            _row("Temporal ensembling (2016)", None, "12.16"),
            _row("Sajjadi et al. (2016)", None, "11.29"),
            _row("VAT (2017) ¹", None, "10.55"),
            _row("Π model (authors' implementation)", "pi", "12.62 ± 0.29"),
            _row("VAT (authors' implementation)", "vat", "11.96 ± 0.10"),
            _row("VAdD (KL)", "vadd-kl", "11.68 ± 0.19"),
            _row("VAdD (QE)", "vadd-qe", "11.32 ± 0.11"),
            _row("VAdD (KL) + VAT ²", "vadd-kl+vat", "10.07 ± 0.11"),
            _row("VAdD (QE) + VAT", "vadd-qe+vat", "9.22 ± 0.10"),
        ),
        notes=(f"¹ 10.55 is {_ENTROPY}.", f"² {_TEXT}.", f"{_SAME}."),
    ),
}
"""The tables of Park, Park, Shin, Moon (AAAI 2018) by name, as printed."""

NAMES = {
    "plain": "Plain (only dropout)",
    "at": "AT",
    "vat": "VAT",
    "pi": "Π model",
    "sadd": "SAdD",
    "vadd-kl": "VAdD (KL)",
    "vadd-qe": "VAdD (QE)",
    "vadd-kl+vat": "VAdD (KL) + VAT",
    "vadd-qe+vat": "VAdD (QE) + VAT",
}
"""What the paper calls the methods."""

"""Test errors that others have published, in percent, to set ours beside."""

from dataclasses import dataclass
from typing import NamedTuple

from adversarial_dropout.experiments.presets.paper import Source


class Published(NamedTuple):
    """A test error in percent: mean, and standard deviation where one is at hand."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


@dataclass(frozen=True)
class Quoted:
    """Errors from another paper, on one data set.

    Attributes:
        name: The method.
        citation: Where it was published.
        few: With few labels, as many as in our column.
        all: With all labels.
        same_network: Whether that paper's network is the one of Table 4.
    """

    name: str
    citation: str
    few: Published | None
    all: Published | None
    same_network: bool = True


PAPER: dict[tuple[Source, bool], dict[str, Published]] = {
    ("mnist", False): {
        "plain": Published(2.99),
        "vat": Published(1.35),
        "pi": Published(1.00),
        "vadd-kl": Published(0.99, 0.07),
        "vadd-qe": Published(0.99, 0.09),
    },
    ("mnist", True): {
        "plain": Published(0.53),
        "vat": Published(0.50),
        "pi": Published(0.50),
        "sadd": Published(0.46),
        "vadd-kl": Published(0.47),
        "vadd-qe": Published(0.46),
    },
    ("svhn", False): {
        "vadd-kl": Published(4.16),
        "vadd-qe": Published(4.26),
        "vadd-kl+vat": Published(3.55, 0.05),
        "vadd-qe+vat": Published(3.55),
    },
    ("svhn", True): {
        "vadd-kl": Published(2.31),
        "vadd-qe": Published(2.37),
        "vadd-kl+vat": Published(2.23, 0.03),
        "vadd-qe+vat": Published(2.34),
    },
    ("cifar10", False): {
        "pi": Published(12.62),
        "vadd-kl": Published(11.68),
        "vadd-qe": Published(11.32),
        "vadd-kl+vat": Published(10.07),
        "vadd-qe+vat": Published(9.22, 0.10),
    },
    ("cifar10", True): {
        "sadd": Published(5.46),
        "vadd-kl": Published(5.27),
        "vadd-qe": Published(5.24),
        "vadd-kl+vat": Published(4.40, 0.12),
        "vadd-qe+vat": Published(4.73),
    },
}
"""Park, Park, Shin, Moon (AAAI 2018), by data set and whether all labels are used. A method that is missing has no
figure there, or none that we could check."""

_LADDER = "Rasmus et al., NIPS 2015"
_VAT = "Miyato et al., TPAMI 2018"
_LAINE = "Laine & Aila, ICLR 2017"
_GAN = "Salimans et al., NIPS 2016"

LITERATURE: dict[Source, tuple[Quoted, ...]] = {
    "mnist": (
        Quoted("ladder network", _LADDER, Published(0.84, 0.08), Published(0.57, 0.02), same_network=False),
        Quoted("VAT", _VAT, Published(1.27), Published(0.64), same_network=False),
    ),
    "svhn": (
        Quoted("GAN, feature matching", _GAN, Published(8.11, 1.3), None, same_network=False),
        Quoted("Π-model", _LAINE, Published(4.82, 0.17), Published(2.54, 0.04)),
        Quoted("temporal ensembling", _LAINE, Published(4.42, 0.16), Published(2.74, 0.06)),
        Quoted("VAT + entropy minimisation", _VAT, Published(3.86), None),
    ),
    "cifar10": (
        Quoted("ladder network", _LADDER, Published(20.40, 0.47), None, same_network=False),
        Quoted("GAN, feature matching", _GAN, Published(18.63, 2.32), None, same_network=False),
        Quoted("Π-model", _LAINE, Published(12.36, 0.31), Published(5.56, 0.10)),
        Quoted("temporal ensembling", _LAINE, Published(12.16, 0.24), Published(5.60, 0.10)),
        Quoted("VAT", _VAT, Published(11.36), Published(5.81)),
        Quoted("VAT + entropy minimisation", _VAT, Published(10.55), None),
    ),
}
"""What other papers report under the same protocol."""

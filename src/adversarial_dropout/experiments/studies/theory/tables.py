"""The tables of the page on the theory."""

from typing import Any

from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.theory.paths import DROPOUT, SETTINGS
from adversarial_dropout.experiments.studies.theory.penalties import TERMS

TableRow = tuple[object, ...]

_SHOWN_LEVELS = 6
_EQUAL = 1e-10
_ALIKE = 1e-9


def tables(study: dict[str, Any]) -> list[Table]:
    """The numbers of :func:`.study.measure`, in the order of the page."""
    return [
        Table(
            ("eq.", "what is compared", "equal", "values", "gradients"),
            [_deviation(**deviation) for deviation in study["deviations"]],
            f"Both sides of each equation on {study['problems']} random problems: largest relative deviation",
        ),
        Table(
            ("data", "k", "examples", "printed: over k", "most", "printed: over k²", "library: over k"),
            [_dropped(**dropped) for dropped in study["dropped"]],
            "Examples of which more than k features are dropped",
        ),
        Table(
            ("change", *TERMS),
            [(scaled["change"], *map(_span, scaled["lowest"], scaled["highest"])) for scaled in study["rescalings"]],
            "What a change multiplies the penalties of an example by: least to largest over diabetes data",
        ),
        Table(
            ("data", "coefficients", "eq. 13", *(f"eq. 16, k = {k}" for k in study["activities"][0]["flips"])),
            [
                (active["data"], active["coefficients"], *map(_percent, (active["training"], *active["dropout"])))
                for active in study["activities"]
            ],
            "Share of the pairs of example and feature that have a penalty",
        ),
        Table(
            ("method", "setting", "R²", "zeros", "largest"),
            [row for path in study["paths"] for row in _path(**path)],
            "Linear regression on the diabetes data: R² in training, coefficients that are 0, largest coefficient",
        ),
        Table(
            ("quotient", "pairs", "least", "largest", "proportional"),
            [_proportion(**proportion) for proportion in study["proportions"]],
            "Quotients of the distances between two masks of a layer",
        ),
    ]


def _deviation(*, equation: str, claim: str, holds: bool, value: float, gradient: float | None) -> TableRow:
    equal = max(value, gradient or 0.0) < _EQUAL
    expected = ", need not be" if equal and not holds else "" if equal == holds else ": UNEXPECTED"
    verdict = f"{'yes' if equal else 'no'}{expected}"
    return equation, claim, verdict, f"{value:.1e}", None if gradient is None else f"{gradient:.1e}"


def _dropped(
    *, data: str, flips: int | None, examples: int, printed: int, printed_squared: int, most: int, ours: int
) -> TableRow:
    k = "0 to D" if flips is None else flips
    return data, k, examples, printed, f"k + {most}" if most else "k", printed_squared, ours


def _span(lowest: float, highest: float) -> str:
    least, largest = (f"{end:.3g}" for end in (lowest, highest))
    return least if highest - lowest < _ALIKE * highest else f"{least} to {largest}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _path(*, method: str, grid: list[float], coefficients: list[list[float]], r_squared: list[float]) -> list[TableRow]:
    """All settings of k, and some of δ."""
    last = len(grid) - 1
    levels = list(range(last + 1))
    if method != DROPOUT and last >= _SHOWN_LEVELS:
        levels = [round(last * step / (_SHOWN_LEVELS - 1)) for step in range(_SHOWN_LEVELS)]
    return [
        (
            method,
            f"{SETTINGS[method]} = {grid[level]:.3g}",
            f"{r_squared[level]:.3f}",
            f"{coefficients[level].count(0)} of {len(coefficients[level])}",
            f"{max(map(abs, coefficients[level])):.0f}",
        )
        for level in levels
    ]


def _proportion(*, quotient: str, pairs: str, lowest: float, highest: float) -> TableRow:
    return quotient, pairs, f"{lowest:.3g}", f"{highest:.3g}", "yes" if highest - lowest < _ALIKE else "no"

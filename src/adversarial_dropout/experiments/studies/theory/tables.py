"""The tables of the page on the theory."""

from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.theory.distances import Proportion
from adversarial_dropout.experiments.studies.theory.equations import Deviation
from adversarial_dropout.experiments.studies.theory.paths import SETTINGS, Path
from adversarial_dropout.experiments.studies.theory.penalties import TERMS, Activity, Dropped, Rescaling
from adversarial_dropout.experiments.studies.theory.study import Study

Row = tuple[object, ...]

_SHOWN_LEVELS = 6
_EQUAL = 1e-10
_ALIKE = 1e-9


def tables(found: Study) -> list[Table]:
    """What was found, in the order of the page."""
    return [
        Table(
            ("eq.", "what is compared", "equal", "values", "gradients"),
            [_deviation(one) for one in found.deviations],
            f"Both sides of each equation on {found.problems} random problems: largest relative deviation",
        ),
        Table(
            ("data", "k", "examples", "printed: over k", "most", "printed: over k²", "library: over k"),
            [_dropped(one) for one in found.dropped],
            "Examples of which more than k features are dropped",
        ),
        Table(
            ("change", *TERMS),
            [_rescaling(one) for one in found.rescalings],
            "What a change multiplies the penalties of an example by: least to largest over diabetes data",
        ),
        Table(
            ("data", "coefficients", "eq. 13", *(f"eq. 16, k = {k}" for k in found.activities[0].flips)),
            [_activity(one) for one in found.activities],
            "Share of the pairs of example and feature that have a penalty",
        ),
        Table(
            ("method", "setting", "R²", "zeros", "largest"),
            [_point(path, level) for path in found.paths for level in _shown(path)],
            "Linear regression on the diabetes data: R² in training, coefficients that are 0, largest coefficient",
        ),
        Table(
            ("quotient", "pairs", "least", "largest", "proportional"),
            [_proportion(one) for one in found.proportions],
            "Quotients of the distances between two masks of a layer",
        ),
    ]


def _deviation(one: Deviation) -> Row:
    gradient = None if one.gradient is None else f"{one.gradient:.1e}"
    return one.equation, one.claim, _verdict(one), f"{one.value:.1e}", gradient


def _verdict(one: Deviation) -> str:
    """Whether the sides were equal, and whether they should have been."""
    equal = max(one.value, one.gradient or 0.0) < _EQUAL
    expected = ", need not be" if equal and not one.holds else "" if equal == one.holds else ": UNEXPECTED"
    return f"{'yes' if equal else 'no'}{expected}"


def _dropped(one: Dropped) -> Row:
    most = f"k + {one.most}" if one.most else "k"
    flips = "0 to D" if one.flips is None else one.flips
    return one.data, flips, one.examples, one.printed, most, one.printed_squared, one.ours


def _rescaling(one: Rescaling) -> Row:
    return one.change, *(_span(*ends) for ends in zip(one.lowest, one.highest, strict=True))


def _span(lowest: float, highest: float) -> str:
    least, largest = (f"{end:.3g}" for end in (lowest, highest))
    return least if highest - lowest < _ALIKE * highest else f"{least} to {largest}"


def _activity(one: Activity) -> Row:
    return one.data, one.coefficients, *(f"{100 * share:.1f} %" for share in (one.training, *one.dropout))


def _shown(path: Path) -> list[int]:
    """All levels of k, and some of δ."""
    last = len(path.grid) - 1
    if SETTINGS[path.method] == "k" or last < _SHOWN_LEVELS:
        return list(range(last + 1))
    return [round(last * step / (_SHOWN_LEVELS - 1)) for step in range(_SHOWN_LEVELS)]


def _point(path: Path, level: int) -> Row:
    w = path.coefficients[level]
    return (
        path.method,
        f"{SETTINGS[path.method]} = {path.grid[level]:.3g}",
        f"{path.r_squared[level]:.3f}",
        f"{sum(value == 0 for value in w)} of {len(w)}",
        f"{max(map(abs, w)):.0f}",
    )


def _proportion(one: Proportion) -> Row:
    proportional = "yes" if one.highest - one.lowest < _ALIKE else "no"
    return one.quotient, one.pairs, f"{one.lowest:.3g}", f"{one.highest:.3g}", proportional

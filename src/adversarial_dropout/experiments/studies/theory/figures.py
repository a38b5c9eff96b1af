"""Coefficient paths: what each method makes of the coefficients of a linear regression."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from adversarial_dropout.experiments.show.canvas import canvas, style
from adversarial_dropout.experiments.studies.theory.paths import SETTINGS, Path
from adversarial_dropout.experiments.studies.theory.study import Study


def paths(found: Study) -> str:
    """Draw the paths of both methods."""
    with canvas(10, 4.2) as (figure, done):
        for axes, path in zip(figure.subplots(1, 2), found.paths, strict=True):
            _draw(axes, path, found.features)
    return done()


def path(found: Study, one: Path) -> str:
    """Draw the path of one method."""
    with canvas(5, 4.2) as (figure, done):
        _draw(figure.subplots(), one, found.features)
    return done()


def _draw(axes: Axes, one: Path, features: Sequence[str]) -> None:
    ranks = SETTINGS[one.method] == "k"
    for place, (feature, values) in enumerate(zip(features, zip(*one.coefficients, strict=True), strict=True)):
        colour, marker = style(place)
        axes.plot(
            one.grid,
            values,
            (marker + ":") if ranks else "-" if place < len(features) / 2 else "--",
            color=colour,
            label=feature,
            markersize=4,
            linewidth=1.4,
        )
    if ranks:
        axes.set_xticks(one.grid)
    axes.set_xlabel("features that may be dropped k" if ranks else "size of the perturbation δ")
    axes.set_ylabel("coefficient")
    axes.set_title(one.method, loc="left", fontsize=10)
    axes.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.06))

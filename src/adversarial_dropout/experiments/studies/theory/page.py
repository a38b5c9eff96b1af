"""The page on the theory, and its figure of the coefficient paths."""

from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.show.canvas import canvas, style
from adversarial_dropout.experiments.show.page import Picture, write_page
from adversarial_dropout.experiments.studies.theory.paths import DROPOUT, SETTINGS
from adversarial_dropout.experiments.studies.theory.tables import tables


def write_theory(study: dict[str, Any], path: Path) -> None:
    """Write the coefficient paths as ``path`` with the suffix .svg, and the page with the suffix .html."""
    features = study["features"]
    records.write_bytes(path.with_suffix(".svg"), _draw(features, study["paths"]).encode())
    panels = []
    for coefficients in study["paths"]:
        method, grid, r_squared = coefficients["method"], coefficients["grid"], coefficients["r_squared"]
        alt = (
            f"Coefficients of {len(features)} features under {method}, for {SETTINGS[method]} from {grid[0]:.3g} to "
            f"{grid[-1]:.3g}: the share explained goes from {r_squared[0]:.3f} to {r_squared[-1]:.3f}; at the end "
            f"{coefficients['coefficients'][-1].count(0)} coefficients are 0."
        )
        panels.append(Picture(_draw(features, [coefficients]), alt))
    write_page(
        "studies/theory/page.html.j2",
        path.with_suffix(".html"),
        study=study,
        tables=tables(study),
        panels=panels,
        environments=[records.environment()],
    )


def _draw(features: list[str], paths: list[dict[str, Any]]) -> str:
    """Coefficients over the setting, a line for each feature, side by side for each method."""
    with canvas(5 * len(paths), 4.2) as (figure, done):
        for axes, path in zip(figure.subplots(1, len(paths), squeeze=False).flat, paths, strict=True):
            ranks = path["method"] == DROPOUT
            lines = zip(features, zip(*path["coefficients"], strict=True), strict=True)
            for index, (feature, coefficients) in enumerate(lines):
                colour, marker = style(index)
                axes.plot(
                    path["grid"],
                    coefficients,
                    (marker + ":") if ranks else "-" if index < len(features) / 2 else "--",
                    color=colour,
                    label=feature,
                    markersize=4,
                    linewidth=1.4,
                )
            if ranks:
                axes.set_xticks(path["grid"])
            axes.set_xlabel("features that may be dropped k" if ranks else "size of the perturbation δ")
            axes.set_ylabel("coefficient")
            axes.set_title(path["method"], loc="left", fontsize=10)
            axes.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.06))
    return done()

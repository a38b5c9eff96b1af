"""The page on the theory."""

from pathlib import Path

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.show.page import Picture, write_page
from adversarial_dropout.experiments.studies.theory import figures
from adversarial_dropout.experiments.studies.theory.paths import SETTINGS
from adversarial_dropout.experiments.studies.theory.study import Study
from adversarial_dropout.experiments.studies.theory.tables import tables


def write_theory(found: Study, path: Path) -> None:
    """Write the coefficient paths as ``path`` with the suffix .svg, and the page with the suffix .html.

    Raises:
        RecordError: a file cannot be written.
    """
    records.write_bytes(path.with_suffix(".svg"), figures.paths(found).encode())
    panels = []
    for one in found.paths:
        setting, first, last = SETTINGS[one.method], one.grid[0], one.grid[-1]
        zeros = sum(value == 0 for value in one.coefficients[-1])
        alt = (
            f"Coefficients of {len(found.features)} features under {one.method}, for {setting} from {first:.3g} to "
            f"{last:.3g}: the share explained goes from {one.r_squared[0]:.3f} to {one.r_squared[-1]:.3f}; at the end "
            f"{zeros} coefficients are 0."
        )
        panels.append(Picture(figures.path(found, one), alt))
    write_page(
        "studies/theory/page.html.j2",
        path.with_suffix(".html"),
        found=found,
        tables=tables(found),
        panels=panels,
        environments=[records.environment()],
    )

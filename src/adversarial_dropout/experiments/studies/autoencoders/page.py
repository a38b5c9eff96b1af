"""The pages of Figures 2 and 3, and the figures by themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.show.page import Picture, write_page
from adversarial_dropout.experiments.studies.autoencoders import figures
from adversarial_dropout.experiments.studies.autoencoders.comparison import METHODS, Comparison
from adversarial_dropout.experiments.studies.autoencoders.features import Features


def write_figure(
    name: str, comparison: Comparison, shown: Mapping[str, Features], found: Sequence[Record], path: Path
) -> None:
    """Write "figure2" or "figure3" as ``path`` with the suffix .svg, and with what it shows in numbers as .html.

    Args:
        name: Which.
        comparison: The numbers.
        shown: What is drawn: the units of one network of each method.
        found: The runs.
        path: Where, without suffix.

    Raises:
        RecordError: a file cannot be written.
    """
    drawing = figures.filters(shown, *METHODS) if name == "figure2" else figures.histograms(shown)
    records.write_bytes(path.with_suffix(".svg"), drawing.encode())
    write_page(
        "studies/autoencoders/page.html.j2",
        path.with_suffix(".html"),
        name=name,
        panels=_grids(comparison, shown) if name == "figure2" else _histograms(comparison, shown),
        comparison=comparison,
        units=len(shown[METHODS[0]].filters),
        scale=shown[METHODS[0]].record.config.scale,
        environments=records.environments(found),
    )


def _grids(comparison: Comparison, shown: Mapping[str, Features]) -> list[Picture]:
    numbers = {method: comparison.values[method][0] for method in METHODS}
    return [
        Picture(
            figures.filters(shown, method),
            f"The filters of an autoencoder as images, {figures.TITLES[method]}; dead: {own['dead filters']:.0f}; "
            f"localised: {own['localised filters']:.0f}.",
        )
        for method, own in numbers.items()
    ]


def _histograms(comparison: Comparison, shown: Mapping[str, Features]) -> list[Picture]:
    numbers = {method: comparison.values[method][0] for method in METHODS}
    return [
        Picture(
            figures.histogram(shown, method, of_means=of_means),
            f"Histogram of {'the mean activations of the units' if of_means else 'all activations'}, "
            f"{figures.TITLES[method]}, over that without dropout, on a logarithmic axis. Mean activation "
            f"{numbers[method]['mean activation']:.3f}, without dropout {numbers[METHODS[0]]['mean activation']:.3f}.",
        )
        for method, of_means in figures.PANELS
    ]

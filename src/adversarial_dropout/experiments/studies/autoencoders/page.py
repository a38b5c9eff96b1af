"""The pages of Figures 2 and 3, and the figures by themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from adversarial_dropout.experiments.records import Record, environments, write_bytes
from adversarial_dropout.experiments.show.page import Picture, write_page
from adversarial_dropout.experiments.studies.autoencoders import figures
from adversarial_dropout.experiments.studies.autoencoders.comparison import METHODS, NONE, Comparison
from adversarial_dropout.experiments.studies.autoencoders.features import Features


def write_figure(
    name: str, comparison: Comparison, shown: Mapping[str, Features], records: Sequence[Record], path: Path
) -> None:
    """Write "figure2" or "figure3" as ``path`` with the suffix .svg, and as a page with its numbers as .html.

    ``shown`` has what is drawn: the units of one network of each method.
    """
    numbers = {method: comparison.values[method][0] for method in METHODS}
    if name == "figure2":
        drawing = figures.filters(shown, *METHODS)
        panels = [
            Picture(
                figures.filters(shown, method),
                f"The filters of an autoencoder as images, {figures.TITLES[method]}; dead: "
                f"{values['dead filters']:.0f}; localised: {values['localised filters']:.0f}.",
            )
            for method, values in numbers.items()
        ]
    else:
        drawing = figures.histograms(shown, *figures.PANELS)
        panels = [
            Picture(
                figures.histograms(shown, (method, of_means)),
                f"Histogram of {'the mean activations of the units' if of_means else 'all activations'}, "
                f"{figures.TITLES[method]}, over that without dropout, on a logarithmic axis. Mean activation "
                f"{numbers[method]['mean activation']:.3f}, without dropout {numbers[NONE]['mean activation']:.3f}.",
            )
            for method, of_means in figures.PANELS
        ]
    write_bytes(path.with_suffix(".svg"), drawing.encode())
    write_page(
        "studies/autoencoders/page.html.j2",
        path.with_suffix(".html"),
        name=name,
        panels=panels,
        comparison=comparison,
        units=len(shown[NONE].filters),
        scale=shown[NONE].record.config.scale,
        environments=environments(records),
    )

"""Figures 2 and 3: the filters of autoencoders, how strongly their units are activated, and their pages."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from adversarial_dropout.experiments.records import Record, environments, write_bytes
from adversarial_dropout.experiments.show.canvas import canvas
from adversarial_dropout.experiments.show.page import Picture, write_page
from adversarial_dropout.experiments.studies.autoencoders.comparison import METHODS, NONE, Comparison
from adversarial_dropout.experiments.studies.autoencoders.features import Features, dead

TITLES = {"none": "without dropout", "dropout": "dropout", "dropout+add": "dropout and adversarial dropout"}
PANELS = tuple((method, of_means) for of_means in (False, True) for method in METHODS if method != NONE)
"""The four histograms of Figure 3, as method and whether they are of units' means or of all activations."""
_GAP = 1
_BINS = 40
_DECADES = (-3.0, 1.5)
_ROOM = 1.45  # Above the highest bar, for the legend.


def write_figure(
    name: str, comparison: Comparison, shown: Mapping[str, Features], records: Sequence[Record], path: Path
) -> None:
    """Write "figure2" or "figure3" as ``path`` with the suffix .svg, and as a page with its numbers as .html.

    ``shown`` has what is drawn: the units of one network of each method.
    """
    numbers = {method: comparison.values[method][0] for method in METHODS}
    if name == "figure2":
        drawing = draw_filters(shown, *METHODS)
        panels = [
            Picture(
                draw_filters(shown, method),
                f"The filters of an autoencoder as images, {TITLES[method]}; dead: "
                f"{values['dead filters']:.0f}; localised: {values['localised filters']:.0f}.",
            )
            for method, values in numbers.items()
        ]
    else:
        drawing = draw_histograms(shown, *PANELS)
        panels = [
            Picture(
                draw_histograms(shown, (method, of_means)),
                f"Histogram of {'the mean activations of the units' if of_means else 'all activations'}, "
                f"{TITLES[method]}, over that without dropout, on a logarithmic axis. Mean activation "
                f"{numbers[method]['mean activation']:.3f}, without dropout {numbers[NONE]['mean activation']:.3f}.",
            )
            for method, of_means in PANELS
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


def draw_filters(shown: Mapping[str, Features], *methods: str) -> str:
    """Draw Figure 2 for some methods side by side: the filters of one network each, grey for 0 and black below 0.

    All methods have the same scale of grey values.
    """
    scale = max(float(shown[method].filters.abs().quantile(0.995)) for method in METHODS)
    with canvas(4.6 * len(methods), 5.1) as (figure, done):
        grid = figure.subplots(1, len(methods), squeeze=False)[0]
        for axes, method in zip(grid, methods, strict=True):
            features = shown[method]
            axes.imshow(_tiled(features.filters, scale), cmap="gray", vmin=-scale, vmax=scale)
            count = int(dead(features.activations).sum())
            axes.set_title(f"{TITLES[method]}\n{len(features.filters)} filters, {count} dead", fontsize=12)
            axes.set_axis_off()
    return done()


def _tiled(images: Tensor, gap: float) -> np.ndarray:
    """Images (H, C, height, width) in a square, separated by lines of the value ``gap``; colours are averaged."""
    count, _, height, width = images.shape
    side = math.isqrt(count - 1) + 1
    square = torch.full((side, side, height + _GAP, width + _GAP), gap)
    square.view(-1, height + _GAP, width + _GAP)[:count, :height, :width] = images.mean(dim=1)
    return square.movedim(2, 1).reshape(side * (height + _GAP), side * (width + _GAP)).numpy()


def draw_histograms(shown: Mapping[str, Features], *panels: tuple[str, bool]) -> str:
    """Draw Figure 3, or some of its :data:`PANELS`, in a square, with the network without dropout as a line."""
    side = math.isqrt(len(panels))
    with canvas(4.6 * side, 3.4 * side) as (figure, done):
        for axes, (method, of_means) in zip(figure.subplots(side, side, squeeze=False).flat, panels, strict=True):
            _draw_histogram(axes, shown, method, of_means=of_means)
    return done()


def _draw_histogram(axes: Axes, shown: Mapping[str, Features], method: str, *, of_means: bool) -> None:
    edges = np.logspace(*_DECADES, _BINS + 1)
    highest = 0.0
    for name, settings in (
        ("dropout", {"color": "#0072B2", "alpha": 0.85}),
        ("dropout+add", {"color": "#D55E00", "alpha": 0.85}),
        (NONE, {"histtype": "step", "color": "#000000"}),
    ):
        activations = shown[name].activations.double()
        values = (activations.mean(dim=0) if of_means else activations.flatten()).numpy()
        shares = 100 * np.histogram(np.clip(values[values > 0], edges[0], edges[-1]), edges)[0] / len(values)
        highest = max(highest, float(shares.max()))
        if name in (method, NONE):
            zero = 100 * float((values <= 0).mean())
            label = f"{TITLES[name]}\nmean {values.mean():.3f}, {zero:.1f} % are 0"
            axes.hist(edges[:-1], list(edges), weights=shares, label=label, **settings)
    axes.set_ylim(0, _ROOM * highest)  # The same for both methods.
    axes.set_xscale("log")
    axes.set_xlabel("mean activation of a unit, above 0" if of_means else "activation of a unit on an image, above 0")
    axes.set_ylabel("units in %" if of_means else "activations in %")
    axes.legend(frameon=False, fontsize=9, loc="upper left")

"""The pages of finished runs: the report with its figures, and the paper's tables."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.records import WEIGHTS, Record, environments
from adversarial_dropout.experiments.results.figures import best_classifier, draw_spread
from adversarial_dropout.experiments.results.paper_tables import PaperTable
from adversarial_dropout.experiments.results.summary import Group, summarise
from adversarial_dropout.experiments.show.canvas import canvas, short, style
from adversarial_dropout.experiments.show.page import Picture, named, write_page
from adversarial_dropout.experiments.studies.inspection.masks_at_work import MasksAtWork, observe_run

_SHOWN_IMAGES = 3


def write_report(records: Sequence[Record], path: Path, methods: Sequence[str] = ()) -> None:
    """Write the report of finished runs as an HTML file, with ``methods`` first, in this order."""
    write_page(
        "results/page.html.j2",
        path,
        sections=[_section(group) for group in summarise(records, methods)],
        environments=environments(records),
    )


def write_paper_table(table: PaperTable, path: Path) -> None:
    """Write one of the paper's tables as an HTML file."""
    methods = _explained(row.method for row in table.body if row.method)
    write_page("results/paper_table.html.j2", path, table=table, methods=methods)


def _explained(methods: Iterable[str]) -> dict[str, str]:
    """What each part of these methods asks of the network."""
    parts = {part for method in methods for part in method.split(" ")[0].split("+")}
    return {name: asked for name, asked in presets.METHODS.items() if name in parts}


def _section(group: Group) -> dict[str, object]:
    """What the template shows of a group."""
    means = [row.error.mean for row in group.rows]
    best = [i for i, mean in enumerate(means) if mean == min(means)]
    listed = ", ".join(f"{row.method} {row.error.mean:.2f}" for row in group.rows)
    lowest = group.rows[best[0]].method
    return {
        "group": group,
        "best": best if group.scale != "tiny" else [],
        "methods": _explained(row.method for row in group.rows),
        "errors": Picture(draw_errors(group), f"Errors in percent by method: {listed}. Lowest: {lowest}."),
        "curves": Picture(
            draw_learning_curves(group),
            f"Learning curves: error against epoch, mean over seeds; at the end {listed}.",
        ),
        "best_run": best_classifier(group),
        "at_work": _at_work(group),
    }


def _at_work(group: Group) -> dict[str, object] | str | None:
    """The search on the best run with virtual adversarial dropout whose weights are saved, or why there is none."""
    for row in sorted(group.rows, key=lambda row: row.error.mean):
        for record in row.records:
            vadd = "vadd" in record.config.terms
            if vadd and record.config.model.p > 0 and (record.folder / WEIGHTS).exists():
                try:
                    return _observe(record)
                except AdversarialDropoutError as error:  # The data may have moved; the report does without them.
                    return f"The model of {record.folder} could not be looked at: {error}"
    return None


def _observe(record: Record) -> dict[str, object]:
    work, data, rows = observe_run(record)
    moved = []
    shown = work.divergence.argsort(descending=True)[:_SHOWN_IMAGES].tolist()
    for image in shown:
        label = data.labels[rows[image]]
        moved.append(
            f"image of {data.classes[int(label)]}: probability of its class {work.before[image, label]:.2f} under the "
            f"base mask, {work.after_random[:, image, label].mean():.2f} after random flips, "
            f"{work.after[image, label]:.2f} after the flips of the search"
        )
    drawing = draw_masks_at_work(work, shown, data, rows)
    picture = Picture(drawing, f"Adversarial dropout at work; {'; '.join(moved)}.")
    return {"run": named(record), "work": work, "picture": picture}


def draw_errors(group: Group) -> str:
    """Draw the errors of each method: a dot per seed, mean and standard deviation as a bar."""
    rows = [(row.method, row.errors) for row in group.rows]
    return draw_spread(rows, f"{group.evaluated_on} error in % (grey: single seeds; bar: mean ± std)")


def draw_learning_curves(group: Group) -> str:
    """Draw the error after each epoch, the mean over seeds."""
    with canvas(8, 4.2) as (figure, done):
        axes = figure.subplots()
        lowest = math.inf
        for i, row in enumerate(group.rows):
            runs = [record.metrics for record in row.records]
            epochs = range(min(len(run) for run in runs))
            means = [statistics.fmean(run[epoch]["error"] for run in runs) for epoch in epochs]
            lowest = min(lowest, *means)
            colour, marker = style(i)
            axes.plot(
                [epoch + 1 for epoch in epochs],
                means,
                marker + "-",
                color=colour,
                label=short(row.method),
                markersize=4,
                markevery=max(1, len(means) // 10),
                linewidth=1.4,
            )
        if lowest > 0:
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in (0.5, 1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100) if low <= tick <= high])
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{group.evaluated_on} error in %, mean over seeds")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return done()


def draw_masks_at_work(work: MasksAtWork, shown: Sequence[int], data: ImageData, rows: Tensor) -> str:
    """Draw some images of ``work``, their units with the flips among them, and their probabilities before and after.

    ``rows`` has the row in ``data`` of each image of ``work``.
    """
    with canvas(10, 2.6 * len(shown)) as (figure, done):
        grid = figure.subplots(len(shown), 3, squeeze=False, width_ratios=(1, 1.25, 3))
        for image, (picture, units, bars) in zip(shown, grid, strict=True):
            row = rows[image]
            picture.imshow(data.images[row].movedim(0, -1).cpu().numpy(), cmap="gray_r")
            picture.set_title(f"an image of {short(data.classes[int(data.labels[row])])}", fontsize=9)
            picture.set_axis_off()
            _draw_units(units, work.base[image], work.found[image])
            _draw_probabilities(bars, work, image, data.classes)
        grid[0, 2].legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return done()


def _draw_units(axes: Axes, base: Tensor, found: Tensor) -> None:
    state = torch.where(base == found, base.int(), torch.where(base, 2, 3))
    side = math.isqrt(len(state) - 1) + 1
    square = torch.full((side * side,), -1)
    square[: len(state)] = state
    colours = ListedColormap(["#ffffff", "#f0f0f0", "#9ecae1", "#D55E00", "#0072B2"])
    axes.imshow(square.view(side, side).numpy(), cmap=colours, vmin=-1.5, vmax=3.5)
    axes.set_title(f"{len(state)} units: {int((base != found).sum())} flipped", fontsize=9)
    axes.set_xlabel("grey: dropped, pale blue: kept\nby the search: orange dropped,\ndark blue revived", fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_probabilities(axes: Axes, work: MasksAtWork, image: int, classes: tuple[str, ...]) -> None:
    positions = np.arange(len(classes))
    random = work.after_random[:, image].numpy()
    mean, low, high = random.mean(axis=0), random.min(axis=0), random.max(axis=0)
    reach = [(mean - low).clip(min=0), (high - mean).clip(min=0)]
    axes.bar(positions - 0.27, work.before[image].numpy(), 0.25, color="#999999", label="under the random base mask")
    axes.bar(positions, mean, 0.25, color="#56B4E9", label="after random flips, as many (bar: range)")
    axes.errorbar(positions, mean, yerr=reach, fmt="none", ecolor="#0072B2", capsize=2, lw=1)
    axes.bar(positions + 0.27, work.after[image].numpy(), 0.25, color="#D55E00", label="after the flips of the search")
    axes.set_xticks(positions, [short(name) for name in classes])
    axes.set_ylim(0, 1)
    axes.set_ylabel("probability")

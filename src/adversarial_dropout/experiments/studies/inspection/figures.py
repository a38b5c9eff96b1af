"""Figures of one network under the search: its units, and what happens to its predictions."""

import io

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from adversarial_dropout.experiments.show.canvas import canvas, short
from adversarial_dropout.experiments.studies.inspection.inspection import Inspection

_SHOWN_UNITS = 20
_SHOWN_CLASSES = 30
_NAMED = 3
_LEAST_PIXELS = 84
_SEARCH, _RANDOM, _BEFORE = "#D55E00", "#56B4E9", "#000000"


def units_by_class(found: Inspection) -> str:
    """Draw how often the units that are flipped most are flipped for the images of each class."""
    units = found.units[:_SHOWN_UNITS]
    present = [label for label in range(len(found.trained.classes)) if bool((found.labels == label).any())]
    left_out = len(present) - _SHOWN_CLASSES
    present = present[:_SHOWN_CLASSES]
    shares = 100 * found.flipped_by_class[present][:, units]
    with canvas(5.2, max(2.8, 1.6 + 0.24 * len(present))) as (figure, done):
        axes = figure.subplots()
        image = axes.imshow(shares.numpy(), cmap="viridis", vmin=0, aspect="auto")
        axes.set_xticks(range(len(units)), [str(unit) for unit in units.tolist()], rotation=90, fontsize=8)
        axes.set_yticks(range(len(present)), [short(found.trained.classes[label]) for label in present], fontsize=8)
        axes.set_xlabel(f"unit, the {len(units)} flipped most often of {found.flipped.shape[1]}")
        axes.set_ylabel("class of the image" + (f" ({left_out} more are in the table)" if left_out > 0 else ""))
        figure.colorbar(image, ax=axes, label="flipped in % of the images")
    return done()


def importance(found: Inspection) -> str:
    """Draw each unit: its importance against how often it is flipped."""
    often = 100 * found.often
    with canvas(5.2, 3.9) as (figure, done):
        axes = figure.subplots()
        axes.scatter(found.importance.numpy(), often.numpy(), s=14, alpha=0.6, color=_SEARCH, linewidths=0)
        for unit in {*found.units[:_NAMED].tolist(), *found.importance.topk(min(_NAMED, len(often))).indices.tolist()}:
            place = (float(found.importance[unit]), float(often[unit]))
            left = place[0] > 0.9 * float(found.importance.max())
            axes.annotate(
                str(unit),
                place,
                fontsize=8,
                xytext=(-3 if left else 3, 3),
                textcoords="offset points",
                ha="right" if left else "left",
            )
        axes.set_xlabel("importance: mean |∂D/∂ε| at ε = 1")
        axes.set_ylabel("flipped in % of the images")
        axes.set_title(f"{len(often)} units; by number: flipped most often, or most important", fontsize=10)
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
        axes.grid(alpha=0.3)
    return done()


def scores(found: Inspection) -> str:
    """Draw the images in order of what the search is after: before, after random flips, after its own."""
    images = len(found.before)
    shares = np.linspace(0, 100, images) if images > 1 else np.array([50.0])
    random = found.after_random.sort(dim=1).values
    with canvas(5.2, 3.9) as (figure, done):
        axes = figure.subplots()
        for values, label, colour, line, height in (
            # On top, and dashed: random flips lie beneath it.
            (found.before.sort().values, "under the base mask", _BEFORE, "--", 3),
            (random.mean(dim=0), f"after random flips, mean of {len(random)} draws", _RANDOM, "-", 2),
            (found.after.sort().values, "after the flips of the search", _SEARCH, "-", 2),
        ):
            form = "." if images == 1 else line
            axes.plot(shares, values.numpy(), form, label=label, color=colour, linewidth=1.8, zorder=height)
        axes.fill_between(shares, random.amin(dim=0).numpy(), random.amax(dim=0).numpy(), color=_RANDOM, alpha=0.3)
        axes.set_xlabel("images in %, each curve in its own order")
        axes.set_ylabel(found.scored)
        if not found.reconstructs:
            axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return done()


def as_png(image: Tensor) -> bytes:
    """An image with values in [0, 1], shape (C, H, W) with 1 or 3 channels, as a PNG file large enough to be seen."""
    pixels = np.ascontiguousarray((255 * image).round().to(torch.uint8).movedim(0, -1).numpy())
    picture = PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    factor = max(1, -(-_LEAST_PIXELS // min(picture.size)))
    file = io.BytesIO()
    picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()

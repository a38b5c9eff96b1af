"""The page of one network under the search, and its figures."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from adversarial_dropout.experiments.records import environments
from adversarial_dropout.experiments.show.canvas import canvas, short
from adversarial_dropout.experiments.show.page import Picture, named, write_page
from adversarial_dropout.experiments.studies.inspection.inspection import Inspection

_SHOWN_IMAGES = 12
_SHOWN_UNITS = 20
_SHOWN_CLASSES = 30
_NAMED = 3
_LEAST_PIXELS = 84
_SEARCH, _RANDOM, _BEFORE = "#D55E00", "#56B4E9", "#000000"


def write_inspection(inspection: Inspection, path: Path) -> None:
    """Write an inspection as an HTML file."""
    record = inspection.trained.record
    write_page(
        "studies/inspection/page.html.j2",
        path,
        inspection=inspection,
        name=named(record),
        error=record.error,
        panels=_panels(inspection),
        fragile=[_fragile(inspection, *ranked) for ranked in enumerate(inspection.fragile[:_SHOWN_IMAGES].tolist(), 1)],
        environments=environments([record]),
    )


def _panels(inspection: Inspection) -> list[Picture]:
    most = ", ".join(f"unit {unit}: {100 * inspection.often[unit]:.0f} %" for unit in inspection.units[:5].tolist())
    before, random, after = (
        f"{values.mean():.3g}" for values in (inspection.before, inspection.after_random, inspection.after)
    )
    heaviest = ", ".join(str(unit) for unit in inspection.importance.argsort(descending=True)[:5].tolist())
    return [
        Picture(draw_units_by_class(inspection), f"Units by how often they are flipped, for each class. {most}."),
        Picture(
            draw_scores(inspection),
            f"Curves over all images of the {inspection.scored}: on average {before} under the base mask, {random} "
            f"after random flips, {after} after the flips of the search.",
        ),
        Picture(
            draw_importance(inspection),
            f"Every unit: how often it is flipped against its importance. Most important: {heaviest}.",
        ),
    ]


def _fragile(inspection: Inspection, rank: int, image: int) -> dict[str, object]:
    """Pictures of an image that the search moves far, and the effect in words."""
    trained, work = inspection.trained, inspection.work
    name = trained.classes[int(inspection.labels[image])]
    shown = {f"fragile image {rank}, of {name}": inspection.stored[image].float() / trained.pixels.brightest}
    before, after = float(inspection.before[image]), float(inspection.after[image])
    if inspection.reconstructs:
        text = f"{name}: error {before:.4f} → {after:.4f}"
        for when, output in (("before", work.before), ("after", work.after)):
            shown[f"reconstruction of image {rank} {when} the flips"] = output[image].view(trained.shape)
    else:
        was, became = (trained.classes[int(output[image].argmax())] for output in (work.before, work.after))
        text = f"{name}: {was} with {before:.2f} → {after:.2f}" + ("" if became == was else f", now {became}")
    return {"pictures": [Picture(as_png(pixels), alt) for alt, pixels in shown.items()], "text": text}


def draw_units_by_class(inspection: Inspection) -> str:
    """Draw how often the most frequently flipped units are flipped, by class of the image."""
    units, classes = inspection.units[:_SHOWN_UNITS], inspection.trained.classes
    present = sorted(set(inspection.labels.tolist()))
    left_out = len(present) - _SHOWN_CLASSES
    present = present[:_SHOWN_CLASSES]
    shares = 100 * inspection.flipped_by_class[present][:, units]
    with canvas(5.2, max(2.8, 1.6 + 0.24 * len(present))) as (figure, done):
        axes = figure.subplots()
        image = axes.imshow(shares.numpy(), cmap="viridis", vmin=0, aspect="auto")
        axes.set_xticks(range(len(units)), [str(unit) for unit in units.tolist()], rotation=90, fontsize=8)
        axes.set_yticks(range(len(present)), [short(classes[label]) for label in present], fontsize=8)
        axes.set_xlabel(f"unit, the {len(units)} flipped most often of {inspection.flipped.shape[1]}")
        axes.set_ylabel("class of the image" + (f" ({left_out} more are in the table)" if left_out > 0 else ""))
        figure.colorbar(image, ax=axes, label="flipped in % of the images")
    return done()


def draw_importance(inspection: Inspection) -> str:
    """Draw how often each unit is flipped against its importance."""
    often, weights = 100 * inspection.often, inspection.importance
    with canvas(5.2, 3.9) as (figure, done):
        axes = figure.subplots()
        axes.scatter(weights.numpy(), often.numpy(), s=14, alpha=0.6, color=_SEARCH, linewidths=0)
        for unit in {*inspection.units[:_NAMED].tolist(), *weights.topk(min(_NAMED, len(often))).indices.tolist()}:
            x, y = float(weights[unit]), float(often[unit])
            left = x > 0.9 * float(weights.max())
            axes.annotate(
                str(unit),
                (x, y),
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


def draw_scores(inspection: Inspection) -> str:
    """Draw the sorted scores of the images: before, after random flips, and after the flips of the search."""
    images = len(inspection.before)
    shares = np.linspace(0, 100, images) if images > 1 else np.array([50.0])
    random = inspection.after_random.sort(dim=1).values
    with canvas(5.2, 3.9) as (figure, done):
        axes = figure.subplots()
        for values, label, colour, line, height in (
            # Dashed and on top of the curve of the random flips.
            (inspection.before.sort().values, "under the base mask", _BEFORE, "--", 3),
            (random.mean(dim=0), f"after random flips, mean of {len(random)} draws", _RANDOM, "-", 2),
            (inspection.after.sort().values, "after the flips of the search", _SEARCH, "-", 2),
        ):
            form = "." if images == 1 else line
            axes.plot(shares, values.numpy(), form, label=label, color=colour, linewidth=1.8, zorder=height)
        axes.fill_between(shares, random.amin(dim=0).numpy(), random.amax(dim=0).numpy(), color=_RANDOM, alpha=0.3)
        axes.set_xlabel("images in %, each curve in its own order")
        axes.set_ylabel(inspection.scored)
        if not inspection.reconstructs:
            axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return done()


def as_png(image: Tensor) -> bytes:
    """An image with values in [0, 1], shape (C, H, W) with 1 or 3 channels, as an enlarged PNG file."""
    pixels = (255 * image).round().to(torch.uint8).movedim(0, -1).squeeze(-1)
    picture = PIL.Image.fromarray(pixels.numpy())
    factor = max(1, -(-_LEAST_PIXELS // min(picture.size)))
    file = io.BytesIO()
    picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()

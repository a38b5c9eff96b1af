"""The page of one network under the search."""

from pathlib import Path

from adversarial_dropout.experiments.records import environments
from adversarial_dropout.experiments.show.page import Picture, named, write_page
from adversarial_dropout.experiments.studies.inspection import figures
from adversarial_dropout.experiments.studies.inspection.inspection import Inspection

_SHOWN_IMAGES = 12


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
        Picture(figures.units_by_class(inspection), f"Units by how often they are flipped, for each class. {most}."),
        Picture(
            figures.scores(inspection),
            f"Curves over all images of the {inspection.scored}: on average {before} under the base mask, {random} "
            f"after random flips, {after} after the flips of the search.",
        ),
        Picture(
            figures.importance(inspection),
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
    return {"pictures": [Picture(figures.as_png(pixels), alt) for alt, pixels in shown.items()], "text": text}

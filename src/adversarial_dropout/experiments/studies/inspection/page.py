"""The page of one network under the search."""

from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.show.page import Picture, named, write_page
from adversarial_dropout.experiments.studies.inspection import figures
from adversarial_dropout.experiments.studies.inspection.inspection import Inspection

_SHOWN_IMAGES = 12


@dataclass(frozen=True)
class _Fragile:
    """An image that the search moves far: pictures of it, and what happens in words."""

    pictures: list[Picture]
    text: str


def write_inspection(found: Inspection, path: Path) -> None:
    """Write the page of ``found`` to ``path``.

    Raises:
        RecordError: the file cannot be written.
    """
    record = found.trained.record
    write_page(
        "studies/inspection/page.html.j2",
        path,
        found=found,
        name=named(record),
        error=record.error,
        panels=_panels(found),
        fragile=[_fragile(found, *one) for one in enumerate(found.fragile[:_SHOWN_IMAGES].tolist(), 1)],
        environments=records.environments([record]),
    )


def _panels(found: Inspection) -> list[tuple[Picture, str]]:
    most = ", ".join(f"unit {unit}: {100 * found.often[unit]:.0f} %" for unit in found.units[:5].tolist())
    means = [float(values.mean()) for values in (found.before, found.after_random, found.after)]
    heaviest = ", ".join(str(unit) for unit in found.importance.argsort(descending=True)[:5].tolist())
    return [
        (
            Picture(figures.units_by_class(found), f"Units by how often they are flipped, for each class. {most}."),
            "Which units the search flips, for which classes.",
        ),
        (
            Picture(
                figures.scores(found),
                f"Curves over all images of the {found.scored}: on average {means[0]:.3g} under the base mask, "
                f"{means[1]:.3g} after random flips, {means[2]:.3g} after the flips of the search.",
            ),
            "What the flips do, against as many random ones. Pale: the range of the random draws.",
        ),
        (
            Picture(
                figures.importance(found),
                f"Every unit: how often it is flipped against its importance. Most important: {heaviest}.",
            ),
            "Importance: |∂D/∂ε| with all units kept, mean over the images. D is the reconstruction error, or the "
            "cross-entropy with the class that the network itself finds most probable; ε scales the unit.",
        ),
    ]


def _fragile(found: Inspection, place: int, image: int) -> _Fragile:
    name = found.trained.classes[int(found.labels[image])]
    shown = found.stored[image].float() / found.trained.pixels.brightest
    pictures = [Picture(figures.as_png(shown), f"fragile image {place}, of {name}")]
    before, after = float(found.before[image]), float(found.after[image])
    if found.reconstructs:
        pictures += [
            Picture(
                figures.as_png(output[image].view(found.trained.shape)),
                f"reconstruction of image {place} {when} the flips",
            )
            for when, output in (("before", found.work.before), ("after", found.work.after))
        ]
        return _Fragile(pictures, f"{name}: error {before:.4f} → {after:.4f}")
    was, became = (
        found.trained.classes[int(output[image].argmax())] for output in (found.work.before, found.work.after)
    )
    text = f"{name}: {was} with {before:.2f} → {after:.2f}" + ("" if became == was else f", now {became}")
    return _Fragile(pictures, text)

"""``evaluate``, ``predict``, ``export`` and ``inspect``: what a trained run can be used for."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import DataFolder
from adversarial_dropout.experiments.config import check_seed
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class _OfRun:
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Folder of the run."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(_OfRun):
    """Print the error of a trained run, overall and by class."""

    folder: DataFolder = None
    """Other labelled images to evaluate on; if not given, the run's evaluation part."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    out: Path | None = None
    """JSON file for the same figures."""

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained import evaluation

        location = None if self.folder is None else DataLocation(self.folder, self.skip_bad_images)
        errors = evaluation.evaluate(Trained.of(self.run_folder), location)
        console.print(f"error {errors.error:.2f} % of {errors.examples} images")
        console.print(errors.by_class)
        if self.out is not None:
            records.write_json(self.out, dataclasses.asdict(errors))


@dataclass(frozen=True, kw_only=True)
class Predict(_OfRun):
    """Print the class of each image and its probability."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    format: Literal["csv", "json"] = "csv"
    """"json" has the probabilities of all classes."""
    out: Path | None = None
    """File to write to instead of the terminal."""
    resize: bool = False
    """Resize the images to the size that the run was trained on."""

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained import evaluation

        predictions, bad = evaluation.predict(Trained.of(self.run_folder), self.images, resize=self.resize)
        text = evaluation.table(predictions).csv() if self.format == "csv" else evaluation.as_json(predictions)
        if self.out is None:
            print(text, end="")
        else:
            records.write_bytes(self.out, text.encode())
        if bad:
            raise InvalidValueError(
                f"{len(bad)} of {len(predictions) + len(bad)} images are left out:\n" + "\n".join(bad)
            )


@dataclass(frozen=True, kw_only=True)
class Export(_OfRun):
    """Write a trained network for use elsewhere: model.safetensors and config.json."""

    out: Path | None = None
    """Folder to write to; RUN/export if not given."""
    onnx: bool = False
    """Write model.onnx too, which takes stored pixels and gives probabilities (needs the extra "onnx")."""

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained.export import export

        for path in export(Trained.of(self.run_folder), self.out or self.run_folder / "export", onnx=self.onnx):
            console.print(f"wrote {path}", soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class Inspect(_OfRun):
    """Write a page on what the search finds in a trained network: units, classes, predictions, fragile images."""

    images: int | None = None
    """Images of its evaluation part to look at, evenly spaced; 1,000, or all there are, if not given."""
    flips: int | None = None
    """Units that the search may flip per image; if not given, as many as in training, or 5 % where none was flipped."""
    seed: int = 0
    """Seed of base masks and random flips."""
    folder: DataFolder = None
    """Folder of the run's data, if they have moved since."""
    out: Path | None = None
    """The HTML file, next to which FILE-units.csv goes; inspection.html in RUN if not given."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.out is not None and self.out.suffix != ".html":
            raise InvalidValueError(f"expected --out to be a file with the suffix .html, got {self.out}")

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.studies.inspection import inspection
        from adversarial_dropout.experiments.studies.inspection.page import write_inspection

        inspected = inspection.inspect(
            Trained.of(self.run_folder),
            images=self.images,
            flips=self.flips,
            location=None if self.folder is None else DataLocation(self.folder),
            seed=self.seed,
        )
        console.print(inspected.by_class.without_last)
        page = self.out or self.run_folder / "inspection.html"
        write_inspection(inspected, page)
        units = page.with_name(f"{page.stem}-units.csv")
        records.write_bytes(units, inspected.by_unit.csv().encode())
        console.print(f"page: {page}, units: {units}", soft_wrap=True, markup=False)

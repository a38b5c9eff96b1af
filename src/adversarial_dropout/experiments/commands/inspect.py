"""``inspect``: what the search finds in a trained network."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import DataFolderOrList, OfRun, TestFolderOrList
from adversarial_dropout.experiments.config import check_seed
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Inspect(OfRun):
    """Write a page on what the search finds in a trained network: units, classes, predictions, fragile images."""

    images: int | None = None
    """Images of its evaluation part to look at, evenly spaced; 1,000, or all there are, if not given."""
    flips: int | None = None
    """Units that the search may flip per image; if not given, as many as in training, or 5 % where none was flipped."""
    seed: int = 0
    """Seed of base masks and random flips."""
    folder: DataFolderOrList = None
    """Folder or list of the run's data, if they have moved since."""
    test: TestFolderOrList = None
    """With --data, the test images of the run, if it had --test and they have moved too."""
    out: Path | None = None
    """The HTML file, next to which FILE-units.csv goes; inspection.html in RUN if not given."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.out is not None and self.out.suffix != ".html":
            raise InvalidValueError(f"expected --out to be a file with the suffix .html, got {self.out}")
        if self.test is not None and self.folder is None:
            raise InvalidValueError("expected --test only with --data, which says where the run's other images are")

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.studies.inspection import inspection
        from adversarial_dropout.experiments.studies.inspection.page import write_inspection

        noted = DataLocation.of_run(self.run_folder)
        inspected = inspection.inspect(
            Trained.of(self.run_folder),
            images=self.images,
            flips=self.flips,
            location=None if self.folder is None else DataLocation(self.folder, test=self.test or noted.test),
            seed=self.seed,
        )
        console.print(inspected.by_class.without_last)
        page = self.out or self.run_folder / "inspection.html"
        write_inspection(inspected, page)
        units = page.with_name(f"{page.stem}-units.csv")
        records.write_bytes(units, inspected.by_unit.csv().encode())
        console.print(f"page: {page}, units: {units}", soft_wrap=True, markup=False)

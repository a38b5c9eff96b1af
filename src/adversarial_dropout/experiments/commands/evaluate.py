"""``evaluate``: the error of a trained run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement

from adversarial_dropout.errors import InvalidValueError, check_at_least
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import DataFolderOrList, OfRun, TestFolderOrList
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.trained.trained import Trained

if TYPE_CHECKING:
    from adversarial_dropout.experiments.trained.classification import Classification

_MOST_CLASSES = 20
_CONFUSIONS = 10


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfRun):
    """Print the error of a trained run, overall and by class; of a classifier, also confusions and calibration."""

    folder: DataFolderOrList = None
    """Other labelled images to evaluate on; if not given, the run's evaluation part."""
    test: TestFolderOrList = None
    """With --data, the test images of the run, if it had --test and both have moved."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    mistakes: int = 10
    """How many of the most confident mistakes to list."""
    out: Path | None = None
    """JSON file for the same figures, with the whole confusion matrix."""

    def __post_init__(self) -> None:
        check_at_least("mistakes", self.mistakes, 0)
        if self.test is not None and self.folder is None:
            raise InvalidValueError("expected --test only with --data; to evaluate on other images give --data alone")

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained import evaluation

        figures = evaluation.evaluate(Trained.of(self.run_folder), self._location())
        console.print(f"error {figures.error:.2f} % of {figures.examples} images")
        console.print(figures.by_class)
        if figures.classification is not None:
            self._show(figures.classification, console)
        if self.out is not None:
            records.write_json(self.out, figures.to_dict(self.mistakes))

    def _location(self) -> DataLocation | None:
        """Where the images are; the run's own data are found with their test part."""
        if self.folder is None:
            return None
        noted = DataLocation.of_run(self.run_folder)
        own = noted.folder is not None and self.folder.expanduser().resolve() == noted.folder
        return DataLocation(self.folder, self.skip_bad_images, self.test or (noted.test if own else None))

    def _show(self, compared: "Classification", console: Console) -> None:
        if len(compared.classes) <= _MOST_CLASSES and _fits(compared.matrix, console):
            console.print(compared.matrix)
        elif compared.confusions:
            console.print(compared.frequent(_CONFUSIONS))
        console.print(
            f"expected calibration error {compared.calibration_error:.2f} %: mean confidence "
            f"{compared.confidence:.2f} %, accuracy {compared.accuracy:.2f} %"
        )
        if self.mistakes and compared.mistakes:
            console.print(compared.worst(self.mistakes))


def _fits(table: Table, console: Console) -> bool:
    """Whether the terminal is wide enough for ``table`` with unbroken words."""
    return Measurement.get(console, console.options.update(max_width=10**6), table).minimum <= console.width

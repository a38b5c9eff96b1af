"""``evaluate``: the error of a trained run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import DataFolder, OfRun
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfRun):
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

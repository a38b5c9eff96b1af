"""``evaluate``: the error of a trained run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import DataFolder, RunFolder
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Print the error of a trained run, in all and by class."""

    run_folder: RunFolder
    """Folder of the run."""
    folder: DataFolder = None
    """Other labelled images to evaluate on; if not given, the run's own evaluation part."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    out: Path | None = None
    """JSON file for the same figures."""

    def run(self, console: Console) -> None:
        """Print the error of a run, in all and by class."""
        from adversarial_dropout.experiments.trained import evaluation

        trained = Trained.of(self.run_folder)
        location = None if self.folder is None else DataLocation(self.folder, self.skip_bad_images)
        found = evaluation.evaluate(trained, location)
        console.print(f"error {found.error:.2f} % of {found.examples} images")
        console.print(found.by_class)
        if self.out is not None:
            records.write_json(self.out, dataclasses.asdict(found))

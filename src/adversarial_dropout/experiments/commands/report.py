"""``report``: the tables and the page of finished runs."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import REPORT
from adversarial_dropout.experiments.commands.terminal import show


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the tables of finished runs and write the HTML report."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder below which the runs are."""
    out: Path | None = None
    """The HTML file; report.html in FOLDER if not given."""

    def run(self, console: Console) -> None:
        show(records.find_records(self.folder), self.out or self.folder / REPORT, console)

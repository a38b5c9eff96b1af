"""``report``: the tables and the page of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from adversarial_dropout.experiments import presets, records

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the tables of finished runs and write the HTML report."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder below which the runs are."""
    out: Path | None = None
    """The HTML file; report.html in FOLDER if not given."""

    def run(self, console: Console) -> None:
        show(records.find_records(self.folder), self.out or self.folder / REPORT, console)


def show(runs: Sequence[records.Record], page: Path, console: Console) -> None:
    """Print the tables of ``runs`` and write their report to ``page``."""
    from adversarial_dropout.experiments.results import summary
    from adversarial_dropout.experiments.results.page import write_report

    order = [method for preset in presets.PRESETS.values() for method in preset.methods]
    for group in summary.summarise(runs, order):
        console.print(group.table)
    write_report(runs, page, order)
    console.print(f"report: {page}", soft_wrap=True, markup=False)

"""``demo`` and ``report``: the tables and the page of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from adversarial_dropout.errors import check_at_least
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.commands.options import Grid
from adversarial_dropout.experiments.commands.terminal import run_grid_shown
from adversarial_dropout.experiments.config import Scale
from adversarial_dropout.experiments.data.sources import DataLocation

_REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Demo(Grid):
    """Train every method on digits with 100 labels, then print the table and write the report."""

    seeds: int = 5
    """Runs of each method, with seeds 0, 1, 2, ..."""
    scale: Scale = "quick"
    """"quick" for the real thing, "tiny" for two steps that only show that it runs."""
    out: Path = Path("runs/demo")
    """Folder of the runs and the report. What is finished there is not repeated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("seeds", self.seeds, 1)

    def run(self, console: Console) -> None:
        methods = presets.find("digits-100").methods
        seeds = range(self.seeds)
        configs = [presets.get("digits-100", method, self.scale, seed) for seed in seeds for method in methods]
        _show(run_grid_shown(configs, self, DataLocation(), console), self.out / _REPORT, console)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the tables of finished runs and write the HTML report."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder below which the runs are."""
    out: Path | None = None
    """The HTML file; report.html in FOLDER if not given."""

    def run(self, console: Console) -> None:
        _show(records.find_records(self.folder), self.out or self.folder / _REPORT, console)


def _show(runs: Sequence[records.Record], page: Path, console: Console) -> None:
    from adversarial_dropout.experiments.results import summary
    from adversarial_dropout.experiments.results.page import write_report

    order = [method for preset in presets.PRESETS.values() for method in preset.methods]
    for group in summary.summarise(runs, order):
        console.print(group.table)
    write_report(runs, page, order)
    console.print(f"report: {page}", soft_wrap=True, markup=False)

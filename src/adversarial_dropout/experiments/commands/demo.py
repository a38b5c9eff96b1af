"""``demo``: every method on the digits."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.errors import check_at_least
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.commands.options import Grid
from adversarial_dropout.experiments.commands.report import REPORT, show
from adversarial_dropout.experiments.commands.terminal import run_grid_shown
from adversarial_dropout.experiments.config import Scale
from adversarial_dropout.experiments.data.sources import DataLocation


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
        show(run_grid_shown(configs, self, DataLocation(), console), self.out / REPORT, console)

"""``theory``: the equations of the paper, in numbers."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import check_seed


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Check the paper's equations on random problems, count the penalties of its Discussion, and show on diabetes data
    what adversarial dropout does to a linear regression, beside adversarial training.
    """

    problems: int = 200
    """Random problems for each equation."""
    seed: int = 0
    """Their seed."""
    deltas: tuple[float, ...] = ()
    """Sizes δ ≥ 0 of adversarial training's perturbation; from 0 to where all coefficients are 0 if not given."""
    flips: tuple[int, ...] = ()
    """Features k that adversarial dropout may drop, 0 to 10; all of these if not given."""
    out: Path = Path("runs")
    """Folder for theory.html, theory.json and theory.svg."""

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def run(self, console: Console) -> None:
        """Print how far the sides of the paper's equations are apart, and write the page, the figure and the record."""
        from adversarial_dropout.experiments.studies.theory import study as theory_study
        from adversarial_dropout.experiments.studies.theory import tables as theory_tables
        from adversarial_dropout.experiments.studies.theory.page import write_theory

        found = theory_study.study(problems=self.problems, seed=self.seed, deltas=self.deltas, flips=self.flips)
        for table in theory_tables.tables(found):
            console.print(table)
        beside = self.out / "theory"
        records.write_measured(beside.with_suffix(".json"), dataclasses.asdict(found))
        write_theory(found, beside)
        console.print(f"page: {beside}.html, .svg, .json", soft_wrap=True, markup=False)

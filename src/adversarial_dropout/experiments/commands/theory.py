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
    what adversarial dropout does to a linear regression, compared with adversarial training.
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
        from adversarial_dropout.experiments.studies.theory.page import write_theory
        from adversarial_dropout.experiments.studies.theory.study import study
        from adversarial_dropout.experiments.studies.theory.tables import tables

        results = study(problems=self.problems, seed=self.seed, deltas=self.deltas, flips=self.flips)
        for table in tables(results):
            console.print(table)
        beside = self.out / "theory"
        records.write_measured(beside.with_suffix(".json"), dataclasses.asdict(results))
        write_theory(results, beside)
        console.print(f"page: {beside}.html, .svg, .json", soft_wrap=True, markup=False)

"""``theory``: the paper's equations in numbers."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import check_seed


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Check the paper's equations on random problems, measure the penalties of its Discussion, and compare adversarial
    dropout with adversarial training in linear regression on the diabetes data.
    """

    problems: int = 200
    """Number of random problems for each equation."""
    seed: int = 0
    """Seed of the random problems."""
    deltas: tuple[float, ...] = ()
    """Sizes δ ≥ 0 of adversarial training's perturbation; default: from 0 to where all coefficients are 0."""
    flips: tuple[int, ...] = ()
    """Numbers k of features that adversarial dropout may drop, 0 to 10; default: all of these."""
    out: Path = Path("runs")
    """Folder for theory.html, theory.json and theory.svg."""

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def run(self, console: Console) -> None:
        """Print the tables and write the page, the figure and the record."""
        from adversarial_dropout.experiments.studies.theory.page import write_theory
        from adversarial_dropout.experiments.studies.theory.study import measure
        from adversarial_dropout.experiments.studies.theory.tables import tables

        study = measure(problems=self.problems, seed=self.seed, deltas=self.deltas, flips=self.flips)
        for table in tables(study):
            console.print(table)
        path = self.out / "theory"
        records.write_measured(path.with_suffix(".json"), study)
        write_theory(study, path)
        console.print(f"page: {path}.html, .svg, .json", soft_wrap=True, markup=False)

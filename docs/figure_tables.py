"""The tables of docs/figures.md, from results/."""

import csv
import math
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.autoencoders.comparison import (
    ADVERSARIAL,
    CLAIMS,
    DROPOUT,
    METHODS,
    NONE,
    Comparison,
    mean,
)
from adversarial_dropout.experiments.studies.autoencoders.features import MEASURES

RESULTS = Path(__file__).resolve().parents[1] / "results"
SETTING = "optimiser, learning rate, weights"
OPTIMIZERS = {"adam": "Adam", "sgd": "gradient descent"}
INITIALIZATIONS = {"he": "He", "normal": "N(0, 0.01²)"}
SHOWN = {
    "reconstruction error in %": "error in %",
    "dead filters": "dead filters",
    "always 0": "always 0",
    "localised filters": "localised",
    "spread of the rest": "spread of the rest",
    "neighbourhood of spots": "neighbourhood",
    "highly activated in %": "highly activated in %",
    "mean activation": "mean activation",
}
SHORT = (
    "1: dead filters prevented",
    "2: localised preserved",
    "2: others standardised",
    "2: neighbourhood used more",
    "3: fewer highly activated",
    "4: lower mean activation",
    "similar error",
    "sparser",
)
"""Of :data:`CLAIMS`, in their order."""


def main_setting() -> Comparison:
    """The autoencoders of the preset."""
    return comparison_in(RESULTS / "figures" / "figure3-paper.csv")


def comparison_in(path: Path) -> Comparison:
    """The comparison whose :attr:`~Comparison.by_seed` is in a CSV file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = {
        method: tuple({name: float(row[name]) for name in MEASURES} for row in rows if row["method"] == method)
        for method in METHODS
    }
    seeds = tuple(int(row["seed"]) for row in rows if row["method"] == NONE)
    return Comparison(values, seeds, int(rows[0]["images"]))


def grid() -> str:
    """Measures in every setting of the grid: means over seeds, dropout → adversarial dropout besides."""
    content = read_json(RESULTS / "autoencoder-grid.json")
    lines = [(name, *(_change(compared, measure) for measure in SHOWN)) for name, compared in in_settings().items()]
    where, seeds = content["environment"], content["seeds"]
    return (
        f"{Table((SETTING, *SHOWN.values()), lines).markdown()}\n\nMeans, dropout → with "
        f"adversarial dropout, n = {len(seeds)}; {content['epochs']} epochs; {content['images']:,} test images. "
        f"Seeds {seeds[0]} to {seeds[-1]}; {where['processor']}, {where['cores']} cores, "
        f"{where['gpu'] or 'no GPU'}; PyTorch {where['packages']['torch']}; commit {where['commit'][:7]}."
    )


def grid_claims() -> str:
    """In every setting of the grid, in how many of the seeds with something to judge each claim holds."""
    lines = []
    totals = [[0, 0] for _ in CLAIMS]
    for name, compared in in_settings().items():
        cells = []
        for measure, total in zip(CLAIMS, totals, strict=True):
            judged = [outcome for outcome in compared.outcomes(measure) if outcome is not None]
            total[0] += bool(judged) and all(judged)
            total[1] += bool(judged)
            cells.append(f"{sum(judged)} of {len(judged)}" if judged else "–")
        lines.append((name, *cells))
    lines.append(("seen (in every seed)", *(f"{seen} of {judged} settings" for seen, judged in totals)))
    return Table((SETTING, *SHORT), lines).markdown()


def in_settings() -> dict[str, Comparison]:
    """The two autoencoders in each setting of the grid."""
    content = read_json(RESULTS / "autoencoder-grid.json")
    return {_name(setting): _compared(setting, content) for setting in content["settings"]}


def _compared(setting: dict[str, Any], content: dict[str, Any]) -> Comparison:
    values = {
        method: tuple({name: math.nan if value is None else value for name, value in run.items()} for run in runs)
        for method, runs in setting["values"].items()
    }
    return Comparison(values, tuple(content["seeds"]), content["images"])


def _name(setting: dict[str, Any]) -> str:
    optimizer, weights = OPTIMIZERS[setting["optimizer"]], INITIALIZATIONS[setting["initialization"]]
    return f"{optimizer}, {setting['learning_rate']:g}, {weights}"


def _change(compared: Comparison, measure: str) -> str:
    dropout, ours = (mean(compared.column(method, measure), 3) for method in (DROPOUT, ADVERSARIAL))
    return dropout if dropout == ours == "–" else f"{dropout} → {ours}"

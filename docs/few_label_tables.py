"""The tables of docs/scikit-learn.md, from results/few-labels/."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

RESULTS = Path(__file__).resolve().parents[1] / "results"
DATA = ("iris", "wine", "breast cancer", "digits", "two moons", "Rotten Tomatoes")
METHODS = (
    "logistic regression",
    "self-training",
    "label spreading",
    "plain",
    "pi",
    "r-drop",
    "mean-teacher",
    "vat",
    "vadd-kl",
    "vadd-qe",
    "vadd-kl+vat",
    "plain, two hidden layers",
    "vadd-kl, two hidden layers",
)


def accuracies() -> str:
    """Test accuracy of each method on each data set."""
    records = _records()
    runs = _runs(records)
    data = {record["data"]["name"]: record["data"] for record in records}
    head = ("method", *(f"{name}, {data[name]['labels']} labels" for name in DATA))
    lines = [(method, *(MeanStd.of(runs[method, name]["accuracies"]) for name in DATA)) for method in METHODS]
    seeds = {tuple(record["seeds"]) for record in records}
    (first, *_, last) = seeds.pop()
    assert not seeds, "all records have the same seeds"
    sizes = "; ".join(f"{name} {data[name]['rows']:,} and {data[name]['test_rows']:,}" for name in DATA)
    where = [record["environment"] for record in records]
    machines = " and ".join(sorted({f"{each['processor']}, {each['cores']} cores, no GPU" for each in where}))
    versions = " and ".join(
        sorted(
            {f"PyTorch {each['packages']['torch']}, scikit-learn {each['packages']['scikit-learn']}" for each in where}
        )
    )
    commits = sorted({each["commit"][:7] for each in where})
    return (
        f"{Table(head, lines).markdown()}\n\n"
        f"Accuracy on the test part in %, mean ± standard deviation, n = {last - first + 1}, seeds {first} to {last}. "
        f"Rows to train on and test rows: {sizes}. {machines}; {versions}; commit{'s' * (len(commits) > 1)} "
        f"{', '.join(commits)}."
    )


def settings() -> str:
    """The setting that validation chose, and seconds per fit."""
    runs = recorded()

    def cell(method: str, name: str) -> str:
        run = runs[method, name]
        chosen = ", ".join(f"{setting} {value:g}" for setting, value in run["setting"].items())
        return f"{chosen} ({statistics.fmean(run['seconds']):.2f} s)"

    lines = [(method, *(cell(method, name) for name in DATA)) for method in METHODS]
    return Table(("method", *DATA), lines).markdown()


def _records() -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted((RESULTS / "few-labels").rglob("*.json"))]


def recorded() -> Mapping[tuple[str, str], dict[str, Any]]:
    """By method and data set: the setting chosen, accuracies, seconds."""
    return _runs(_records())


def _runs(records: list[dict[str, Any]]) -> Mapping[tuple[str, str], dict[str, Any]]:
    return {(method, record["data"]["name"]): run for record in records for method, run in record["methods"].items()}

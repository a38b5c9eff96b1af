"""Tables of docs/examples.md: fine-tuning with 200 labels."""

import statistics
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

FINETUNING = Path(__file__).resolve().parents[1] / "results" / "finetuning"
METHODS = {
    "plain": "plain",
    "r-drop": "R-Drop",
    "vadd-kl": "VAdD (KL)",
    "vadd-kl+vat": "VAdD (KL) + VAT on embeddings",
}

Runs = list[dict[str, Any]]


def runs(part: str, method: str) -> Runs:
    """The records of a method that were measured on ``part``."""
    return [read_json(path) for path in sorted((FINETUNING / part / method).rglob("seed-*.json"))]


def setting(run: dict[str, Any]) -> str:
    """What was varied in the trials of the method of ``run``."""
    values, method = run["settings"], run["method"]
    varied = ["learning_rate", "p"] if method == "plain" else ["learning_rate", "weight"]
    varied = ["learning_rate", "eps"] if "vat" in method else varied
    return ", ".join(f"{name.replace('_', ' ')} {values[name]:g}" for name in varied)


def percent(found: Runs) -> MeanStd:
    """Accuracy in percent."""
    return MeanStd.of([100 * run["accuracy"] for run in found])


def finetuning() -> str:
    """Accuracy on the test part beside the cost of an update."""
    path = FINETUNING / "cost.json"
    cost = read_json(path) if path.exists() else None
    lines, shown = [], []
    for method, name in METHODS.items():
        found = runs("test", method)
        line: list[object] = [name, None, None, 0, None, None]
        if found:
            line[1:4] = setting(found[0]), percent(found), len(found)
        if cost is not None:
            seconds, plain = cost["seconds"][method], cost["seconds"]["plain"]
            line[4] = f"{statistics.median(seconds):.2f}"
            line[5] = f"{statistics.median(own / base for own, base in zip(seconds, plain, strict=True)):.2f}"
        lines.append(line)
        shown += found
    header = ("method", "chosen on the validation part", "test accuracy in %", "n", "seconds per update", "÷ plain")
    table = Table(header, lines).markdown()
    if not shown:
        return f"{table}\n\nNo run has been measured on the test part yet."
    return f"{table}\n\n{_conditions(shown)} {_cost_conditions(cost)}".strip()


def finetuning_trials() -> str:
    """Accuracy on the validation part of every setting that was tried."""
    lines = []
    for method, name in METHODS.items():
        trials: dict[str, Runs] = {}
        for run in runs("validation", method):
            trials.setdefault(setting(run), []).append(run)
        lines += [(name, tried, percent(found), len(found)) for tried, found in trials.items()]
    return Table(("method", "setting", "validation accuracy in %", "n"), lines).markdown()


def _conditions(found: Runs) -> str:
    (same,) = {(run["updates"], run["sentences"], run["transformers"]) for run in found}
    seeds = sorted({run["seed"] for run in found})
    where = [run["environment"] for run in found]
    machines = sorted({f"{each['processor']}, {each['cores']} cores, {each['gpu'] or 'no GPU'}" for each in where})
    commits = sorted({each["commit"][:7] for each in where})
    versions = sorted({each["packages"]["torch"] for each in where})
    return (
        f"{same[0]} updates; {same[1]:,} test sentences; seeds {seeds[0]} to {seeds[-1]}; {' and '.join(machines)}; "
        f"PyTorch {' and '.join(versions)}; Transformers {same[2]}; commit{'s' * (len(commits) > 1)} "
        f"{', '.join(commits)}."
    )


def _cost_conditions(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return ""
    rounds, where = len(cost["seconds"]["plain"]), cost["environment"]
    return (
        f"Cost: medians of {rounds} rounds on one thread, one update of each method in each round; "
        f"{where['processor']}, {where['cores']} cores; commit {where['commit'][:7]}."
    )

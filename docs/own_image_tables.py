"""The tables of docs/own-images.md, from results/own-images/."""

import statistics
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "own-images"
NOTHING = "Nothing has been run yet."
DATA = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10", "svhn": "grey SVHN"}


def measured() -> str:
    """Test errors of the preset images: a row per method, a column per data set and number of labels."""
    return _table("measure", "test", "method")


def candidates() -> str:
    """Validation errors of what the preset could have been."""
    return _table("choose", "validation", "candidate")


def pretrained() -> str:
    """Test errors of heads on frozen features."""
    content = _read("pretrained-measure")
    if not content:
        return NOTHING
    lines = [(name, MeanStd.of(entry["errors"]), entry["chosen"], _seconds(entry)) for name, entry in content.items()]
    head = ("method and head", "test error in %", "chosen on validation data", "seconds")
    return f"{Table(head, lines).markdown()}\n\n{_provenance([content])}"


def pretrained_candidates() -> str:
    """Validation errors of heads on frozen features."""
    content = _read("pretrained-choose")
    if not content:
        return NOTHING
    lines = [(name, MeanStd.of(entry["errors"])) for name, entry in content.items()]
    return f"{Table(('candidate', 'validation error in %'), lines).markdown()}\n\n{_provenance([content])}"


def _table(part: str, which: str, first: str) -> str:
    columns = {}
    for data, shown in DATA.items():
        for labels in (10, 40):
            if content := _read(f"{part}-{data}-{labels}"):
                columns[f"{shown}, {labels} labels a class"] = content
    if not columns:
        return NOTHING
    names = list(dict.fromkeys(name for content in columns.values() for name in content))
    lines = [
        [name, *(_error(content.get(name)) for content in columns.values())]
        for name in sorted(names, key=lambda name: min(_place(content, name) for content in columns.values()))
    ]
    minutes = {
        column: statistics.median(_minutes(entry) for entry in content.values() if "seconds" in entry)
        for column, content in columns.items()
    }
    taken = "; ".join(f"{column} {value:.1f}" for column, value in minutes.items())
    return (
        f"{Table((first, *columns), lines).markdown()}\n\n"
        f"{which.capitalize()} error in %, mean ± standard deviation. Median minutes of a run on one core: {taken}. "
        f"{_provenance(list(columns.values()))}"
    )


def _place(content: dict[str, Any], name: str) -> int:
    return list(content).index(name) if name in content else len(content)


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return read_json(path) if path.exists() else {}


def _error(entry: dict[str, Any] | None) -> str:
    return "" if entry is None else str(MeanStd.of(entry["errors"]))


def _minutes(entry: dict[str, Any]) -> float:
    return statistics.fmean(entry["seconds"]) / 60


def _seconds(entry: dict[str, Any]) -> str:
    return f"{statistics.fmean(entry['seconds']):.0f}" if "seconds" in entry else ""


def _provenance(contents: list[dict[str, Any]]) -> str:
    entries = [entry for content in contents for entry in content.values()]
    where = [entry["environment"] for entry in entries if "environment" in entry]
    machines = sorted({f"{each['processor']}, {each['cores']} cores, {each['gpu'] or 'no GPU'}" for each in where})
    commits = sorted({(each["commit"] or "unknown")[:7] for each in where})
    seeds = sorted({", ".join(map(str, entry["seeds"])) for entry in entries})
    versions = sorted({each["packages"]["torch"] for each in where})
    return (
        f"Seeds {' or '.join(seeds)}; {' and '.join(machines)}; PyTorch {' and '.join(versions)}; "
        f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}."
    )

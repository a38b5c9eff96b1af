"""Choose what the paper does not state for MNIST on 5,000 held-out training images: ε of AT and VAT, the noise of
VAdD.

    python studies/tune_mnist.py --data FOLDER [--methods at vat]

Each candidate trains for 1,500 steps on 1,000 labels (scale quick), with seeds that no reported run uses. The test
images are not used. Each method has its own entry in results/mnist-tuning.json, which is written when its candidates
are trained; the entries of other methods are unchanged.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.terms import by_kind

RECORD = Path(__file__).resolve().parents[1] / "results" / "mnist-tuning.json"
PRESET = "paper/mnist-1000"
SEEDS = (100, 101)
VALIDATION = 5000
CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "at": tuple({"eps": eps} for eps in (0.05, 0.1, 0.2, 0.3)),
    "vat": tuple({"eps": eps} for eps in (0.5, 1.0, 2.0, 3.0, 4.5)),
    "vadd-kl": ({"noise": "independent"}, {"noise": "shared"}),
    "vadd-qe": ({"noise": "independent"}, {"noise": "shared"}),
}
"""Settings of the term, by method."""


def candidate(method: str, settings: dict[str, Any], seed: int) -> ExperimentConfig:
    config = presets.get(PRESET, method, "quick", seed)
    (term,) = config.terms.values()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, validation=VALIDATION),
        terms=by_kind(dataclasses.replace(term, **settings)),
    )


def measured(method: str, location: DataLocation, out: Path, jobs: int) -> dict[str, Any]:
    """Train all candidates of ``method``: its entry of the record."""
    errors: dict[str, list[float]] = {}
    for settings in CANDIDATES[method]:
        name = " ".join(f"{key}={value}" for key, value in settings.items())
        configs = [candidate(method, settings, seed) for seed in SEEDS]
        finished = run_grid(configs, out / f"{method}-{name.replace(' ', '-')}", jobs=jobs, location=location)
        errors[name] = [record.error for record in finished]
        print(f"{method} {name:20} {statistics.fmean(errors[name]):.2f}", flush=True)
    training = finished[0].config.training
    steps = training.epochs * (training.steps_per_epoch or 0)
    return {"steps": steps, "seeds": SEEDS, "errors": errors, "environment": records.environment()}


def recorded(path: Path) -> dict[str, Any]:
    """The entries at ``path`` by method; none where there is no record.

    Raises:
        InvalidValueError: it is of another preset, or of another number of held-out images.
    """
    if not path.exists():
        return {}
    content = records.read_json(path)
    for name, value in (("preset", PRESET), ("validation", VALIDATION)):
        if content.get(name) != value:
            raise InvalidValueError(
                f"{path}: expected a record with {name} {value!r}, got {content.get(name)!r}; give another file with "
                "--record, or move this one away"
            )
    return dict(content["methods"])


def write(path: Path, method: str, entry: dict[str, Any]) -> None:
    """Put the entry of ``method`` into the record at ``path``, and leave the others as they are."""
    entries = {**recorded(path), method: entry}
    methods = {name: entries[name] for name in CANDIDATES if name in entries}
    records.write_json(path, {"preset": PRESET, "validation": VALIDATION, "methods": methods})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST in parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/tune-mnist"), help="folder of the runs")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON file whose entries are replaced")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--methods", nargs="+", choices=CANDIDATES, default=list(CANDIDATES), help="tune only these")
    options = parser.parse_args()
    recorded(options.record)  # A record of something else is refused before training.
    for method in options.methods:
        write(options.record, method, measured(method, DataLocation(options.data), options.out, options.jobs))


if __name__ == "__main__":
    main()

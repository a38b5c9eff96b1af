"""How well the preset ``images`` learns from 10 or 40 labels a class, and how its settings were chosen.

    python studies/own_images.py choose --mnist FOLDER --cifar10 FOLDER
    python studies/own_images.py measure --mnist FOLDER --cifar10 FOLDER --svhn FOLDER

``choose`` trains each candidate, the preset with one thing changed, and judges it on held-out training images, with
seeds that no reported run uses; the test images are not used. ``measure`` trains the methods of the preset and judges
them on test images, beside a support vector machine on pixels with the same labels. Both write
results/own-images/PART-DATA.json.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.classical.classical import support_vectors
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.small_resnet import SmallResnet

RESULTS = Path(__file__).resolve().parents[1] / "results" / "own-images"
PRESET = presets.OWN_IMAGES
CHOICE_SEEDS = (100, 101)
SEEDS = range(5)
HELD_OUT = {"digits": 400, "mnist": 2000, "cifar10": 2000}
METHODS = ("plain", "pi", "vat", "sadd", "vadd-kl", "vadd-qe", "vadd-kl+vat")
FLIPPED = ("cifar10",)
"""Data whose images may be flipped: pictures of things."""

Changes = dict[str, dict[str, Any]]
CANDIDATES: dict[str, tuple[str, Changes]] = {
    "plain": ("plain", {}),
    "vadd-kl": ("vadd-kl", {}),
    "affine 0": ("vadd-kl", {"data": {"affine": 0.0}}),
    "affine 1": ("vadd-kl", {"data": {"affine": 1.0}}),
    "jitter 0": ("vadd-kl", {"data": {"jitter": 0.0}}),
    "width 16": ("vadd-kl", {"model": {"width": 16}}),
    "width 48": ("vadd-kl", {"model": {"width": 48}}),
    "conv-large of width 32": ("vadd-kl", {"model": {"name": ConvLarge, "width": 32}}),
    "δ 0.02": ("vadd-kl", {"model": {"delta": 0.02}}),
    "δ 0.15": ("vadd-kl", {"model": {"delta": 0.15}}),
    "p 0.25": ("vadd-kl", {"model": {"p": 0.25}}),
    "λ 0.3": ("vadd-kl", {"terms": {"weight": 0.3}}),
    "λ 3": ("vadd-kl", {"terms": {"weight": 3.0}}),
    "no ramp-up": ("vadd-kl", {"training": {"ramp_up": 0}}),
    "no weight decay": ("vadd-kl", {"training": {"weight_decay": 0.0}}),
    "learning rate 0.001": ("vadd-kl", {"training": {"learning_rate": 1e-3}}),
    "a third of the steps": ("vadd-kl", {"training": {"least_steps": 25, "most_steps": 25}}),
    "pi": ("pi", {}),
    "pi λ 3": ("pi", {"terms": {"weight": 3.0}}),
    "pi λ 30": ("pi", {"terms": {"weight": 30.0}}),
    "vadd-qe": ("vadd-qe", {}),
    "vadd-qe λ 3": ("vadd-qe", {"terms": {"weight": 3.0}}),
    "vadd-qe λ 30": ("vadd-qe", {"terms": {"weight": 30.0}}),
    "vat": ("vat", {}),
    "vat ε 0.02": ("vat", {"terms": {"eps": 0.02}}),
    "vat ε 0.15": ("vat", {"terms": {"eps": 0.15}}),
}
"""Method, and what is changed of the preset: settings of data, model, training, and of all terms."""


def config(method: str, data: str, labels: int, seed: int, changes: Changes | None = None) -> ExperimentConfig:
    """The preset's settings for ``method`` on ``data`` with that many labels, with ``changes``."""
    settings = presets.settings(PRESET, method, "quick", seed)
    changes = {name: dict(values) for name, values in (changes or {}).items()}
    shown = {"name": data, "labelled": labels, "flip": data in FLIPPED, **changes.get("data", {})}
    model = settings.model
    network = changes.get("model", {}).pop("name", type(model))
    if network is not SmallResnet:
        model = network(p=model.p, delta=model.delta)
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, **shown),
        model=dataclasses.replace(model, **changes.get("model", {})),
        training=dataclasses.replace(settings.training, **changes.get("training", {})),
        terms={kind: dataclasses.replace(term, **changes.get("terms", {})) for kind, term in settings.terms.items()},
    ).used()


def choose(data: str, location: DataLocation, out: Path, jobs: int, per_class: int, names: list[str]) -> None:
    """Train candidates on ``data`` and add their validation errors to the record."""
    classes = len(sources.load(config("plain", data, 10, 0).data, location).classes)
    for name in names:
        method, changes = CANDIDATES[name]
        changes = {**changes, "data": {**changes.get("data", {}), "validation": HELD_OUT[data]}}
        configs = [config(method, data, per_class * classes, seed, changes) for seed in CHOICE_SEEDS]
        _add("choose", data, per_class, name, run_grid(configs, out / f"{name}", jobs=jobs, location=location))


def measure(data: str, location: DataLocation, out: Path, jobs: int, per_class: int, names: list[str]) -> None:
    """Train methods on ``data`` and add their test errors to the record."""
    classes = len(sources.load(config("plain", data, 10, 0).data, location).classes)
    configs = [config(method, data, per_class * classes, seed) for seed in SEEDS for method in names]
    finished = run_grid(configs, out, jobs=jobs, location=location)
    for method in names:
        _add("measure", data, per_class, method, [run for run in finished if run.config.method == method])
    errors = [_support_vectors(run.config, location) for run in finished if run.config.method == names[0]]
    _write("measure", data, per_class, "support vector machine on pixels", {"seeds": list(SEEDS), "errors": errors})


def _support_vectors(config: ExperimentConfig, location: DataLocation) -> float:
    """Test error in percent of a support vector machine on the pixels, with the labels of the run."""
    data = sources.load(config.data, location)
    return support_vectors(data, make_split(data, config.data, config.seed))


def _add(part: str, data: str, per_class: int, name: str, runs: list[records.Record]) -> None:
    errors, seconds = [run.error for run in runs], [run.seconds for run in runs]
    print(
        f"{data} {per_class} {name:24} {statistics.fmean(errors):6.2f}  {statistics.fmean(seconds):5.0f} s", flush=True
    )
    content = {
        "seeds": [run.config.seed for run in runs],
        "errors": errors,
        "seconds": seconds,
        "examples": runs[0].final["examples"],
        "environment": runs[0].final["environment"],
        "config": runs[0].config.to_dict(),
    }
    _write(part, data, per_class, name, content)


def _write(part: str, data: str, per_class: int, name: str, content: dict[str, Any]) -> None:
    """Put an entry into the record, and leave the others as they are."""
    path = RESULTS / f"{part}-{data}-{per_class}.json"
    before = records.read_json(path) if path.exists() else {}
    records.write_json(path, {**before, name: content})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("choose", "measure"))
    for name in ("mnist", "cifar10", "svhn"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"folder with {name} in parquet files")
    parser.add_argument("--only", nargs="+", help="only these data: digits, mnist, cifar10, svhn")
    parser.add_argument("--names", nargs="+", help="only these candidates or methods")
    parser.add_argument("--labels", type=int, default=10, help="labels of each class")
    parser.add_argument("--out", type=Path, default=Path("runs/own-images"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    given = {
        "digits": None,
        **{name: folder for name in ("mnist", "cifar10", "svhn") if (folder := vars(options)[name])},
    }
    work, names = (choose, CANDIDATES) if options.part == "choose" else (measure, METHODS)
    for data, folder in given.items():
        if data in (options.only or given) and (options.part == "measure" or data in HELD_OUT):
            out = options.out / options.part / f"{data}-{options.labels}"
            work(data, DataLocation(folder), out, options.jobs, options.labels, options.names or list(names))


if __name__ == "__main__":
    main()

"""Heads on the frozen features of EfficientNet-Lite0: CIFAR-10 with 40 labels of each class.

    python studies/pretrained_images.py choose --cifar10 FOLDER
    python studies/pretrained_images.py measure --cifar10 FOLDER

The images are the first 10,000 for training and all 10,000 for testing; 4,000 of the former are used without their
label. ``choose`` trains candidates and judges them on 2,000 held-out training images, with seeds that no reported run
uses; the test images are not used. ``measure`` trains each method with the settings chosen, and judges it on the test
images, beside logistic regression and self-training on the same features and labels. Both write
results/own-images/pretrained-PART.json. The features are computed once.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.models.pretrained import PretrainedNetwork
from adversarial_dropout.experiments.run.frozen import prepared

RESULTS = Path(__file__).resolve().parents[1] / "results" / "own-images"
IMAGES = 10_000
UNLABELLED = 4_000
LABELLED = 400
HELD_OUT = 2_000
CHOICE_SEEDS = (100, 101, 102)
SEEDS = range(5)
HEADS: dict[str, dict[str, Any]] = {"linear": {"head": "linear"}, "mlp": {"head": "mlp"}}
WEIGHTS = {"pi": (3.0, 10.0, 30.0), "vat": (0.3, 1.0, 3.0), "vadd-kl": (0.3, 1.0, 3.0), "vadd-qe": (3.0, 10.0, 30.0)}
"""Candidates for the weight λ of each method."""
BASELINES = ("logistic regression", "self-training")
STRENGTHS = (0.0003, 0.003, 0.03)
"""Candidates for the inverse strength C of regularisation of the baselines."""


def subset(folder: Path, out: Path) -> Path:
    """Write the images of the study, from CIFAR-10 in parquet files, to a folder of its own; return it."""
    import datasets

    target = out / "images"
    if not (target / "test-0.parquet").exists():
        target.mkdir(parents=True, exist_ok=True)
        for split, most in (("train", IMAGES), ("test", None)):
            files = sorted(map(str, folder.rglob(f"{split}-*.parquet")))
            rows = datasets.Dataset.from_parquet(files)
            rows = rows if most is None else rows.select(range(most))
            rows.to_parquet(target / f"{split}-0.parquet")
    return target


def config(method: str, head: str, weight: float | None, seed: int, held_out: int) -> ExperimentConfig:
    """The preset's settings for ``method`` on frozen features, with that head and weight of the term."""
    settings = presets.settings(presets.OWN_IMAGES, method, "quick", seed, network="pretrained")
    terms = settings.terms
    if weight is not None:
        terms = {kind: dataclasses.replace(term, weight=weight) for kind, term in terms.items()}
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(
            settings.data, name="cifar10", labelled=LABELLED, unlabelled=UNLABELLED, validation=held_out
        ),
        model=dataclasses.replace(settings.model, **HEADS[head]),
        terms=terms,
    ).used()


def candidates() -> dict[str, tuple[str, str, float | None]]:
    """Method, head and weight of each candidate, by its name."""
    found: dict[str, tuple[str, str, float | None]] = {f"plain {head}": ("plain", head, None) for head in HEADS}
    for method, weights in WEIGHTS.items():
        for head in HEADS:
            found |= {f"{method} {head} λ={weight:g}": (method, head, weight) for weight in weights}
    found |= {f"vadd-kl+vat {head}": ("vadd-kl+vat", head, None) for head in HEADS}
    return found


def best(method: str, head: str) -> str:
    """The candidate of that method and head with the lowest validation error."""
    chosen = records.read_json(RESULTS / "pretrained-choose.json")
    names = [name for name, (m, h, _) in candidates().items() if (m, h) == (method, head)]
    return min(names, key=lambda name: statistics.fmean(chosen[name]["errors"]))


def baseline(name: str, strength: float, seed: int, location: DataLocation, held_out: int) -> float:
    """Error in percent of a baseline of scikit-learn on the features that the heads of that seed see."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import SelfTrainingClassifier

    of_plain = config("vadd-kl", "linear", None, seed, held_out)
    data = sources.load(of_plain.data, location)
    split = make_split(data, of_plain.data, seed)
    network = of_plain.model.build(data.shape, len(data.classes))
    assert isinstance(network, PretrainedNetwork)
    data, _ = prepared(of_plain, network, data, split.rows_seen(unlabelled=True), torch.device("cpu"))
    features, labels = data.images, data.labels.clone()
    model = LogisticRegression(C=strength, max_iter=1000)
    if name == "self-training":
        rest = split.unlabelled[~torch.isin(split.unlabelled, split.labelled)]
        labels[rest] = -1
        rows = torch.cat([split.labelled, rest])
        model = SelfTrainingClassifier(model, threshold=0.9, max_iter=20)
    else:
        rows = split.labelled
    # Both views of the labelled images, as the heads see them.
    given = features[rows].flatten(0, 1).numpy()
    model.fit(given, labels[rows].repeat_interleave(features.shape[1]).numpy())
    found = torch.from_numpy(model.predict(features[split.evaluation, 0].numpy()))
    return 100 * float((found != data.labels[split.evaluation]).double().mean())


def _write(part: str, name: str, content: dict[str, Any]) -> None:
    path = RESULTS / f"pretrained-{part}.json"
    before = records.read_json(path) if path.exists() else {}
    records.write_json(path, {**before, name: content})
    print(f"{part} {name:32} {statistics.fmean(content['errors']):6.2f}", flush=True)


def _trained(part: str, name: str, runs: list[records.Record], **more: Any) -> None:
    content = {
        "seeds": [run.config.seed for run in runs],
        "errors": [run.error for run in runs],
        "seconds": [run.seconds for run in runs],
        "examples": runs[0].final["examples"],
        "environment": runs[0].final["environment"],
        "config": runs[0].config.to_dict(),
        **more,
    }
    _write(part, name, content)


def choose(location: DataLocation, out: Path, jobs: int) -> None:
    """Train all candidates; write their validation errors."""
    for name, (method, head, weight) in candidates().items():
        configs = [config(method, head, weight, seed, HELD_OUT) for seed in CHOICE_SEEDS]
        _trained("choose", name, run_grid(configs, out / name, jobs=jobs, location=location))
    for name in BASELINES:
        for strength in STRENGTHS:
            errors = [baseline(name, strength, seed, location, HELD_OUT) for seed in CHOICE_SEEDS]
            _write("choose", f"{name} C={strength:g}", {"seeds": list(CHOICE_SEEDS), "errors": errors})


def measure(location: DataLocation, out: Path, jobs: int) -> None:
    """Train what was chosen; write the test errors."""
    for method in ("plain", *WEIGHTS, "vadd-kl+vat"):
        for head in HEADS:
            name = best(method, head)
            configs = [config(*candidates()[name], seed, 0) for seed in SEEDS]
            runs = run_grid(configs, out / f"{method}-{head}", jobs=jobs, location=location)
            _trained("measure", f"{method} {head}", runs, chosen=name)
    chosen = records.read_json(RESULTS / "pretrained-choose.json")
    for name in BASELINES:
        strength = min(STRENGTHS, key=lambda c: statistics.fmean(chosen[f"{name} C={c:g}"]["errors"]))
        errors = [baseline(name, strength, seed, location, 0) for seed in SEEDS]
        _write("measure", name, {"seeds": list(SEEDS), "errors": errors, "chosen": f"C={strength:g}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("choose", "measure"))
    parser.add_argument("--cifar10", type=Path, required=True, metavar="FOLDER", help="CIFAR-10 in parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained-images"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    location = DataLocation(subset(options.cifar10, options.out))
    parts: dict[str, Callable[[DataLocation, Path, int], None]] = {"choose": choose, "measure": measure}
    parts[options.part](location, options.out / options.part, options.jobs)


if __name__ == "__main__":
    main()

"""Measure AdversarialDropoutClassifier with few labels beside scikit-learn's own methods, and record all accuracies.

    python studies/few_labels.py [--model FOLDER_OR_HUB_ID --data FOLDER] [--out results/few-labels]

Each data set is divided once, by class: a third of the rows is the test part. Features are standardised by the mean and
standard deviation of the other rows. Of these, each seed labels ten percent at random, by class; the semi-supervised
methods see the others without labels. For the embeddings of sentences (--model, --data) the test part is the data set's
own, and 100 of 3,000 training sentences have labels.

Every method has four settings to choose from. They are compared with seeds 100 to 102: a fifth of the rows outside of
the test part is held out, and accuracy is measured on it. The test part is not used. The setting with the highest mean
is then run with seeds 0 to 4. Every network is trained for about the same number of steps.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from adversarial_dropout.experiments import records
from adversarial_dropout.integrations.sklearn import AdversarialDropoutClassifier

SEEDS = range(5)
TUNING_SEEDS = range(100, 103)
STEPS = 300
SHARE = 0.1
SENTENCES_NAME = "Rotten Tomatoes"
SENTENCES = 3000
LABELLED_SENTENCES = 100
BATCH = 128

Setting = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Rows outside of the test part, the test part, and how many rows of a training part have a label."""

    name: str
    x: Any
    y: Any
    x_test: Any
    y_test: Any
    labels: int

    @classmethod
    def divided(cls, name: str, x: Any, y: Any) -> "Data":
        x, x_test, y, y_test = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=0)
        return cls.scaled(name, x, y, x_test, y_test, round(SHARE * len(y)))

    @classmethod
    def scaled(cls, name: str, x: Any, y: Any, x_test: Any, y_test: Any, labels: int) -> "Data":
        scaler = StandardScaler().fit(x)
        return cls(name, scaler.transform(x), y, scaler.transform(x_test), y_test, labels)


@dataclass(frozen=True)
class Method:
    """A classifier for given rows, and the settings among which the tuning chooses."""

    make: Callable[[Setting, int, int, int], Any]
    """From a setting, the numbers of rows and of features, and a seed."""
    settings: list[Setting]
    needs_labels: bool = False


def network(method: str, settings: list[Setting], hidden: Sequence[int] = (128,)) -> Method:
    def make(setting: Setting, rows: int, features: int, seed: int) -> AdversarialDropoutClassifier:
        own = {name: value for name, value in setting.items() if name != "relative_eps"}
        if "relative_eps" in setting:
            own["eps"] = setting["relative_eps"] * math.sqrt(features)
        epochs = math.ceil(STEPS / math.ceil(rows / BATCH))
        return AdversarialDropoutClassifier(
            method, max_iter=epochs, batch_size_unlabeled=BATCH, random_state=seed, hidden_layer_sizes=hidden, **own
        )

    return Method(make, settings)


def logistic(setting: Setting, rows: int, features: int, seed: int) -> LogisticRegression:
    return LogisticRegression(max_iter=2000, C=setting["C"])


def self_training(setting: Setting, rows: int, features: int, seed: int) -> SelfTrainingClassifier:
    return SelfTrainingClassifier(logistic(setting, rows, features, seed), threshold=setting["threshold"])


def spreading(setting: Setting, rows: int, features: int, seed: int) -> LabelSpreading:
    if "n_neighbors" in setting:
        return LabelSpreading(kernel="knn", max_iter=200, n_neighbors=setting["n_neighbors"])
    return LabelSpreading(kernel="rbf", max_iter=200, gamma=setting["gamma_times_features"] / features)


def grid(**values: Iterable[Any]) -> list[Setting]:
    """All combinations."""
    return [dict(zip(values, choice, strict=True)) for choice in itertools.product(*values.values())]


RATES = (1e-3, 1e-2)
METHODS: dict[str, Method] = {
    "logistic regression": Method(logistic, grid(C=(0.01, 0.1, 1.0, 10.0)), needs_labels=True),
    "self-training": Method(self_training, grid(C=(0.1, 1.0), threshold=(0.75, 0.9))),
    "label spreading": Method(spreading, [*grid(n_neighbors=(5, 15)), *grid(gamma_times_features=(1.0, 10.0))]),
    "plain": network("plain", grid(p=(0.2, 0.5), learning_rate=RATES)),
    "pi": network("pi", grid(weight=(10.0, 30.0), learning_rate=RATES)),
    "r-drop": network("r-drop", grid(weight=(1.0, 3.0), learning_rate=RATES)),
    "mean-teacher": network("mean-teacher", grid(weight=(10.0, 30.0), learning_rate=RATES)),
    "vat": network("vat", grid(relative_eps=(0.1, 0.3), learning_rate=RATES)),
    "vadd-kl": network("vadd-kl", grid(weight=(1.0, 3.0), learning_rate=RATES)),
    "vadd-qe": network("vadd-qe", grid(weight=(10.0, 30.0), learning_rate=RATES)),
    "plain, two hidden layers": network("plain", grid(p=(0.2, 0.5), learning_rate=RATES), (128, 128)),
    "vadd-kl, two hidden layers": network("vadd-kl", grid(weight=(1.0, 3.0), learning_rate=RATES), (128, 128)),
    "vadd-kl+vat": network("vadd-kl+vat", grid(relative_eps=(0.1, 0.3), learning_rate=RATES)),
}
"""Self-training repeats logistic regression. ``relative_eps`` is VAT's ε over the square root of the number of
features, which is about the length of a row."""


def accuracy(method: Method, setting: Setting, x: Any, y: Any, labels: int, x_test: Any, y_test: Any, seed: int) -> Any:
    """Accuracy in percent, and CPU seconds of the fit, with ``labels`` of the rows labelled."""
    shown, _ = train_test_split(np.arange(len(y)), train_size=labels, stratify=y, random_state=seed)
    known = np.full(len(y), -1)
    known[shown] = y[shown]
    model = method.make(setting, len(x), x.shape[1], seed)
    start = time.process_time()
    if method.needs_labels:
        model.fit(x[shown], y[shown])
    else:
        model.fit(x, known)
    seconds = time.process_time() - start
    return 100 * float((model.predict(x_test) == y_test).mean()), seconds


def measured(method: Method, data: Data, seeds: Iterable[int], tuning_seeds: Iterable[int]) -> dict[str, Any]:
    """Accuracies of each setting on rows that are held out; of the best one on the test part, with other seeds."""
    tried: list[dict[str, Any]] = []
    for setting in method.settings:
        values = []
        for seed in tuning_seeds:
            parts = train_test_split(data.x, data.y, test_size=0.2, stratify=data.y, random_state=seed)
            x, x_held, y, y_held = parts
            values.append(accuracy(method, setting, x, y, data.labels, x_held, y_held, seed)[0])
        tried.append({"setting": setting, "validation_accuracies": values})
    best = max(tried, key=lambda one: statistics.fmean(one["validation_accuracies"]))["setting"]
    runs = [accuracy(method, best, data.x, data.y, data.labels, data.x_test, data.y_test, seed) for seed in seeds]
    accuracies, seconds = map(list, zip(*runs, strict=True))
    print(f"{data.name}: {accuracies} {best} {statistics.fmean(seconds):.2f} s", flush=True)
    return {"setting": best, "accuracies": accuracies, "seconds": seconds, "tried": tried}


def tables() -> list[Data]:
    """The data sets that scikit-learn brings."""
    return [
        Data.divided("iris", *datasets.load_iris(return_X_y=True)),
        Data.divided("wine", *datasets.load_wine(return_X_y=True)),
        Data.divided("breast cancer", *datasets.load_breast_cancer(return_X_y=True)),
        Data.divided("digits", *datasets.load_digits(return_X_y=True)),
        Data.divided("two moons", *datasets.make_moons(300, noise=0.2, random_state=0)),
    ]


def sentences(model: str, folder: Path, cache: Path) -> Data:
    """Embeddings of Rotten Tomatoes: means of the last hidden states over the tokens, computed once."""
    from datasets import load_dataset

    files = {part: str(next(folder.rglob(f"{part}-*.parquet"))) for part in ("train", "test")}
    parts = {name: load_dataset("parquet", data_files={name: path}, split=name) for name, path in files.items()}
    chosen = np.random.RandomState(0).permutation(len(parts["train"]))[:SENTENCES]
    parts["train"] = parts["train"].select(chosen)
    path = cache / f"{Path(model).name}-{SENTENCES}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name: embeddings(model, list(part["text"])) for name, part in parts.items()})
    rows = np.load(path)
    labels = {name: np.array(part["label"]) for name, part in parts.items()}
    return Data.scaled(SENTENCES_NAME, rows["train"], labels["train"], rows["test"], labels["test"], LABELLED_SENTENCES)


def embeddings(model: str, texts: list[str]) -> Any:
    """One row for each text."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            batch = tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1)
            rows.append((encoder(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(rows).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id of the encoder of the sentences")
    parser.add_argument("--data", type=Path, help="folder of Rotten Tomatoes in parquet files")
    parser.add_argument("--cache", type=Path, default=Path("runs/few-labels"), help="folder for the embeddings")
    parser.add_argument("--out", type=Path, default=Path("results/few-labels"), help="folder of the records")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tuning-seeds", type=int, nargs="+", default=TUNING_SEEDS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--only", default="", help="only data sets whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [data for data in tables() if options.only in data.name]
    if options.model and options.data and options.only in SENTENCES_NAME:
        chosen.append(sentences(options.model, options.data, options.cache))
    for data in chosen:
        content = {
            "what": "accuracy on the test part in percent, one value per seed; CPU seconds of a fit with one thread",
            "data": {"name": data.name, "rows": len(data.y), "labels": data.labels, "test_rows": len(data.y_test)},
            "seeds": list(options.seeds),
            "tuning_seeds": list(options.tuning_seeds),
            "steps": STEPS,
            "methods": {
                name: measured(METHODS[name], data, options.seeds, options.tuning_seeds) for name in options.methods
            },
        }
        options.out.mkdir(parents=True, exist_ok=True)
        records.write_measured(options.out / f"{data.name.lower().replace(' ', '-')}.json", content)


if __name__ == "__main__":
    main()

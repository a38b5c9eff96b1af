"""Test errors of classifiers of scikit-learn on the rows of a run: what a trained network should be better than."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC
from torch import Tensor

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.classical import LOGISTIC, MAJORITY, SELF_TRAINING, VECTORS
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.features import Progress
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split, evenly_spaced, make_split
from adversarial_dropout.experiments.models.pretrained import Pretrained, PretrainedNetwork
from adversarial_dropout.experiments.run.frozen import prepared
from adversarial_dropout.regularizers.base import UNLABELLED

_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_FOLDS = 3
_MOST_ROWS = 1000
"""Labelled rows on which the strength of logistic regression is chosen."""

Rows = NDArray[np.float32]


def errors(
    config: ExperimentConfig,
    data: ImageData,
    device: torch.device,
    *,
    digest: str | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Errors in percent on the evaluation part of a run, of classifiers that learn from its labelled rows.

    With a pretrained backbone they see the features that the head of the run sees if the backbone is frozen:
    logistic regression, and, where there are unlabelled rows, self-training. Otherwise a support vector machine sees
    pixels. The most frequent class needs labels only.

    Args:
        config: Says which rows, and which features.
        data: The images.
        device: Where features are computed.
        digest: That of ``data``, if it is known.
        progress: Called while features are computed with the images done, and all.
    """
    split = make_split(data, config.data, config.seed)
    if isinstance(config.model, Pretrained):
        found = _on_features(config, data, split, device, digest, progress)
    else:
        found = {VECTORS: support_vectors(data, split)}
    return {**found, MAJORITY: majority(data, split)}


def recorded(
    path: Path,
    config: ExperimentConfig,
    data: ImageData,
    device: torch.device,
    digest: str,
    progress: Progress | None = None,
) -> dict[str, float]:
    """What ``path`` holds of :func:`errors`, if it is of the same config, data and versions; otherwise compute it."""
    key: dict[str, Any] = {"config": config.to_dict(), "data": digest, "scikit-learn": sklearn.__version__}
    if isinstance(config.model, Pretrained):
        key["backbone"] = config.model.files.described
    if path.exists():
        content = records.read_json(path)
        if {name: content.get(name) for name in key} == key:
            with records.reading(path):
                return {name: float(error) for name, error in content["errors"].items()}
    found = errors(config, data, device, digest=digest, progress=progress)
    records.write_json(path, {**key, "errors": found})
    return found


def majority(data: ImageData, split: Split) -> float:
    """Error in percent of always predicting the most frequent class of the labelled rows; of equal ones, the first."""
    labels = data.labels.cpu()
    usual = labels[split.labelled].bincount(minlength=len(data.classes)).argmax()
    return _wrong(usual.expand(len(split.evaluation)), labels[split.evaluation])


def support_vectors(data: ImageData, split: Split) -> float:
    """Error in percent of a support vector machine (RBF kernel, C = 10) on standardised pixels."""
    pixels = data.images.flatten(1).float()
    machine = make_pipeline(StandardScaler(), SVC(C=10.0))
    machine.fit(pixels[split.labelled].numpy(), data.labels[split.labelled].numpy())
    return _error(machine.predict, pixels[split.evaluation].numpy(), data.labels[split.evaluation])


def _on_features(
    config: ExperimentConfig,
    data: ImageData,
    split: Split,
    device: torch.device,
    digest: str | None,
    progress: Progress | None,
) -> dict[str, float]:
    assert isinstance(config.model, Pretrained)
    frozen = config.changed(model=dataclasses.replace(config.model, frozen=True))
    with torch.random.fork_rng():
        network = frozen.model.build(data.shape, len(data.classes))
    assert isinstance(network, PretrainedNetwork)
    unlabelled = split.unlabelled if config.training.batch_unlabelled else split.unlabelled[:0]
    rows = split.rows_seen(unlabelled=bool(config.training.batch_unlabelled))
    found, _ = prepared(frozen, network, data, rows, device, digest=digest, progress=progress)
    return on_features(found.images, data.labels, dataclasses.replace(split, unlabelled=unlabelled), config.seed)


def on_features(features: Tensor, labels: Tensor, split: Split, seed: int) -> dict[str, float]:
    """Errors in percent on standardised features, float32 (N, V, D): of logistic regression, and of self-training.

    Both learn from all V views of the labelled rows, self-training also from the first view of unlabelled ones. The
    strength of logistic regression is chosen by cross-validation on labelled rows where each class has enough of them.
    """
    views = features.shape[1]
    x: Rows = features[split.labelled].flatten(0, 1).numpy()
    y = labels[split.labelled].repeat_interleave(views).numpy()
    evaluated: tuple[Rows, Tensor] = features[split.evaluation, 0].numpy(), labels[split.evaluation]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        usual = LogisticRegression(C=_strength(features, labels, split.labelled, seed), max_iter=1000)
        found = {LOGISTIC: _error(usual.fit(x, y).predict, *evaluated)}
        others = split.unlabelled[~torch.isin(split.unlabelled, split.labelled)]
        if len(others):
            itself = SelfTrainingClassifier(usual)
            itself.fit(
                np.concatenate([x, features[others, 0].numpy()]),
                np.concatenate([y, np.full(len(others), UNLABELLED)]),
            )
            found[SELF_TRAINING] = _error(itself.predict, *evaluated)
    return found


def _strength(features: Tensor, labels: Tensor, labelled: Tensor, seed: int) -> float:
    """The inverse strength C of the penalty."""
    rows = evenly_spaced(labelled, _MOST_ROWS)
    known = labels[rows]
    if min(count for count in known.bincount().tolist() if count) < _FOLDS:
        return _STRENGTHS[1]
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed % 2**32)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": _STRENGTHS}, cv=folds)
    search.fit(features[rows, 0].numpy(), known.numpy())
    return float(search.best_params_["C"])


def _error(predict: Callable[[Rows], Any], x: Rows, labels: Tensor) -> float:
    return _wrong(torch.from_numpy(predict(x)), labels)


def _wrong(predicted: Tensor, labels: Tensor) -> float:
    return 100 * float((predicted != labels).double().mean())

"""Classifiers beside the networks: they learn from the rows of the run, and from nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.classical import LOGISTIC, MAJORITY, SELF_TRAINING, VECTORS, classical
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split

CPU = torch.device("cpu")


def made(rows: int = 60, seed: int = 0) -> tuple[ImageData, Split]:
    """Images of two classes, 4 × 4 pixels, the second brighter; labelled, unlabelled and test rows."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 2
    images = torch.randint(0, 120, (rows, 1, 4, 4), generator=draw) + 60 * labels[:, None, None, None]
    data = ImageData(images.to(torch.uint8), labels, torch.arange(40, rows), 255, ("dark", "bright"))
    return data, Split(torch.arange(12), torch.arange(40), torch.arange(40, rows))


def test_the_most_frequent_class() -> None:
    data, split = made()
    labelled = torch.tensor([0, 2, 4, 1])  # Three of class 0.
    few = Split(labelled, split.unlabelled, torch.tensor([40, 42, 44, 41, 46]))
    assert classical.majority(data, few) == pytest.approx(20.0)


def test_support_vectors_against_their_parts() -> None:
    data, split = made()
    x = data.images.flatten(1).double().numpy()
    known = x[:12]
    scaled = (x - known.mean(axis=0)) / known.std(axis=0)
    machine = SVC(C=10.0).fit(scaled[:12], data.labels[:12].numpy())
    wrong = (machine.predict(scaled[40:]) != data.labels[40:].numpy()).mean()
    assert classical.support_vectors(data, split) == pytest.approx(100 * wrong)


def test_logistic_regression_sees_all_views_of_labelled_rows() -> None:
    data, split = made()
    features = torch.randn(60, 2, 5, generator=torch.Generator().manual_seed(1)) + data.labels[:, None, None]
    few = Split(torch.tensor([0, 1, 3]), torch.empty(0, dtype=torch.int64), split.evaluation)
    found = classical.on_features(features, data.labels, few, seed=0)
    assert set(found) == {LOGISTIC}, "there is nothing to label"
    x = np.concatenate([features[row].numpy() for row in (0, 1, 3)])
    by_hand = LogisticRegression(C=0.01, max_iter=1000).fit(x, [0, 0, 1, 1, 1, 1])
    wrong = (by_hand.predict(features[40:, 0].numpy()) != data.labels[40:].numpy()).mean()
    assert found[LOGISTIC] == pytest.approx(100 * wrong)


def test_self_training_against_the_classifier_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(2)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 1, 3, generator=draw) + 1.5 * labels[:, None, None]
    split = Split(torch.tensor([0, 1]), torch.arange(150), torch.arange(150, 200))
    found = classical.on_features(features, labels, split, seed=0)
    x, partly = features[:150, 0].numpy(), np.array([0, 1, *[-1] * 148])
    by_hand = SelfTrainingClassifier(LogisticRegression(C=0.01, max_iter=1000)).fit(x, partly)
    wrong = (by_hand.predict(features[150:, 0].numpy()) != labels[150:].numpy()).mean()
    assert found[SELF_TRAINING] == pytest.approx(100 * wrong)
    secret = labels.clone()
    secret[2:150] = 1 - secret[2:150]
    assert classical.on_features(features, secret, split, seed=0) == found, "no label of an unlabelled row is used"


def test_what_is_recorded_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = presets.get("images", "vadd-kl", "tiny")
    data, _ = made()
    path = tmp_path / "classic.json"
    found = classical.recorded(path, config, data, CPU, "a")
    assert set(found) == {VECTORS, MAJORITY}
    monkeypatch.setattr(classical, "errors", lambda *_, **__: {"other": 1.0})
    assert classical.recorded(path, config, data, CPU, "a") == found
    assert classical.recorded(path, config, data, CPU, "b") == {"other": 1.0}, "the data are others"

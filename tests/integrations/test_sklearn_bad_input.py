"""AdversarialDropoutClassifier: each bad input is an error of the package's own, which says what to do."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from adversarial_dropout import AdversarialDropoutError
from adversarial_dropout.integrations.sklearn import AdversarialDropoutClassifier

X = np.random.RandomState(0).randn(30, 4).astype(np.float32)
Y = np.arange(30) % 3
FEW = np.where(np.arange(30) < 15, Y, -1)


def fit(x: Any = X, y: Any = FEW, **settings: Any) -> AdversarialDropoutClassifier:
    small = {"hidden_layer_sizes": (40,), "max_iter": 2, "random_state": 0}
    return AdversarialDropoutClassifier(**{**small, **settings}).fit(x, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "vad-kl"}, r'one of plain, at, .*, got .vad-kl.; did you mean "vadd-kl"\?'),
        ({"method": "plain+vat"}, r'different names joined by "\+", without "plain", got .plain\+vat.'),
        ({"method": "vat+vat"}, r"different names"),
        ({"method": 3}, r"one of plain, .* got .3."),
        ({"weight": -1}, r"weight to be None or a finite number, 0 or more, got -1"),
        ({"weight": "1"}, r"weight to be None or a finite number, 0 or more, got .1."),
        ({"p": 50}, r"p to be in \[0, 1\], got 50"),
        ({"delta": -0.1}, r"delta to be in \[0, 1\]"),
        ({"ramp_up": 2}, r"ramp_up to be in \[0, 1\]"),
        ({"eps": 0}, r"eps to be finite and above 0"),
        ({"learning_rate": 0}, r"learning_rate to be finite and above 0"),
        ({"batch_size": 0}, r"batch_size to be a whole number, 1 or more, got 0"),
        ({"batch_size_unlabeled": 1.5}, r"batch_size_unlabeled to be a whole number"),
        ({"max_iter": 0}, r"max_iter to be a whole number, 1 or more"),
        ({"n_iter_no_change": 0}, r"n_iter_no_change to be a whole number, 1 or more"),
        ({"validation_fraction": 20}, r"validation_fraction to be in \[0, 1\], got 20"),
        ({"hidden_layer_sizes": (10, 0)}, r"hidden_layer_sizes to be a whole number, 1 or more, got 0"),
        ({"random_state": "seed"}, r"cannot be used to seed"),
        ({"device": "gpu"}, r'device to be "cpu", "cuda" or "cuda:0", got .gpu.'),
        ({"device": "meta"}, r'device to be "cpu" or "cuda", got .meta.'),
        ({"device": "cuda:99"}, r'no GPU answers to device=.cuda:99.; use device="cpu"'),
        ({"unlabeled": [-1]}, r"unlabeled to be one value, such as -1, a string, None or NaN, got list"),
        ({"module": "resnet"}, r"module to be a torch.nn.Module, or to return one .* got str"),
        ({"module": lambda shape, classes: None}, r"got NoneType"),
        ({"module": nn.Linear(4, 2)}, r"logits of shape \(2, 3\) for 2 rows and 3 classes, got \(2, 2\)"),
        ({"module": nn.LSTM(4, 3)}, r"logits of shape \(2, 3\) .*, got tuple"),
        ({"module": nn.Linear(4, 3)}, r"AdversarialDropout"),
        ({"early_stopping": True, "validation_fraction": 0.1}, r"each of 3 classes .* got 2 and 13 labelled rows"),
        ({"early_stopping": True, "validation_fraction": 0.9}, r"got 14 and 1 labelled rows"),
        ({"learning_rate": 1e30, "method": "plain"}, r"finite loss, got (nan|inf) in epoch \d; scale X, or lower"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AdversarialDropoutError, match=message):
        fit(**settings)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (scipy.sparse.csr_array(X), FEW, r"dense X, got a sparse csr_array; pass X.toarray\(\)"),
        (X.astype(complex), FEW, r"Complex data not supported"),
        (np.where(X > 1, np.nan, X), FEW, r"Input X contains NaN"),
        (np.where(X > 1, np.inf, X), FEW, r"Input X contains infinity"),
        (X[:, 0], FEW, r"Expected 2D array, got 1D array"),
        (FEW, X, r"fit\(X, y\), got X of shape \(30,\) and y of shape \(30, 4\)"),
        (X[:20], FEW, r"one label for each of 20 rows of X, got 30 labels"),
        (X[:0], FEW[:0], r"0 sample"),
        (X, np.full(30, -1), r"labels of 2 classes or more, got 0 class: \[\], in 0 labelled rows of 30; -1 stands"),
        (X, np.where(FEW == 0, 0, -1), r"got 1 class: \[0\], in 5 labelled rows of 30"),
        (X, FEW + 0.5, r"Unknown label type: continuous"),
        (X, np.where(FEW == -1, np.nan, FEW), r"y contains NaN or None in 15 of 30 rows; use unlabeled=None"),
        (X, [None, *FEW[1:]], r"y contains NaN or None in 1 of 30 rows"),
        (X, np.array([1, "a"] * 15, dtype=object), r"labels of one kind, got a mix of numbers and str"),
        (X, np.eye(3)[Y], r"y should be a 1d array"),
    ],
)
def test_rows_and_labels(x: Any, y: Any, message: str) -> None:
    with pytest.raises(AdversarialDropoutError, match=message):
        fit(x, y)


def test_the_rarest_class_has_one_label() -> None:
    y = np.where(FEW == 2, -1, FEW)
    y[2] = 2
    with pytest.raises(AdversarialDropoutError, match=r"1 of the rarest class in all; change .* early_stopping=False"):
        fit(y=y, early_stopping=True, validation_fraction=0.4)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, np.where(Y == 2, 7, Y), r"labels that fit has seen, \[0, 1, 2\], got also \[7\]"),
        (X, np.full(30, -1), r"rows with a label, got 30 rows of -1"),
        (X, np.array(["a", "b", "c"] * 10), r"labels that fit has seen, .*, got also \['a', 'b', 'c'\]"),
        (X[:, :3], Y, r"X has 3 features, but AdversarialDropoutClassifier is expecting 4 features"),
        (X[:10], Y, r"one label for each of 10 rows"),
    ],
)
def test_scoring(x: Any, y: Any, message: str) -> None:
    with pytest.raises(AdversarialDropoutError, match=message):
        fit().score(x, y)


def test_a_failed_fit_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with pytest.raises(AdversarialDropoutError):
        fit(learning_rate=1e30, method="plain")
    assert (torch.rand(2) == expected).all()

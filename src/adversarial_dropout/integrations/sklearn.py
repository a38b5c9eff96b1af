"""A scikit-learn classifier for few labels: ``fit(X, y)`` with -1 in ``y`` for rows without a label."""

import copy
import math
import numbers
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from adversarial_dropout.errors import (
    InvalidTypeError,
    InvalidValueError,
    NonFiniteError,
    check_at_least,
    check_fraction,
    check_positive,
)
from adversarial_dropout.integrations import semi_supervised
from adversarial_dropout.integrations.labels import classes_and_codes, is_labelled, own_errors

EXPECTED_FAILED_CHECKS = {
    "check_classifiers_classes": "it fits labels -1 and 1, and -1 stands for no label; scikit-learn makes the same "
    "exception for its own semi-supervised classifiers",
}
"""Checks of ``sklearn.utils.estimator_checks.check_estimator`` that the classifier fails, each with the reason."""


class AdversarialDropoutClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""Neural-network classifier that also learns from rows without a label.

    It minimises, with Adam, the cross-entropy of the labelled rows plus a regularisation term of all rows:

    .. math:: \frac{1}{|L|} \sum_{i \in L} -\log f_{y_i}(x_i) + \lambda R(x)

    where R is by default virtual adversarial dropout (eq. 5 of Park et al., AAAI 2018). Features are not scaled: put a
    ``StandardScaler`` in front.

    Args:
        method: ``"plain"`` (no term), ``"vadd-kl"``, ``"vadd-qe"``, ``"vat"``, ``"pi"``, ``"r-drop"``,
            ``"mean-teacher"``, ``"entmin"``, ``"sadd"``, ``"at"``, or several joined by ``"+"``, such as
            ``"vadd-kl+vat"``. ``"sadd"`` and ``"at"`` see only the labelled rows.
        weight: Weight λ ≥ 0 of each term. ``None``: 10 for ``"pi"``, ``"mean-teacher"`` and ``"vadd-qe"``, 1 for the
            others.
        ramp_up: Share of ``max_iter``, in [0, 1], over which the weight rises from 0 to λ.
        hidden_layer_sizes: Units of each hidden layer of the default network.
        module: The network: a ``torch.nn.Module``, which is copied, or a class or function whose call
            ``module(shape, n_classes)`` returns one. It maps float32 rows of ``shape`` to logits, and contains an
            :class:`~adversarial_dropout.AdversarialDropout` layer if ``method`` has ``"vadd"`` or ``"sadd"``. ``None``:
            hidden layers with ReLU, then ``AdversarialDropout(p, delta)`` and the last layer; images go through two
            convolutions first.
        p: Probability of *dropping* a unit of the last hidden layer, in [0, 1]; for the default network.
        delta: Share δ of these units that the search may flip, in [0, 1]; for the default network.
        eps: Length of the perturbation of ``"vat"`` (L2 norm of a row) and ``"at"`` (L∞ norm), in units of X.
        learning_rate: Learning rate of Adam. It falls to 0 along half a cosine, unless ``early_stopping``.
        batch_size: Labelled rows of a step.
        batch_size_unlabeled: Rows, labelled or not, that the term sees in a step.
        max_iter: Number of epochs. An epoch has as many steps as it takes to see every row once, with each method.
        early_stopping: Set ``validation_fraction`` of the labelled rows aside, stop when the accuracy on them has not
            risen for ``n_iter_no_change`` epochs, and return to the best epoch.
        validation_fraction: Share of the labelled rows, in (0, 1).
        n_iter_no_change: Epochs to wait.
        warm_start: Continue from the last ``fit``, if there was one.
        unlabeled: The value in ``y`` of a row without a label. ``None`` or NaN: ``None``, NaN and ``pandas.NA``.
        random_state: Seed of weights, batches, masks and noise: an integer, a ``RandomState``, or ``None`` for a new
            seed in each ``fit``. The global generators of PyTorch and NumPy are left as they were.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:0"``.
        verbose: Print a line after each epoch.

    Attributes:
        classes_: The labels, sorted.
        module_: The trained network.
        n_features_in_: Number of features (of channels, for images).
        feature_names_in_: Names of the features, if X is a data frame.
        n_iter_: Number of epochs made, those of earlier fits included under ``warm_start``.
        loss_curve_: Mean loss of each of these epochs.
        validation_scores_: Accuracy on the validation rows after each epoch of the last ``fit``; ``None`` without
            ``early_stopping``.

    Training and evaluation:
        ``fit`` trains in training mode and leaves ``module_`` in evaluation mode, in which predictions are made. The
        same ``random_state`` gives the same bits on the same machine with the same number of threads.

    Raises:
        InvalidValueError, InvalidTypeError: a parameter is out of range (``fit`` checks them); X is sparse, complex,
            not finite or has another shape than in ``fit``; y has fewer than two classes, or missing values where
            ``unlabeled`` is another value; the network does not return logits (N, n_classes).
        NonFiniteError: the loss is not finite.

    Example:
        >>> X, y = load_iris(return_X_y=True)
        >>> y[np.arange(150) % 10 > 0] = -1
        >>> make_pipeline(StandardScaler(), AdversarialDropoutClassifier(random_state=0)).fit(X, y).predict(X)
    """

    classes_: Any
    module_: nn.Module
    loss_curve_: list[float]
    validation_scores_: list[float] | None

    def __init__(
        self,
        method: str = "vadd-kl",
        *,
        weight: float | None = None,
        ramp_up: float = 1 / 3,
        hidden_layer_sizes: int | Sequence[int] = (128,),
        module: nn.Module | Callable[[tuple[int, ...], int], nn.Module] | None = None,
        p: float = 0.5,
        delta: float = 0.05,
        eps: float = 1.0,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        batch_size_unlabeled: int = 128,
        max_iter: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 20,
        warm_start: bool = False,
        unlabeled: object = -1,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.weight = weight
        self.ramp_up = ramp_up
        self.hidden_layer_sizes = hidden_layer_sizes
        self.module = module
        self.p = p
        self.delta = delta
        self.eps = eps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.batch_size_unlabeled = batch_size_unlabeled
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.unlabeled = unlabeled
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train the network on ``X``, (N, features), (N, channels, height, width) or other, with labels ``y``, (N,)."""
        device, methods = self._checked_parameters()
        if getattr(X, "ndim", 2) < getattr(y, "ndim", 1):
            raise InvalidValueError(f"expected fit(X, y), got X of shape {X.shape} and y of shape {y.shape}")
        continuing = self.warm_start and hasattr(self, "module_")
        x = self._rows(X, reset=not continuing)
        labels, labelled = is_labelled(y, self.unlabeled, len(x))
        classes, codes = classes_and_codes(labels[labelled])
        if len(classes) < 2:
            raise InvalidValueError(
                f"expected labels of 2 classes or more, got {len(classes)} class: {classes.tolist()}, in "
                f"{labelled.sum()} labelled rows of {len(x)}; {self.unlabeled!r} stands for no label"
            )
        if continuing and not np.array_equal(classes, self.classes_):
            raise InvalidValueError(
                f"expected the classes of the last fit, {self.classes_.tolist()}, because of warm_start, "
                f"got {classes.tolist()}; use warm_start=False"
            )
        seed, split_seed = self._seeds()
        rows, validation = np.flatnonzero(labelled), np.empty(0, dtype=int)
        if self.early_stopping:
            rows, validation = self._split(rows, codes, len(classes), split_seed)
        targets = torch.full((len(x),), -1)
        targets[torch.from_numpy(labelled)] = torch.from_numpy(codes)
        with semi_supervised.own_randomness(seed, device):
            if not continuing:
                sizes = (self.hidden_layer_sizes, self.p, self.delta)
                self.module_ = semi_supervised.network(self.module, x[:2], len(classes), device, *sizes)
                self._optimizer = torch.optim.Adam(self.module_.parameters(), lr=self.learning_rate)
                self.loss_curve_ = []
            self.classes_ = classes
            terms = semi_supervised.terms_of(methods, self.module_, self.weight, self.eps)
            self._train(x.to(device), targets.to(device), rows, validation, terms, device)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of shape (N, n_classes), in the order of ``classes_``."""
        check_is_fitted(self)
        device = semi_supervised.checked_device(self.device)
        logits = semi_supervised.logits_of(self.module_.to(device), self._rows(X, reset=False), device)
        return logits.double().softmax(dim=1).numpy()

    def predict(self, X: Any) -> Any:
        """Most probable class of each row, shape (N,)."""
        places = self.predict_proba(X).argmax(axis=1)
        return self.classes_[places]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on the rows of ``X`` that have a label in ``y``."""
        predicted = self.predict(X)
        labels, labelled = is_labelled(y, self.unlabeled, len(predicted))
        if not labelled.any():
            raise InvalidValueError(f"expected rows with a label, got {len(labels)} rows of {self.unlabeled!r}")
        classes, codes = classes_and_codes(labels[labelled])
        unseen = [label for label in classes.tolist() if label not in self.classes_.tolist()]
        if unseen:
            raise InvalidValueError(f"expected labels that fit has seen, {self.classes_.tolist()}, got also {unseen}")
        weights = None if sample_weight is None else np.asarray(sample_weight)[labelled]
        return float(np.average(predicted[labelled] == classes[codes], weights=weights))

    def _checked_parameters(self) -> tuple[torch.device, list[str]]:
        for name in ("p", "delta", "ramp_up", "validation_fraction"):
            check_fraction(name, getattr(self, name))
        for name in ("eps", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name in ("batch_size", "batch_size_unlabeled", "max_iter", "n_iter_no_change"):
            check_at_least(name, getattr(self, name), 1)
        if self.weight is not None and not (isinstance(self.weight, numbers.Real) and 0 <= self.weight < math.inf):
            raise InvalidValueError(f"expected weight to be None or a finite number, 0 or more, got {self.weight!r}")
        return semi_supervised.checked_device(self.device), semi_supervised.checked_method(self.method)

    def _rows(self, X: Any, *, reset: bool) -> Tensor:
        if hasattr(X, "toarray"):
            raise InvalidTypeError(
                f"expected dense X, got a sparse {type(X).__name__}; pass X.toarray(), or reduce it with TruncatedSVD"
            )
        if getattr(X, "dtype", None) == np.uint8 and X.ndim == 4:
            raise InvalidTypeError("expected floating pixels, got uint8 in [0, 255]; pass X / 255")
        with own_errors():
            rows = validate_data(self, X, reset=reset, dtype=np.float32, allow_nd=True, order="C")
        if not reset and rows.shape[1:] != self._shape:
            raise InvalidValueError(f"expected rows of shape {self._shape}, as in fit, got {rows.shape[1:]}")
        self._shape: tuple[int, ...] = rows.shape[1:]
        return torch.from_numpy(np.array(rows))

    def _seeds(self) -> tuple[int, int]:
        if self.random_state is None:
            return secrets.randbits(31), secrets.randbits(31)
        with own_errors():
            seed, split_seed = check_random_state(self.random_state).randint(2**31 - 1, size=2)
        return int(seed), int(split_seed)

    def _split(self, rows: Any, codes: Any, classes: int, seed: int) -> tuple[Any, Any]:
        held = math.ceil(self.validation_fraction * len(rows))
        if not classes <= held <= len(rows) - classes or np.bincount(codes).min() < 2:
            raise InvalidValueError(
                f"expected a labelled row of each of {classes} classes for validation and another for training, got "
                f"{held} and {len(rows) - held} labelled rows, {np.bincount(codes).min()} of the rarest class in all; "
                f"change validation_fraction={self.validation_fraction}, or use early_stopping=False"
            )
        train, validation = train_test_split(rows, test_size=held, stratify=codes, random_state=seed)
        return train, validation

    def _train(
        self, x: Tensor, y: Tensor, rows: Any, validation: Any, terms: list[semi_supervised.Term], device: torch.device
    ) -> None:
        others = np.setdiff1d(np.arange(len(y)), validation)
        labelled = semi_supervised.batches(torch.from_numpy(rows), self.batch_size)
        every = semi_supervised.batches(torch.from_numpy(others), self.batch_size_unlabeled)
        steps = max(math.ceil(len(rows) / self.batch_size), math.ceil(len(others) / self.batch_size_unlabeled))
        best, best_state, waited = -1.0, self.module_.state_dict(), 0
        self.validation_scores_ = [] if self.early_stopping else None
        for epoch in range(self.max_iter):
            schedule = [self._rate_and_share((epoch + step / steps) / self.max_iter) for step in range(steps)]
            loss = semi_supervised.train_epoch(self.module_, self._optimizer, schedule, x, y, labelled, every, terms)
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"expected a finite loss, got {loss} in epoch {epoch + 1}; scale X, or lower "
                    f"learning_rate={self.learning_rate}"
                )
            self.loss_curve_.append(loss)
            self.n_iter_ = len(self.loss_curve_)
            said = f"epoch {epoch + 1} of {self.max_iter}: loss {loss:.4f}"
            if self.validation_scores_ is not None:
                predicted = semi_supervised.logits_of(self.module_, x[validation], device).argmax(dim=1)
                accuracy = float((predicted == y[validation].cpu()).double().mean())
                self.validation_scores_.append(accuracy)
                said += f", validation accuracy {accuracy:.4f}"
                waited += 1
                if accuracy > best:
                    best, best_state, waited = accuracy, copy.deepcopy(self.module_.state_dict()), 0
            if self.verbose:
                print(said)
            if waited >= self.n_iter_no_change:
                break
        self.module_.load_state_dict(best_state)
        self.module_.eval()

    def _rate_and_share(self, done: float) -> tuple[float, float]:
        """Learning rate, and share of the weight, after a share ``done`` of ``max_iter``."""
        rate = 1.0 if self.early_stopping else 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * rate, min(1.0, done / self.ramp_up) if self.ramp_up else 1.0

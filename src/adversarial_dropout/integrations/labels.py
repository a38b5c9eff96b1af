"""Labels as scikit-learn's users have them: any dtype, some of them missing."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Raise scikit-learn's errors as this package's, with their messages."""
    try:
        yield
    except ValueError as error:
        raise InvalidValueError(str(error)) from error
    except TypeError as error:
        raise InvalidTypeError(str(error)) from error


def is_labelled(y: Any, unlabeled: object, n: int) -> tuple[Any, Any]:
    """Labels as an array, and which of its ``n`` rows have one: those that are not ``unlabeled``."""
    if not np.isscalar(unlabeled) and not _is_missing(unlabeled):
        raise InvalidTypeError(
            f"expected unlabeled to be one value, such as -1, a string, None or NaN, got {type(unlabeled).__name__}"
        )
    with own_errors():
        labels = column_or_1d(y, warn=True)
    if len(labels) != n:
        raise InvalidValueError(
            f"expected one label for each of {n} rows of X, got {len(labels)} labels; call fit(X, y)"
        )
    missing = np.array([_is_missing(label) for label in labels], dtype=bool)
    if _is_missing(unlabeled):
        return labels, ~missing
    if missing.any():
        raise InvalidValueError(
            f"Input y contains NaN or None in {missing.sum()} of {n} rows; use unlabeled=None if they have no label"
        )
    # NumPy makes strings of all labels where it finds one: ["a", -1] has the label "-1".
    value = str(unlabeled) if labels.dtype.kind in "US" else unlabeled
    return labels, np.array([not bool(label == value) for label in labels], dtype=bool)


def classes_and_codes(labels: Any) -> tuple[Any, Any]:
    """Sorted classes of the labelled rows, and the place of each label among them."""
    if labels.dtype == object and not all(isinstance(label, str) for label in labels):
        kinds = {_kind(label) for label in labels}
        if len(kinds) > 1:
            raise InvalidTypeError(f"expected labels of one kind, got a mix of {' and '.join(sorted(kinds))}")
        labels = np.array(labels.tolist())
    with own_errors():
        check_classification_targets(labels)
    return np.unique(labels, return_inverse=True)


def _kind(label: object) -> str:
    if isinstance(label, bool | np.bool_):
        return "bool"
    return "numbers" if isinstance(label, int | float | np.number) else type(label).__name__


def _is_missing(label: object) -> bool:
    if isinstance(label, float | np.floating):
        return math.isnan(label)
    return label is None or type(label).__name__ in ("NAType", "NaTType")

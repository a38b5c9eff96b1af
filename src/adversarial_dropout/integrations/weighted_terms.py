"""Several regularisers with their weights, each under a name for the log."""

import math
import numbers
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.regularizers.base import Regularizer

Weight = float | Callable[[float], float]
"""A weight λ ≥ 0, or a function from the share of the training that is done, in [0, 1], to one."""


def checked_terms(regularizer: object, weight: Weight | None) -> dict[str, tuple[Weight, Regularizer]]:
    """Weight and regulariser of each term, by the name of its class, numbered from the second of one class.

    Args:
        regularizer: A regulariser with ``reduction="mean"``, or a sequence of pairs ``(weight, regularizer)``.
        weight: The weight of a single regulariser; ``None``: 1.

    Raises:
        InvalidTypeError, InvalidValueError: an argument has another form.
    """
    if isinstance(regularizer, Regularizer):
        pairs: Sequence[Any] = [(1.0 if weight is None else weight, regularizer)]
    elif weight is not None:
        raise InvalidValueError(
            "expected weight= beside a single regulariser only; give a sequence of pairs (weight, regularizer)"
        )
    else:
        pairs = regularizer if isinstance(regularizer, Sequence) else []
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise InvalidTypeError(
            f"expected regularizer to be a regulariser or a sequence of pairs (weight, regularizer), got "
            f"{type(regularizer).__name__}; e.g. regularizer=VirtualAdversarialDropout()"
        )
    terms: dict[str, tuple[Weight, Regularizer]] = {}
    seen: Counter[str] = Counter()
    for its_weight, each in pairs:
        name = type(each).__name__
        if not isinstance(each, Regularizer):
            raise InvalidTypeError(f"expected pairs (weight, regularizer), got {name} in the place of a regulariser")
        if each.reduction != "mean":
            raise InvalidValueError(f'expected {name} with reduction="mean", got "{each.reduction}"')
        seen[name] += 1
        key = name if seen[name] == 1 else f"{name}_{seen[name]}"
        terms[key] = (its_weight if callable(its_weight) else checked_weight(its_weight), each)
    return terms


def checked_weight(weight: object) -> float:
    """A weight as a float; raise unless it is a finite number, 0 or more."""
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise InvalidTypeError(f"expected a weight to be a number, got {weight!r} ({type(weight).__name__})")
    if not 0 <= weight < math.inf:
        raise InvalidValueError(f"expected a weight to be finite and 0 or more, got {weight}")
    return float(weight)

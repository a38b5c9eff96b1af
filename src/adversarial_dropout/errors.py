"""Exceptions, the warning, and checks of arguments."""

import difflib
import numbers
from collections.abc import Iterable

import torch
from torch import Tensor

from adversarial_dropout.tracing import recording, transformed


class AdversarialDropoutError(Exception):
    """Base class of all errors that this package raises on purpose.

    Each subclass also derives from the matching built-in exception, so ``except ValueError`` works as usual.
    """


class InvalidValueError(AdversarialDropoutError, ValueError):
    """An argument has the right type but an invalid value, shape or range."""


class NonFiniteError(InvalidValueError):
    """A computed value is NaN or infinite."""


class InvalidTypeError(AdversarialDropoutError, TypeError):
    """An argument has an invalid type or dtype."""


class AdversarialDropoutWarning(UserWarning):
    """A call is valid but probably does not do what the user expects."""


def values_readable(tensor: Tensor) -> bool:
    """Whether a check may read the values of ``tensor``.

    Reading them would fail or break the graph while ``torch.compile``, ``torch.export`` or ``torch.jit`` traces, under
    the transforms of ``torch.func``, while a CUDA stream is captured, and for tensors on the meta device.
    """
    if torch.compiler.is_compiling() or recording() or tensor.is_meta or transformed(tensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest valid name, or nothing if none is close."""
    nearest = difflib.get_close_matches(str(word).casefold(), list(choices), n=1, cutoff=0.4)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InvalidValueError(
            f"expected {name} to be one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}"
        )


def check_fraction(name: str, value: float) -> None:
    """Raise unless ``value`` is a number in [0, 1]."""
    _check_number(name, value, "a number in [0, 1]")
    if not 0 <= value <= 1:
        raise InvalidValueError(f"expected {name} to be in [0, 1], got {value}; {name} is a fraction, not a percentage")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    _check_number(name, value, "a number above 0")
    if not 0 < value < float("inf"):
        raise InvalidValueError(f"expected {name} to be finite and above 0, got {value}")


def _check_number(name: str, value: object, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, float | numbers.Real):
        raise InvalidTypeError(f"expected {name} to be {expected}, got {value!r} ({type(value).__name__})")


def check_at_least(name: str, value: object, least: int, remedy: str = "") -> None:
    """Raise unless ``value`` is a whole number, ``least`` or more; the message ends with ``remedy``."""
    whole = isinstance(value, int | numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:  # type: ignore[operator]
        error = InvalidValueError if whole else InvalidTypeError
        raise error(f"expected {name} to be a whole number, {least} or more, got {value!r}{remedy}")

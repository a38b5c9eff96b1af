"""The exceptions and the warning that this package raises, and the checks that several of its files make."""

import difflib
import numbers
from collections.abc import Iterable

import torch
from torch import Tensor


class AdversarialDropoutError(Exception):
    """Base of every error this package raises on purpose.

    Each concrete class also derives from the built-in that fits, so that ``except ValueError`` keeps working.
    """


class InvalidValueError(AdversarialDropoutError, ValueError):
    """An argument has the right type and a value, shape or range that cannot be used."""


class NonFiniteError(InvalidValueError):
    """Something computed is NaN or infinite where it must be finite."""


class InvalidTypeError(AdversarialDropoutError, TypeError):
    """An argument has a type or a dtype that cannot be used."""


class AdversarialDropoutWarning(UserWarning):
    """What was asked for can be computed, but probably does not mean what its user thinks."""


def values_readable(tensor: Tensor) -> bool:
    """Whether a check may look at the values of ``tensor``.

    Always on CPU. On CUDA not while a stream is being captured, nowhere while ``torch.compile`` or ``torch.export``
    traces, and never for a tensor without data: there, looking would break the graph or fail.
    """
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest valid one, or nothing if none is near."""
    nearest = difflib.get_close_matches(str(word).casefold(), list(choices), n=1, cutoff=0.4)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``; offer the nearest."""
    if value not in choices:
        raise InvalidValueError(
            f"expected {name} to be one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}"
        )


def check_fraction(name: str, value: float) -> None:
    """Raise unless ``value`` is a real number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, float | numbers.Real):
        raise InvalidTypeError(f"expected {name} to be a number in [0, 1], got {value!r} ({type(value).__name__})")
    if not 0 <= value <= 1:
        raise InvalidValueError(f"expected {name} to be in [0, 1], got {value}; {name} is a fraction, not a percentage")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise unless ``value`` is a whole number, ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValueError(f"expected {name} to be a whole number, {least} or more, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, float | numbers.Real):
        raise InvalidTypeError(f"expected {name} to be a number above 0, got {value!r} ({type(value).__name__})")
    if not 0 < value < float("inf"):
        raise InvalidValueError(f"expected {name} to be finite and above 0, got {value}")

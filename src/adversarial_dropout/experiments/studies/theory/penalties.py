"""What the paper's Discussion says of the penalties of eqs. 13 and 16, in numbers.

The second and the third term of eq. 13 (adversarial training) and of eq. 16 (adversarial dropout), example by example:
what they do when a data point is scaled, how many pairs of example and feature have a penalty, and how often the
printed eq. 14 drops more than k features. Source: Park et al., AAAI 2018.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.experiments.studies.theory.theory import dropout_masks, input_gradients, sign_perturbation

TERMS = ("eq. 13, second", "eq. 13, third", "eq. 16, second", "eq. 16, third")
"""The four penalties: of adversarial training, then of adversarial dropout."""


@dataclass(frozen=True, kw_only=True)
class Rescaling:
    """What one change multiplies the four penalties of an example by.

    Attributes:
        change: What is changed.
        lowest: Least factor of each of :data:`TERMS` over the examples whose penalty was not 0.
        highest: The largest.
    """

    change: str
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Share of the pairs of example and feature with a penalty that is not 0.

    Attributes:
        data: Name of the data.
        coefficients: Where w is from.
        training: Share in eq. 13.
        flips: Values of k.
        dropout: Share in eq. 16 for each k; at most k / D.
    """

    data: str
    coefficients: str
    training: float
    flips: tuple[int, ...]
    dropout: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """How many features of an example are dropped, as printed in eq. 14 and by the library.

    Attributes:
        data: Name of the data, and where w is from.
        flips: k; ``None`` where each problem has its own.
        examples: Their number, those with k > 0.
        printed: Examples of which the printed rule drops more than k.
        printed_squared: Those of which it drops more than k², which a literal ‖ε_i − εˢ‖₂ ≤ k would allow.
        most: Largest number by which the printed rule exceeds k.
        ours: Examples of which the library drops more than k.
    """

    data: str
    flips: int | None
    examples: int
    printed: int
    printed_squared: int
    most: int
    ours: int


def penalties(w: Tensor, x: Tensor, y: Tensor, *, delta: float, k: int) -> Tensor:
    """The four penalties of each example, shape (4, N), in the order of :data:`TERMS`.

    Where r_i is not 0 they are 2 δ abs(r_i) ‖w‖₁ and δ² ‖w‖₁², without any feature, and 2 abs(r_i) Σ abs(x_ij w_j) and
    (Σ x_ij w_j)² over the features that are dropped. Their sums over the examples are the terms of eqs. 13 and 16.

    Args:
        w: Coefficients, shape (D,), float64.
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.
        delta: δ ≥ 0, in the unit of the features.
        k: Largest number of features to drop, between 0 and D.

    Raises:
        InvalidTypeError, InvalidValueError: A shape, dtype or number that differs from the above.
    """
    gradients = input_gradients(w, x, y)
    dropped = (1 - dropout_masks(w, x, y, k=k)) * x
    return torch.stack(
        [
            (delta * gradients).abs().sum(dim=1),
            (sign_perturbation(w, x, y, delta=delta) @ w).square(),
            (dropped * gradients).abs().sum(dim=1),
            (dropped @ w).square(),
        ]
    )


def rescalings(w: Tensor, x: Tensor, y: Tensor, *, delta: float, k: int, factor: float) -> tuple[Rescaling, ...]:
    """What scaling a data point, a feature, δ or k does to the four penalties, at the same predictions or the same w.

    w is the same before and after, so one data point's penalties do not depend on the others, and all of them may be
    scaled at once.

    Args: as :func:`penalties`; ``factor`` c > 0 is what is multiplied by.
    """
    before = penalties(w, x, y, delta=delta, k=k)

    def compared(change: str, after: Sequence[Tensor]) -> Rescaling:
        factors = [[a[now > 0] / now[now > 0] for a, now in zip(one, before, strict=True)] for one in after]
        together = [torch.cat(of_term) for of_term in zip(*factors, strict=True)]
        return Rescaling(
            change=change,
            lowest=tuple(float(term.min()) for term in together),
            highest=tuple(float(term.max()) for term in together),
        )

    residuals = y - x @ w
    scaled = factor * x
    units = []
    for feature in range(x.shape[1]):
        one, other = x.clone(), w.clone()
        one[:, feature] *= factor
        other[feature] /= factor
        units.append(penalties(other, one, y, delta=delta, k=k))
    c = f"{factor:g}"
    more = min(k + 1, x.shape[1])
    return (
        compared(f"features of a data point × {c}, its residual kept", [
            penalties(w, scaled, scaled @ w + residuals, delta=delta, k=k)
        ]),
        compared(f"features of a data point × {c}, its target kept", [penalties(w, scaled, y, delta=delta, k=k)]),
        compared(f"features and target of a data point × {c}", [penalties(w, scaled, factor * y, delta=delta, k=k)]),
        compared(f"one feature of all × {c}, its coefficient / {c}", units),
        compared(f"δ × {c}", [penalties(w, x, y, delta=factor * delta, k=k)]),
        compared(f"k = {more} for k = {k}", [penalties(w, x, y, delta=delta, k=more)]),
    )  # fmt: skip


def activity(w: Tensor, x: Tensor, y: Tensor, *, flips: Sequence[int], data: str, coefficients: str) -> Activity:
    """Count the pairs (i, j) with a penalty: x_ij is moved by δ against the gradient, or is dropped and contributes.

    Args:
        w: Coefficients, shape (D,), float64.
        x: Features, shape (N, D), float64.
        y: Targets, shape (N,), float64.
        flips: Values of k, each between 0 and D.
        data: Name of the data.
        coefficients: Where w is from.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`penalties`.
    """
    gradients = input_gradients(w, x, y)
    dropped = [(1 - dropout_masks(w, x, y, k=k)) * x * gradients != 0 for k in flips]
    return Activity(
        data=data,
        coefficients=coefficients,
        training=float((gradients != 0).double().mean()),
        flips=tuple(flips),
        dropout=tuple(float(pairs.double().mean()) for pairs in dropped),
    )


def dropped(problems: Iterable[tuple[Tensor, Tensor, Tensor, int]], *, data: str, flips: int | None = None) -> Dropped:
    """Count what the printed rule and the library drop.

    Args:
        problems: w (D,), x (N, D), y (N,) and k of each; those with k = 0 are left out, as eq. 14 has no s_i0.
        data: Name of the data.
        flips: k, if it is the same everywhere.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`penalties`.
    """
    beyond, squared, ours = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0)]
    for w, x, y, k in problems:
        if k:
            by_print, by_us = ((dropout_masks(w, x, y, k=k, printed=p) == 0).sum(dim=1) for p in (True, False))
            beyond.append(by_print - k)
            squared.append(by_print - k * k)
            ours.append(by_us - k)
    over, over_squared, over_ours = (torch.cat(counts) for counts in (beyond, squared, ours))
    return Dropped(
        data=data,
        flips=flips,
        examples=len(over),
        printed=int((over > 0).sum()),
        printed_squared=int((over_squared > 0).sum()),
        most=max(int(over.max()), 0) if len(over) else 0,
        ours=int((over_ours > 0).sum()),
    )

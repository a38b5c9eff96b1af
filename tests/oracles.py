"""Slow reference versions of the package's computations, with Python loops and floats and no code of the package.

A mask is a list of 0 and 1, J a list of floats, logits a list of floats: always one example.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

Pair = tuple[Sequence[float], Sequence[float]]


def linearised_objective(mask: Sequence[int], jacobian: Sequence[float]) -> Fraction:
    """Σ J_i ε_i without rounding."""
    return sum((Fraction(j) for bit, j in zip(mask, jacobian, strict=True) if bit), Fraction(0))


def brute_force_mask(mask: Sequence[int], jacobian: Sequence[float], max_flips: int) -> list[int]:
    """The best mask within the budget (eq. 10); among equals, the one with the fewest flips and the lowest units.

    ``combinations`` goes from few flips to many and from low units to high, and only a better mask replaces one.
    """
    gain = [(1 - 2 * bit) * Fraction(j) for bit, j in zip(mask, jacobian, strict=True)]
    best: tuple[int, ...] = ()
    best_gain = Fraction(0)
    for count in range(min(max_flips, len(mask)) + 1):
        for units in combinations(range(len(mask)), count):
            total = sum((gain[unit] for unit in units), Fraction(0))
            if total > best_gain:
                best, best_gain = units, total
    return [1 - bit if unit in best else bit for unit, bit in enumerate(mask)]


def algorithm_1(mask: Sequence[int], jacobian: Sequence[float], max_flips: int) -> list[int]:
    """Algorithm 1, line by line, with two corrections.

    z is sorted by |J| in descending order (printed: ascending), and the loop stops after ``max_flips`` flips (printed:
    the distance is tested with ≤ before a flip, which allows one flip more). Equal |J|: lower unit first.
    """
    adversarial = list(mask)
    order = sorted(range(len(mask)), key=lambda unit: (-abs(jacobian[unit]), unit))
    flips = 0
    for unit in order:
        if flips == max_flips:
            break
        if adversarial[unit] == 0 and jacobian[unit] > 0:
            adversarial[unit] = 1
            flips += 1
        elif adversarial[unit] == 1 and jacobian[unit] < 0:
            adversarial[unit] = 0
            flips += 1
    return adversarial


def printed_algorithm_1(
    mask: Sequence[int], jacobian: Sequence[float], bound: float, *, largest_first: bool = False, count: bool = False
) -> list[int]:
    """Algorithm 1 exactly as printed: z in ascending order, and ‖εˢ − ε‖₂ ≤ δH tested before a flip; ``bound`` is δH.

    ``largest_first`` and ``count`` (flips instead of the norm) correct one slip each.
    """
    adversarial = list(mask)
    order = sorted(range(len(mask)), key=lambda unit: -abs(jacobian[unit]) if largest_first else abs(jacobian[unit]))
    d = 1
    while d <= len(mask):
        flips = sum((a - b) ** 2 for a, b in zip(mask, adversarial, strict=True))
        if (flips if count else math.sqrt(flips)) > bound:
            break
        unit = order[d - 1]
        if adversarial[unit] == 0 and jacobian[unit] > 0:
            adversarial[unit] = 1
        elif adversarial[unit] == 1 and jacobian[unit] < 0:
            adversarial[unit] = 0
        d += 1
    return adversarial


def log_softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - log_sum for logit in logits]


def softmax(logits: Sequence[float]) -> list[float]:
    return [math.exp(value) for value in log_softmax(logits)]


def one_hot(label: int, classes: int) -> list[float]:
    """The distribution of a label, which no finite logits reach."""
    return [float(c == label) for c in range(classes)]


def cross_entropy(t: Sequence[float], logits: Sequence[float]) -> float:
    """−Σ t log q, of a distribution t."""
    return -sum(a * b for a, b in zip(t, log_softmax(logits), strict=True))


def kl_divergence(t: Sequence[float], logits: Sequence[float]) -> float:
    """Σ t log(t / q), of a distribution t; 0 log 0 is 0."""
    return sum(a * (math.log(a) - b) for a, b in zip(t, log_softmax(logits), strict=True) if a > 0)


def quadratic_error(t: Sequence[float], logits: Sequence[float]) -> float:
    """Mean over classes of (t − q)², of a distribution t."""
    return sum((a - b) ** 2 for a, b in zip(t, softmax(logits), strict=True)) / len(t)


def _through_softmax(probabilities: Sequence[float], gradient: Sequence[float]) -> list[float]:
    """Gradient by logits from the gradient by their softmax p: p_j (g_j − Σ_c p_c g_c)."""
    mean = sum(p * g for p, g in zip(probabilities, gradient, strict=True))
    return [p * (g - mean) for p, g in zip(probabilities, gradient, strict=True)]


def cross_entropy_gradients(target: Sequence[float], prediction: Sequence[float]) -> Pair:
    """By the target's and by the prediction's logits, derived by hand: t_j (−log q_j − D) and q_j − t_j."""
    t, q, log_q = softmax(target), softmax(prediction), log_softmax(prediction)
    by_prediction = [b - a for a, b in zip(t, q, strict=True)]
    return _through_softmax(t, [-value for value in log_q]), by_prediction


def kl_divergence_gradients(target: Sequence[float], prediction: Sequence[float]) -> Pair:
    """By the target's and by the prediction's logits: t_j (log t_j − log q_j − D) and q_j − t_j."""
    t, q = softmax(target), softmax(prediction)
    log_ratio = [a - b for a, b in zip(log_softmax(target), log_softmax(prediction), strict=True)]
    by_prediction = [b - a for a, b in zip(t, q, strict=True)]
    return _through_softmax(t, log_ratio), by_prediction


def quadratic_error_gradients(target: Sequence[float], prediction: Sequence[float]) -> Pair:
    """By the target's and by the prediction's logits: 2 (t − q) / C and its negative, each through its softmax."""
    t, q = softmax(target), softmax(prediction)
    slope = [2 * (a - b) / len(t) for a, b in zip(t, q, strict=True)]
    return _through_softmax(t, slope), _through_softmax(q, [-value for value in slope])


VALUES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "ce": cross_entropy,
    "kl": kl_divergence,
    "qe": quadratic_error,
}
"""D of a *distribution* t and logits."""

GRADIENTS: dict[str, Callable[[Sequence[float], Sequence[float]], Pair]] = {
    "ce": cross_entropy_gradients,
    "kl": kl_divergence_gradients,
    "qe": quadratic_error_gradients,
}
"""Gradients of D by the target's logits and by the prediction's."""

"""Divergences D(target, prediction): one value per example, computed from logits.

The target is either logits of the prediction's shape or integer labels, which stand for one-hot distributions. Half
precision is computed and returned in float32.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from adversarial_dropout.errors import (
    AdversarialDropoutWarning,
    InvalidTypeError,
    InvalidValueError,
    did_you_mean,
    values_readable,
)

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``(target, prediction) -> values of shape (N,)``."""


def cross_entropy(target: Tensor, prediction: Tensor) -> Tensor:
    r"""Cross-entropy :math:`-\sum_c t_c \log q_c` between the softmaxes t of the target and q of the prediction.

    This is the paper's example of a divergence D (after eq. 1).

    Args:
        target: Logits of shape (N, C), or integer labels in [0, C) of shape (N,).
        prediction: Floating logits of shape (N, C).

    Returns:
        Values ≥ 0 in nats, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    labels = _are_labels(target, prediction)
    log_q = _log_softmax("prediction", prediction)
    if labels:
        return -log_q.gather(1, target.long().unsqueeze(1)).squeeze(1)
    return -(_log_softmax("target", target).exp() * log_q).sum(dim=1)


def kl_divergence(target: Tensor, prediction: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence :math:`\sum_c t_c (\log t_c - \log q_c)` of the target from the prediction.

    With labels it equals :func:`cross_entropy`, because a one-hot target has no entropy.

    Args:
        target: Logits of shape (N, C), or integer labels in [0, C) of shape (N,).
        prediction: Floating logits of shape (N, C).

    Returns:
        Values ≥ 0 (up to rounding) in nats, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    if _are_labels(target, prediction):
        return cross_entropy(target, prediction)
    log_t = _log_softmax("target", target)
    return (log_t.exp() * (log_t - _log_softmax("prediction", prediction))).sum(dim=1)


def quadratic_error(target: Tensor, prediction: Tensor) -> Tensor:
    r"""Quadratic error :math:`\frac{1}{C}\sum_c (t_c - q_c)^2` of the softmaxes: the *mean* over the classes.

    The paper does not say whether it takes the sum or the mean. The authors' code takes the mean, so the paper's
    weights λ = 25 and λ = 30 are read on that scale.

    Args:
        target: Logits of shape (N, C), or integer labels in [0, C) of shape (N,).
        prediction: Floating logits of shape (N, C).

    Returns:
        Values in [0, 2 / C], shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    labels = _are_labels(target, prediction)
    q = _log_softmax("prediction", prediction).exp()
    if labels:
        t = (target.long().unsqueeze(1) == torch.arange(q.shape[1], device=q.device)).to(q.dtype)
    else:
        t = _log_softmax("target", target).exp()
    return (t - q).square().mean(dim=1)


_BY_NAME: dict[str, Divergence] = {"kl": kl_divergence, "qe": quadratic_error, "ce": cross_entropy}


def resolve_divergence(divergence: str | Divergence) -> Divergence:
    """The function of the name ``"kl"``, ``"qe"`` or ``"ce"``, or the given function with its results checked."""
    if callable(divergence):
        return partial(_one_per_example, divergence)
    if isinstance(divergence, str) and divergence in _BY_NAME:
        return _BY_NAME[divergence]
    raise InvalidValueError(
        f'expected divergence to be "kl", "qe", "ce" or a function (target, prediction) -> (N,), '
        f"got {divergence!r}{did_you_mean(divergence, _BY_NAME)}"
    )


def _one_per_example(divergence: Divergence, target: Tensor, prediction: Tensor) -> Tensor:
    values: object = divergence(target, prediction)
    if not isinstance(values, Tensor) or values.shape != prediction.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidValueError(
            f"expected the divergence to return one value per example, shape ({prediction.shape[0]},), got {shape}; "
            f"reduce over all dimensions but the first"
        )
    return values


def _are_labels(target: Tensor, prediction: Tensor) -> bool:
    """Check both arguments; whether the target is labels rather than logits."""
    if not prediction.is_floating_point():
        raise InvalidTypeError(f"expected prediction to be floating logits, got {prediction.dtype}")
    if prediction.dim() != 2 or prediction.shape[1] == 0:
        raise InvalidValueError(f"expected prediction to be logits of shape (N, C), got {tuple(prediction.shape)}")
    n, classes = prediction.shape
    if target.is_floating_point():
        if target.shape != prediction.shape:
            raise InvalidValueError(
                f"expected target logits of the prediction's shape {(n, classes)}, got {tuple(target.shape)}"
                f"{'; labels must be integers: pass y.long()' if target.shape[:1] == (n,) else ''}"
            )
        return False
    if target.dtype == torch.bool or target.is_complex():
        raise InvalidTypeError(f"expected target to be integer labels or floating logits, got {target.dtype}")
    if target.shape != (n,):
        raise InvalidValueError(f"expected labels of shape ({n},), got {tuple(target.shape)}")
    if n and values_readable(target):
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise InvalidValueError(
                f"expected labels in [0, {classes}) for {classes} classes, got values from {low} to {high}; number the "
                f"classes from 0, and use -1 for rows without a label in a regulariser's y"
            )
    return True


def _log_softmax(name: str, logits: Tensor) -> Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if values_readable(logits) and _look_like_probabilities(logits.detach()):
        warnings.warn(
            f"{name} looks like probabilities (rows in [0, 1] that sum to 1); pass logits, before the softmax",
            AdversarialDropoutWarning,
            stacklevel=3,
        )
    return F.log_softmax(logits, dim=1)


def _look_like_probabilities(logits: Tensor) -> bool:
    if logits.shape[0] == 0 or logits.shape[1] < 2 or bool((logits < 0).any()):
        return False
    return bool(((logits.sum(dim=1) - 1).abs() < 1e-3).all())

"""Divergences ``D(target, prediction)``: one value per example, from logits.

The target is either logits of the same shape as the prediction, or integer labels, which stand for one-hot
distributions. Half precision is computed, and returned, in float32.
"""

import warnings
from collections.abc import Callable

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
    r"""Cross-entropy :math:`-\sum_c t_c \log q_c` of softmaxes t (target) and q (prediction).

    The paper's example of a divergence D (after its eq. 1).

    Args:
        target: Logits, shape (N, C), or integer labels in [0, C), shape (N,).
        prediction: Logits, shape (N, C), floating.

    Returns:
        Values ≥ 0 in nats, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: dtype, shape or label range differ from the above.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    log_q = _log_softmax("prediction", prediction)
    if _is_labels(target, prediction):
        return -log_q.gather(1, target.long().unsqueeze(1)).squeeze(1)
    return -(_log_softmax("target", target).exp() * log_q).sum(dim=1)


def kl_divergence(target: Tensor, prediction: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence :math:`\sum_c t_c (\log t_c - \log q_c)`, target ‖ prediction.

    With labels it equals :func:`cross_entropy`, because a one-hot target has no entropy.

    Args:
        target: Logits, shape (N, C), or integer labels in [0, C), shape (N,).
        prediction: Logits, shape (N, C), floating.

    Returns:
        Values ≥ 0 (up to rounding) in nats, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: dtype, shape or label range differ from the above.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    if _is_labels(target, prediction):
        return cross_entropy(target, prediction)
    log_t = _log_softmax("target", target)
    return (log_t.exp() * (log_t - _log_softmax("prediction", prediction))).sum(dim=1)


def quadratic_error(target: Tensor, prediction: Tensor) -> Tensor:
    r"""Quadratic error :math:`\frac{1}{C}\sum_c (t_c - q_c)^2` of softmaxes: the *mean* over classes.

    The paper does not say whether it is a sum or a mean. The authors' code takes this mean; λ = 25 is read on that
    scale, and so is the 30 of MNIST, which their code lacks.

    Args:
        target: Logits, shape (N, C), or integer labels in [0, C), shape (N,).
        prediction: Logits, shape (N, C), floating.

    Returns:
        Values in [0, 2 / C], shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: dtype, shape or label range differ from the above.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    q = _log_softmax("prediction", prediction).exp()
    if _is_labels(target, prediction):
        t = (target.long().unsqueeze(1) == torch.arange(q.shape[1], device=q.device)).to(q.dtype)
    else:
        t = _log_softmax("target", target).exp()
    return (t - q).square().mean(dim=1)


_BY_NAME: dict[str, Divergence] = {"kl": kl_divergence, "qe": quadratic_error, "ce": cross_entropy}


def resolve_divergence(divergence: str | Divergence) -> Divergence:
    """Turn ``"kl"``, ``"qe"``, ``"ce"`` or a function ``(target, prediction) -> (N,)`` into the function."""
    if callable(divergence):
        return divergence
    if isinstance(divergence, str) and divergence in _BY_NAME:
        return _BY_NAME[divergence]
    raise InvalidValueError(
        f'expected divergence to be "kl", "qe", "ce" or a function (target, prediction) -> (N,), '
        f"got {divergence!r}{did_you_mean(divergence, _BY_NAME)}"
    )


def _is_labels(target: Tensor, prediction: Tensor) -> bool:
    """Check the pair; tell labels (``True``) from logits (``False``)."""
    _check_logits("prediction", prediction)
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
                f"expected labels in [0, {classes}) for {classes} classes, got values from {low} to {high}; count "
                f"classes from 0, and mark rows without a label as -1 in a regulariser's y"
            )
    return True


def _check_logits(name: str, logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise InvalidTypeError(f"expected {name} to be floating logits, got {logits.dtype}")
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise InvalidValueError(f"expected {name} to be logits of shape (N, C), got {tuple(logits.shape)}")


def _log_softmax(name: str, logits: Tensor) -> Tensor:
    _check_logits(name, logits)
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

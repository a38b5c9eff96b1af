"""Divergences D(target, prediction): one value per example, the mean over its positions that count.

Targets are logits of the prediction's shape, or integer labels. Half precision is computed and returned in float32.
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
from adversarial_dropout.logits import as_two_classes, check_floating, classes_last, counted_only, per_example

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``(target, prediction) -> values of shape (N,)``, or of the mask's shape if there is a mask."""
MaskedDivergence = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(target, prediction, mask) -> values of shape (N,)``."""


def cross_entropy(
    target: Tensor, prediction: Tensor, *, class_dim: int | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Cross-entropy :math:`-\sum_c t_c \log q_c` between the softmaxes t of the target and q of the prediction.

    This is the paper's example of a divergence D (after eq. 1). Classes with :math:`t_c = 0` contribute 0, also where
    both logits are −∞.

    Args:
        target: Logits of the prediction's shape, or integer labels in [0, C) of that shape without the classes.
        prediction: Floating logits of shape (N, C), C ≥ 2, or with positions, such as (N, C, H, W) or (N, T, C).
        class_dim: The dimension of the classes; required with positions. 1 for (N, C, H, W), -1 for (N, T, C).
        mask: Bool, the shape of the positions, e.g. (N, T), or its first dimensions: ``True`` = the position counts.

    Returns:
        Values ≥ 0 in nats, shape (N,): the mean over the positions that count, 0 if none counts. Gradients flow into
        both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    target, prediction, labels = classes_last(target, prediction, class_dim, mask)
    log_q = _log_softmax("prediction", prediction)
    if labels:
        return per_example(-log_q.gather(-1, target.long().unsqueeze(-1)).squeeze(-1), mask)
    t = _log_softmax("target", target).exp()
    return per_example(-(t * log_q.masked_fill(t == 0, 0)).sum(dim=-1), mask)


def kl_divergence(
    target: Tensor, prediction: Tensor, *, class_dim: int | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Kullback–Leibler divergence :math:`\sum_c t_c (\log t_c - \log q_c)` of the target from the prediction.

    With labels it equals :func:`cross_entropy`, because a one-hot target has no entropy. Classes with :math:`t_c = 0`
    contribute 0, also where both logits are −∞.

    Args:
        target: Logits of the prediction's shape, or integer labels in [0, C) of that shape without the classes.
        prediction: Floating logits of shape (N, C), C ≥ 2, or with positions, such as (N, C, H, W) or (N, T, C).
        class_dim: The dimension of the classes; required with positions. 1 for (N, C, H, W), -1 for (N, T, C).
        mask: Bool, the shape of the positions, e.g. (N, T), or its first dimensions: ``True`` = the position counts.

    Returns:
        Values ≥ 0 (up to rounding) in nats, shape (N,): the mean over the positions that count, 0 if none counts.
        Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    if not target.is_floating_point():
        return cross_entropy(target, prediction, class_dim=class_dim, mask=mask)
    target, prediction, _ = classes_last(target, prediction, class_dim, mask)
    log_t = _log_softmax("target", target)
    t = log_t.exp()
    return per_example((t * (log_t - _log_softmax("prediction", prediction)).masked_fill(t == 0, 0)).sum(-1), mask)


def quadratic_error(
    target: Tensor, prediction: Tensor, *, class_dim: int | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Quadratic error :math:`\frac{1}{C}\sum_c (t_c - q_c)^2` of the softmaxes: the *mean* over the classes.

    The paper does not say whether it takes the sum or the mean. The authors' code takes the mean, so the paper's
    weights λ = 25 and λ = 30 are read on that scale.

    Args:
        target: Logits of the prediction's shape, or integer labels in [0, C) of that shape without the classes.
        prediction: Floating logits of shape (N, C), C ≥ 2, or with positions, such as (N, C, H, W) or (N, T, C).
        class_dim: The dimension of the classes; required with positions. 1 for (N, C, H, W), -1 for (N, T, C).
        mask: Bool, the shape of the positions, e.g. (N, T), or its first dimensions: ``True`` = the position counts.

    Returns:
        Values in [0, 2 / C], shape (N,): the mean over the positions that count, 0 if none counts. Gradients flow into
        both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.

    Warns:
        AdversarialDropoutWarning: an argument looks like probabilities instead of logits.
    """
    target, prediction, labels = classes_last(target, prediction, class_dim, mask)
    q = _log_softmax("prediction", prediction).exp()
    if labels:
        t = (target.long().unsqueeze(-1) == torch.arange(q.shape[-1], device=q.device)).to(q.dtype)
    else:
        t = _log_softmax("target", target).exp()
    return per_example((t - q).square().mean(dim=-1), mask)


def bernoulli_cross_entropy(target: Tensor, prediction: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Cross-entropy :math:`-t \log q - (1 - t) \log(1 - q)` of the sigmoids t and q.

    The mean over an example's logits; for one logit per example and for multi-label models.

    Args:
        target: Logits of the prediction's shape, or labels of it: bool, or integers 0 and 1.
        prediction: Floating logits of shape (N,) or (N, ...).
        mask: Bool, the prediction's shape or its first dimensions: ``True`` = the logit counts.

    Returns:
        Values ≥ 0 in nats, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.
    """
    return cross_entropy(*as_two_classes(target, prediction), class_dim=-1, mask=mask)


def bernoulli_kl_divergence(target: Tensor, prediction: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""KL divergence :math:`t \log\frac{t}{q} + (1 - t) \log\frac{1 - t}{1 - q}` of the sigmoids t and q.

    The mean over an example's logits; for one logit per example and for multi-label models. With labels it equals
    :func:`bernoulli_cross_entropy`.

    Args:
        target: Logits of the prediction's shape, or labels of it: bool, or integers 0 and 1.
        prediction: Floating logits of shape (N,) or (N, ...).
        mask: Bool, the prediction's shape or its first dimensions: ``True`` = the logit counts.

    Returns:
        Values ≥ 0 (up to rounding) in nats, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.
    """
    return kl_divergence(*as_two_classes(target, prediction), class_dim=-1, mask=mask)


def bernoulli_quadratic_error(target: Tensor, prediction: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Quadratic error :math:`(t - q)^2` of the sigmoids t and q.

    The mean over an example's logits; for one logit per example and for multi-label models.

    Args:
        target: Logits of the prediction's shape, or labels of it: bool, or integers 0 and 1.
        prediction: Floating logits of shape (N,) or (N, ...).
        mask: Bool, the prediction's shape or its first dimensions: ``True`` = the logit counts.

    Returns:
        Values in [0, 1], shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype, shape or label is invalid.
    """
    return quadratic_error(*as_two_classes(target, prediction), class_dim=-1, mask=mask)


def squared_error(target: Tensor, prediction: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Squared error :math:`(t - q)^2` of the outputs themselves, the mean over an example's outputs: for regression.

    Args:
        target: Outputs, or values to predict, of the prediction's shape.
        prediction: Floating outputs of shape (N,) or (N, ...).
        mask: Bool, the prediction's shape or its first dimensions: ``True`` = the output counts.

    Returns:
        Values ≥ 0 in squared units of the output, shape (N,). Gradients flow into both arguments.

    Raises:
        InvalidTypeError, InvalidValueError: a dtype or shape is invalid.
    """
    check_floating(prediction)
    if target.is_complex():
        raise InvalidTypeError(f"expected a real target, got {target.dtype}")
    if target.shape != prediction.shape or prediction.dim() == 0:
        raise InvalidValueError(
            f"expected target of the prediction's shape {tuple(prediction.shape)}, got {tuple(target.shape)}"
            f"{'' if prediction.dim() else '; both need a batch dimension'}"
        )
    prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    target = counted_only(mask, target.to(prediction.dtype), classes=False)
    return per_example((target - counted_only(mask, prediction, classes=False)).square(), mask)


_SOFTMAX = {"kl": kl_divergence, "qe": quadratic_error, "ce": cross_entropy}
_OF_EACH_OUTPUT = {
    "bernoulli_kl": bernoulli_kl_divergence,
    "bernoulli_qe": bernoulli_quadratic_error,
    "bernoulli_ce": bernoulli_cross_entropy,
    "squared_error": squared_error,
}
_ALSO_CALLED = {"bce": "bernoulli_ce", "mse": "squared_error"}
NAMES = (*_SOFTMAX, *_OF_EACH_OUTPUT)


def resolve_divergence(divergence: str | Divergence, class_dim: int | None = None) -> MaskedDivergence:
    """The function of a name in ``NAMES``, or the given function with its results checked.

    Raises:
        InvalidValueError: the name is unknown, or ``class_dim`` is given with a divergence that has no classes.
    """
    if isinstance(divergence, str) and divergence in _SOFTMAX:
        return partial(_masked, partial(_SOFTMAX[divergence], class_dim=class_dim))
    if not callable(divergence) and divergence not in _OF_EACH_OUTPUT:
        known = f'; did you mean "{_ALSO_CALLED[divergence]}"?' if divergence in _ALSO_CALLED else None
        raise InvalidValueError(
            f"expected divergence to be one of {', '.join(NAMES)}, or a function (target, prediction) -> (N,), "
            f"got {divergence!r}{known or did_you_mean(divergence, NAMES)}"
        )
    if class_dim is not None:
        raise InvalidValueError(
            f"expected class_dim only with {', '.join(_SOFTMAX)}, got class_dim={class_dim} with {divergence!r}, "
            f"which has no dimension of classes; leave it out"
        )
    if callable(divergence):
        return partial(_of_function, divergence)
    return partial(_masked, _OF_EACH_OUTPUT[divergence])


def _masked(divergence: Callable[..., Tensor], target: Tensor, prediction: Tensor, mask: Tensor | None) -> Tensor:
    return divergence(target, prediction, mask=mask)


def _of_function(divergence: Divergence, target: Tensor, prediction: Tensor, mask: Tensor | None) -> Tensor:
    values: object = divergence(target, prediction)
    expected = prediction.shape[:1] if mask is None else mask.shape
    if not isinstance(values, Tensor) or values.shape != expected:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        of_each, others = ("example", "the first") if len(expected) == 1 else ("position", "those of the mask")
        raise InvalidValueError(
            f"expected the divergence to return one value per {of_each}, shape {tuple(expected)}, got {shape}; reduce "
            f"over all dimensions but {others}"
        )
    return values if mask is None else per_example(values, mask)


def _log_softmax(name: str, logits: Tensor) -> Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if values_readable(logits) and _look_like_probabilities(logits.detach()):
        warnings.warn(
            f"{name} looks like probabilities (rows in [0, 1] that sum to 1); pass logits, before the softmax",
            AdversarialDropoutWarning,
            stacklevel=3,
        )
    return F.log_softmax(logits, dim=-1)


def _look_like_probabilities(logits: Tensor) -> bool:
    if logits.numel() == 0 or bool((logits < 0).any()):
        return False
    return bool(((logits.sum(dim=-1) - 1).abs() < 1e-3).all())

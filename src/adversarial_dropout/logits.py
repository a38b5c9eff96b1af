"""What the divergences ask of logits, labels and masks, and the mean over an example's positions."""

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, values_readable


def per_example(values: Tensor, mask: Tensor | None) -> Tensor:
    """From a value for each position to one for each example: the mean over the positions that count."""
    if mask is None:
        return values if values.dim() == 1 else values.flatten(1).mean(dim=1)
    if mask.shape != values.shape[: mask.dim()] or mask.dim() == 0:
        raise InvalidValueError(
            f"expected a mask of shape {tuple(values.shape)}, one entry per position, or of its first dimensions, got "
            f"{tuple(mask.shape)}"
        )
    mask = mask.view(*mask.shape, *(1,) * (values.dim() - mask.dim())).expand_as(values)
    counted = values.where(mask, torch.zeros_like(values))
    return counted if values.dim() == 1 else counted.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def check_floating(prediction: Tensor) -> None:
    """Raise unless ``prediction`` is floating."""
    if not prediction.is_floating_point():
        raise InvalidTypeError(f"expected prediction to be floating logits, got {prediction.dtype}")


def classes_last(target: Tensor, prediction: Tensor, class_dim: int | None) -> tuple[Tensor, Tensor, bool]:
    """Check both arguments and move the classes to the last dimension; whether the target is labels."""
    check_floating(prediction)
    shape = tuple(prediction.shape)
    if len(shape) < 2 or 0 in shape[1:]:
        raise InvalidValueError(
            f"expected prediction to be logits of shape (N, C), got {shape}"
            f"{'; for one logit per example use a divergence named bernoulli_…' if len(shape) == 1 else ''}"
        )
    if class_dim is None and len(shape) > 2:
        raise InvalidValueError(
            f"expected prediction to be logits of shape (N, C), got {shape}; with positions say which dimension holds "
            f"the classes: class_dim=1 for (N, C, H, W), class_dim=-1 for (N, T, C)"
        )
    class_dim = 1 if class_dim is None else class_dim
    if not isinstance(class_dim, int) or not -len(shape) < class_dim < len(shape) or class_dim == 0:
        raise InvalidValueError(
            f"expected class_dim to be a dimension of {shape} other than 0, the batch, got {class_dim!r}"
        )
    if shape[class_dim] == 1:
        raise InvalidValueError(
            f"expected logits of two or more classes, got {shape}: the softmax of one logit is 1 for every input; use "
            f'"bernoulli_kl", "bernoulli_qe" or "bernoulli_ce" for one logit, "squared_error" for regression'
        )
    moved = prediction.movedim(class_dim, -1)
    if target.is_floating_point():
        if target.shape != prediction.shape:
            raise InvalidValueError(
                f"expected target logits of the prediction's shape {shape}, got {tuple(target.shape)}"
                f"{'; labels must be integers: pass y.long()' if target.shape == moved.shape[:-1] else ''}"
            )
        return target.movedim(class_dim, -1), moved, False
    if target.dtype == torch.bool or target.is_complex():
        raise InvalidTypeError(f"expected target to be integer labels or floating logits, got {target.dtype}")
    if target.shape != moved.shape[:-1]:
        raise InvalidValueError(f"expected labels of shape {tuple(moved.shape[:-1])}, got {tuple(target.shape)}")
    _check_labels(target, moved.shape[-1])
    return target, moved, True


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and values_readable(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InvalidValueError(
                f"expected labels in [0, {classes}) for {classes} classes, got values from {low} to {high}; number the "
                f"classes from 0, and use -1 for rows without a label in a regulariser's y"
            )


def as_two_classes(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Logits z of a Bernoulli distribution as logits (0, z) of two classes; labels stay labels."""
    check_floating(prediction)
    if target.shape != prediction.shape or prediction.dim() == 0:
        raise InvalidValueError(
            f"expected target logits or labels of the prediction's shape {tuple(prediction.shape)}, got "
            f"{tuple(target.shape)}; both need a batch dimension"
        )
    two = torch.stack([torch.zeros_like(prediction), prediction], dim=-1)
    if target.is_floating_point():
        return torch.stack([torch.zeros_like(target), target], dim=-1), two
    return (target.long() if target.dtype == torch.bool else target), two

"""What the divergences ask of logits, labels and masks, and the mean over an example's positions."""

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, values_readable


def per_example(values: Tensor, mask: Tensor | None) -> Tensor:
    """From a value for each position to one for each example: the mean over the positions that count."""
    if mask is None:
        return values if values.dim() == 1 else values.flatten(1).mean(dim=1)
    mask = of_shape(mask, values.shape)
    counted = values.where(mask, torch.zeros_like(values))
    return counted if values.dim() == 1 else counted.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def of_shape(mask: Tensor, shape: torch.Size) -> Tensor:
    """``mask``, which has this shape or its first dimensions, in this shape.

    Raises:
        InvalidValueError: it has another one.
    """
    if mask.shape != shape[: mask.dim()] or mask.dim() == 0:
        raise InvalidValueError(
            f"expected a mask of shape {tuple(shape)}, one entry per position, or of its first dimensions, got "
            f"{tuple(mask.shape)}"
        )
    return mask.view(*mask.shape, *(1,) * (len(shape) - mask.dim())).expand(shape)


def counted_only(mask: Tensor | None, values: Tensor, *, classes: bool = True) -> Tensor:
    """``values`` with 0 where the mask leaves a position out: a NaN there would become a NaN in the gradient."""
    if mask is None:
        return values
    positions = of_shape(mask, values.shape[:-1] if classes else values.shape)
    return values.where(positions.unsqueeze(-1) if classes else positions, torch.zeros_like(values))


def check_floating(prediction: Tensor) -> None:
    """Raise unless ``prediction`` is floating."""
    if not prediction.is_floating_point():
        raise InvalidTypeError(f"expected prediction to be floating logits, got {prediction.dtype}")
    if prediction.itemsize == 1:
        raise InvalidTypeError(f"expected logits in 16 bits or more, got {prediction.dtype}; pass prediction.float()")
    if prediction.layout != torch.strided:
        raise InvalidTypeError(f"expected dense logits, got {prediction.layout}; pass prediction.to_dense()")


def classes_last(
    target: Tensor, prediction: Tensor, class_dim: int | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, bool]:
    """Check both arguments and move the classes to the last dimension; whether the target is labels.

    Positions that the mask leaves out get zeros.
    """
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
    if type(class_dim) is not int or not -len(shape) < class_dim < len(shape) or class_dim == 0:
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
        return counted_only(mask, target.movedim(class_dim, -1)), counted_only(mask, moved), False
    if target.dtype == torch.bool or target.is_complex():
        raise InvalidTypeError(f"expected target to be integer labels or floating logits, got {target.dtype}")
    if target.shape != moved.shape[:-1]:
        raise InvalidValueError(f"expected labels of shape {tuple(moved.shape[:-1])}, got {tuple(target.shape)}")
    target = counted_only(mask, target, classes=False)
    _check_labels(target, moved.shape[-1])
    return target, counted_only(mask, moved), True


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and values_readable(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InvalidValueError(
                f"expected labels in [0, {classes}) for {classes} classes, got values from {low} to {high}; number the "
                f"classes from 0, and use -1 for rows without a label in a regulariser's y"
            )


def as_two_classes(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Logits z of a Bernoulli distribution as logits (min(-z, 0), min(z, 0)) of two classes; labels stay labels."""
    check_floating(prediction)
    if target.shape != prediction.shape or prediction.dim() == 0:
        raise InvalidValueError(
            f"expected target logits or labels of the prediction's shape {tuple(prediction.shape)}, got "
            f"{tuple(target.shape)}{_one_column(target, prediction)}"
        )
    if target.is_floating_point():
        return _two_logits(target), _two_logits(prediction)
    return (target.long() if target.dtype == torch.bool else target), _two_logits(prediction)


def _two_logits(z: Tensor) -> Tensor:
    # The gradient of the one at z = 0 is 0, that of the other 1.
    return torch.stack([-z.relu(), z.clamp(max=0)], dim=-1)


def _one_column(target: Tensor, prediction: Tensor) -> str:
    """The end of a message about shapes, if one column is all that they differ in."""
    if prediction.dim() == 0:
        return "; both need a batch dimension"
    return f"; pass target.reshape{tuple(prediction.shape)}" if target.numel() == prediction.numel() else ""

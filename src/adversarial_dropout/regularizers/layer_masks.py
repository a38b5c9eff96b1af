"""The masks of one layer in one step, and the step of Algorithm 1 that flips them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import NonFiniteError, values_readable
from adversarial_dropout.layers import AdversarialDropout
from adversarial_dropout.masks import adversarial_mask, flip_budget


@dataclass(eq=False)
class LayerMasks:
    """The masks of one layer in one step; each is ``None`` until a pass has reached the layer.

    Attributes:
        layer: The layer.
        base: εˢ, bool.
        point: ε⁰, floating, the mask with respect to which the search differentiates.
        entered: The layer's input in the search.
        found: The adversarial mask that the search found, bool.
    """

    layer: AdversarialDropout
    base: Tensor | None = None
    point: Tensor | None = None
    entered: Tensor | None = None
    found: Tensor | None = None


def found_mask(masks: LayerMasks, jacobian: Tensor, repeated: Tensor) -> Tensor:
    """The mask of Algorithm 1, but εˢ for the ``repeated`` examples."""
    assert masks.base is not None
    assert masks.entered is not None
    batch_dim = masks.layer.batch_dim
    base, jacobian = masks.base.movedim(batch_dim, 0), jacobian.movedim(batch_dim, 0)
    examples, *unit_shape = jacobian.shape
    flat = (examples, math.prod(unit_shape))
    try:
        budget = flip_budget(masks.layer.delta, flat[1])
        mask = adversarial_mask(base.reshape(flat), jacobian.reshape(flat), max_flips=budget).reshape(base.shape)
    except NonFiniteError as error:
        finite = bool(masks.entered.isfinite().all())
        cause = "its activations are finite, so look at the divergence" if finite else "its activations are not finite"
        raise NonFiniteError(f"{error}, in {masks.layer}: {cause}") from error
    if not (values_readable(repeated) and not repeated.any()):
        if repeated.shape[0] != examples:
            repeated = repeated.all().expand(examples)
        mask = base.where(repeated.view(-1, *(1,) * len(unit_shape)), mask)
    return mask.movedim(0, batch_dim)


def repeated_rows(target: Tensor, prediction: Tensor) -> Tensor:
    """Where the prediction is the target, apart from rounding."""
    if target.shape != prediction.shape or not target.is_floating_point():
        return prediction.new_zeros(prediction.shape[0], dtype=torch.bool)
    two_units_in_the_last_place = 2 * torch.finfo(prediction.dtype).eps
    close = torch.isclose(prediction, target.to(prediction.dtype), rtol=two_units_in_the_last_place, atol=1e-6)
    return close.reshape(close.shape[0], math.prod(close.shape[1:])).all(dim=1)

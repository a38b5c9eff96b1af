"""The dropout layer whose mask can be searched."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import (
    AdversarialDropoutWarning,
    InvalidTypeError,
    InvalidValueError,
    check_choice,
    check_fraction,
    values_readable,
)
from adversarial_dropout.masks import sample_mask

Granularity = Literal["element", "channel", "feature"]
Rescale = Literal["inverted", "sum", "none"]
MaskOfPass = Callable[[Tensor], Tensor | None]
"""From what enters a layer to the mask of the pass under way: bool, to be applied as the layer's mode says; floating, a
point to differentiate by, multiplied without rescaling; or ``None``, the identity.
"""


class AdversarialDropout(nn.Module):
    r"""``nn.Dropout`` with a mask that can be searched for the flips that hurt the prediction most.

    By itself the layer behaves as ``torch.nn.Dropout(p)``: on CPU, with the same seed, it keeps the same units of a
    contiguous input. A regulariser such as :class:`~adversarial_dropout.VirtualAdversarialDropout` finds the layer in
    the model and runs it with the mask :math:`\varepsilon^{adv}`, at most ``floor(delta · H)`` flips away from the
    random one (eq. 5).

    Args:
        p: Probability of *dropping* a unit, in [0, 1].
        delta: Budget δ: the share of an example's H units that the search may flip, in [0, 1].
        granularity: What a unit is. ``"element"``: one activation; the mask has the input's shape. ``"channel"``: one
            feature map of (N, C, ...); mask (N, C, 1, ...). ``"feature"``: one feature of a sequence (N, T, D), shared
            over time; mask (N, 1, D).
        rescale: What follows the mask in training. ``"inverted"``: divide by 1 - p (as ``nn.Dropout``; at p = 1, where
            that is impossible, units that a search revives pass unscaled). ``"sum"``: multiply by H / Σε per example
            (the authors' code). ``"none"``: nothing, so activations are smaller in training than in evaluation.

    Shapes:
        Input and output: floating, (N, ...), dimension 0 the batch; at least 3 dimensions for ``"channel"`` and
        ``"feature"``.

    Training and evaluation:
        In training a mask is drawn for each call and kept, detached, until the next one: it is the mask from which a
        regulariser called with ``target=`` starts, so ``target`` must come from the last training forward. It belongs
        to no ``state_dict``, copy or pickle. In evaluation the layer is the identity, except under a search or a found
        mask: then εˢ is all ones and nothing is rescaled. An example with no unit left gives zeros.

    Raises:
        InvalidValueError, InvalidTypeError: a setting out of range, or an input of the wrong shape or dtype.

    Warns:
        AdversarialDropoutWarning: (once) a whole batch has no unit left; ``rescale="none"`` with p > 0 in training.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), AdversarialDropout(p=0.5, delta=0.05), nn.Linear(64, 3))
    """

    def __init__(
        self,
        p: float = 0.5,
        delta: float = 0.05,
        *,
        granularity: Granularity = "element",
        rescale: Rescale = "inverted",
    ) -> None:
        super().__init__()
        check_fraction("p", p)
        check_fraction("delta", delta)
        check_choice("granularity", granularity, get_args(Granularity))
        check_choice("rescale", rescale, get_args(Rescale))
        self.p = p
        self.delta = delta
        self.granularity = granularity
        self.rescale = rescale
        self._last_mask: Tensor | None = None
        self._mask_of_pass: MaskOfPass | None = None
        self._warned_empty = False
        self._warned_none = False

    def forward(self, h: Tensor) -> Tensor:
        if not h.is_floating_point():
            raise InvalidTypeError(f"expected floating activations, got {h.dtype}; place the layer after an embedding")
        if self._mask_of_pass is not None:
            mask = self._mask_of_pass(h)
        elif self.training:
            mask = self._last_mask = sample_mask(self.mask_shape(h), self.p, device=h.device)
        else:
            mask = None
        if mask is None:
            return h
        return (h * mask).to(h.dtype) if mask.is_floating_point() else self._apply_mask(h, mask)

    def mask_shape(self, h: Tensor) -> tuple[int, ...]:
        """Shape of the mask for activations ``h``: 1 along each dimension that the units of the granularity span."""
        shape = tuple(h.shape)
        if not shape:
            raise InvalidValueError("expected activations with a batch dimension, got a tensor without dimensions")
        if self.granularity == "element":
            return shape
        if h.dim() < 3:
            form = "(N, C, ...)" if self.granularity == "channel" else "(N, T, D)"
            raise InvalidValueError(
                f'expected activations of shape {form} for granularity "{self.granularity}", got {shape}; '
                f'"element" takes any shape'
            )
        middle = (1,) * (h.dim() - 2)
        return (*shape[:2], *middle) if self.granularity == "channel" else (shape[0], *middle, shape[-1])

    def extra_repr(self) -> str:
        return f"p={self.p}, delta={self.delta}, granularity={self.granularity}, rescale={self.rescale}"

    def _apply_mask(self, h: Tensor, mask: Tensor) -> Tensor:
        factors = mask.view(torch.int8).to(h.dtype)  # From bytes: on a CPU, conversions from bool are slow.
        if self.training:
            self._warn_of_lost_scale(mask)
            if self.rescale == "inverted" and self.p < 1:
                factors = factors.div_(1 - self.p)
            elif self.rescale == "sum":
                left = mask.flatten(1).sum(dim=1) if mask.dim() > 1 else mask
                precision = torch.promote_types(h.dtype, torch.float32)
                units = torch.full_like(left, math.prod(mask.shape[1:]), dtype=precision)
                scale = units / left.clamp(min=1)
                factors = factors * scale.to(h.dtype).view(-1, *(1,) * (mask.dim() - 1))
        return h * factors

    def _warn_of_lost_scale(self, mask: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        if not self._warned_none and self.rescale == "none" and self.p > 0:
            self._warned_none = True
            warnings.warn(
                f'rescale="none" with p={self.p} makes activations smaller in training than in evaluation; use '
                f'"inverted" or "sum", or p=0',
                AdversarialDropoutWarning,
                stacklevel=2,
            )
        if not self._warned_empty and mask.numel() and values_readable(mask) and not (mask[0].any() or mask.any()):
            self._warned_empty = True
            warnings.warn(
                f"no unit of {tuple(mask.shape)} is left in the whole batch, so the layer passes on zeros; lower "
                f"p={self.p} or delta={self.delta}",
                AdversarialDropoutWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_last_mask=None, _mask_of_pass=None)
        return state


def adversarial_layers(model: nn.Module) -> list[AdversarialDropout]:
    """The model's :class:`AdversarialDropout` layers, in the order of ``model.modules()``, each once."""
    return [module for module in model.modules() if isinstance(module, AdversarialDropout)]


@contextlib.contextmanager
def preserving_last_masks(model: nn.Module) -> Iterator[None]:
    """Run passes that leave each layer's last mask, the one of the user's last training forward, as it was."""
    before = [(layer, layer._last_mask) for layer in adversarial_layers(model)]
    try:
        yield
    finally:
        for layer, mask in before:
            layer._last_mask = mask


@contextlib.contextmanager
def handing(masks: Sequence[tuple[AdversarialDropout, MaskOfPass]]) -> Iterator[None]:
    """Run a pass in which each layer takes its mask from the function beside it."""
    before = [(layer, layer._mask_of_pass) for layer, _ in masks]
    try:
        for layer, mask_of_pass in masks:
            layer._mask_of_pass = mask_of_pass
        yield
    finally:
        for layer, mask_before in before:
            layer._mask_of_pass = mask_before

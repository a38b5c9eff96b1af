"""The dropout layer whose mask a regulariser can search."""

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
    check_at_least,
    check_choice,
    check_fraction,
    values_readable,
)
from adversarial_dropout.masks import sample_mask
from adversarial_dropout.tracing import as_leaf, eagerly, exporting, outside_transforms, recording

Granularity = Literal["element", "channel", "feature"]
Rescale = Literal["inverted", "sum", "none"]
MaskOfPass = Callable[[Tensor], Tensor | None]
"""From a layer's input to its mask in the current pass: bool, applied and rescaled like a drawn mask; floating,
multiplied without rescaling and differentiated by the search; or ``None``, the identity.
"""

_MASK_OF_PASS_IS_EAGER = (
    "a regulariser draws and finds the masks of an AdversarialDropout layer in Python, which one graph cannot hold; "
    "compile the model without fullgraph=True"
)


class AdversarialDropout(nn.Module):
    r"""Dropout layer whose mask a regulariser can search for the flips that change the prediction most.

    Without a regulariser the layer behaves as ``torch.nn.Dropout(p)``; on CPU, the same seed keeps the same units of a
    contiguous input. A regulariser such as :class:`~adversarial_dropout.VirtualAdversarialDropout` finds the layer in
    the model and runs it with the mask :math:`\varepsilon^{adv}`, at most ``floor(delta · H)`` flips away from the
    random mask (eq. 5 of Park et al., AAAI 2018).

    Args:
        p: Probability of *dropping* a unit, in [0, 1].
        delta: Budget δ: the share of an example's H units that the search may flip, in [0, 1].
        granularity: What a unit is. ``"element"``: one activation; the mask has the input's shape. ``"channel"``: one
            feature map of (N, C, ...); the mask has shape (N, C, 1, ...). ``"feature"``: one feature of a sequence
            (N, T, D), shared over time; the mask has shape (N, 1, D).
        rescale: How activations are rescaled in training. ``"inverted"``: divide by 1 - p, as ``nn.Dropout`` does
            (at p = 1, units that a search keeps are not rescaled). ``"sum"``: multiply by H / Σε per example, as the
            authors' code does. ``"none"``: no rescaling, so activations are smaller in training than in evaluation.
        batch_dim: Dimension of the examples, 0 or more. It is 1 for time-first sequences (T, N, D), as in ``nn.LSTM``
            with ``batch_first=False``. Units, budget and rescaling are those of the input with this dimension moved to
            the front: a ``"feature"`` mask of (T, N, D) has shape (1, N, D), a ``"channel"`` mask (T, N, 1).

    Shapes:
        Input and output: floating, with N examples in dimension ``batch_dim``; at least 3 dimensions for ``"channel"``
        and ``"feature"``. Examples may be flattened into rows, (N · T, D): each row then has a budget and a mask of its
        own.

    Training and evaluation:
        In training, each call draws a mask. The layer stores it, detached, until the next call: a regulariser called
        with ``target=`` starts from it, so ``target`` must come from the last training forward. The stored mask is not
        part of a ``state_dict``, copy or pickle. In evaluation the layer is the identity, except in the passes of a
        search: there εˢ is all ones and nothing is rescaled. An example whose units are all dropped gives zeros.

    Raises:
        InvalidValueError, InvalidTypeError: a setting is out of range, or the input has an invalid shape or dtype.

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
        batch_dim: int = 0,
    ) -> None:
        super().__init__()
        check_fraction("p", p)
        check_fraction("delta", delta)
        check_choice("granularity", granularity, get_args(Granularity))
        check_choice("rescale", rescale, get_args(Rescale))
        check_at_least("batch_dim", batch_dim, 0)
        self.p = p
        self.delta = delta
        self.granularity = granularity
        self.rescale = rescale
        self.batch_dim = batch_dim
        self._last_mask: Tensor | None = None
        self._mask_of_pass: MaskOfPass | None = None
        self._warned_empty = False
        self._warned_none = False

    def forward(self, h: Tensor) -> Tensor:
        if isinstance(h, torch.fx.Proxy):
            return as_leaf(self, h)
        if not h.is_floating_point():
            raise InvalidTypeError(f"expected floating activations, got {h.dtype}; place the layer after an embedding")
        if self._mask_of_pass is not None:
            mask = eagerly(self._mask_of_pass, _MASK_OF_PASS_IS_EAGER)(h)
        elif self.training:
            mask = sample_mask(self.mask_shape(h), self.p, device=h.device)
            if not exporting():
                self._last_mask = outside_transforms(mask)
        else:
            mask = None
        if mask is None:
            return h
        return (h * mask).to(h.dtype) if mask.is_floating_point() else self._apply_mask(h, mask)

    def mask_shape(self, h: Tensor) -> tuple[int, ...]:
        """Shape of the mask for activations ``h``: 1 in each dimension that a unit spans."""
        shape = tuple(h.shape)
        if not shape:
            raise InvalidValueError("expected activations with a batch dimension, got a tensor without dimensions")
        if self.batch_dim >= len(shape):
            raise InvalidValueError(
                f"expected activations with the examples in dimension batch_dim={self.batch_dim}, got shape {shape}"
            )
        if self.granularity == "element":
            return shape
        of_an_example = [dim for dim in range(len(shape)) if dim != self.batch_dim]
        if len(of_an_example) < 2:
            form = "(N, C, ...)" if self.granularity == "channel" else "(N, T, D)"
            raise InvalidValueError(
                f'expected activations of shape {form} for granularity "{self.granularity}", got {shape}; '
                f'"element" takes any shape'
            )
        own = (self.batch_dim, of_an_example[0 if self.granularity == "channel" else -1])
        return tuple(size if dim in own else 1 for dim, size in enumerate(shape))

    def check_batch_dim(self, shape: Sequence[int], examples: int, *, warn: Callable[[str], None]) -> None:
        """Raise, or warn where it is not certain, if ``shape`` shows that the examples are in another dimension.

        Nothing is said of 2 dimensions: rows may be examples flattened into one dimension, (N · T, D), or packed
        sequences of different lengths, and D may be N by chance.
        """
        here = self.batch_dim
        others = [dim for dim, size in enumerate(shape) if dim != here and size == examples]
        if len(shape) < 3 or shape[here] == examples or not others or not examples:
            return
        if shape[here] % examples:
            raise InvalidValueError(
                f"an AdversarialDropout layer with batch_dim={here} got activations of shape {tuple(shape)} for "
                f"{examples} examples, so each mask would belong to several examples; use "
                f"AdversarialDropout(..., batch_dim={others[0]}), or flatten the activations to rows (M, D) if each "
                f"row has its own mask"
            )
        if examples > 1 and len(shape) == 3 and {here, others[0]} == {0, 1}:
            warn(
                f"an AdversarialDropout layer with batch_dim={here} got activations of shape {tuple(shape)} for "
                f"{examples} examples; if dimension {others[0]} is that of the examples, use AdversarialDropout(..., "
                f"batch_dim={others[0]}); if each row has its own mask, flatten the activations to rows (M, D)"
            )

    def extra_repr(self) -> str:
        batch = f", batch_dim={self.batch_dim}" if self.batch_dim else ""
        return f"p={self.p}, delta={self.delta}, granularity={self.granularity}, rescale={self.rescale}{batch}"

    def _apply_mask(self, h: Tensor, mask: Tensor) -> Tensor:
        # From bytes: on a CPU, conversions from bool are slow.
        factors = (mask if recording() else mask.view(torch.int8)).to(h.dtype)
        if self.training:
            self._warn_of_lost_scale(mask)
            if self.rescale == "inverted" and self.p < 1:
                factors = factors.div_(1 - self.p)
            elif self.rescale == "sum":
                examples = mask.movedim(self.batch_dim, 0)
                kept = examples.flatten(1).sum(dim=1) if mask.dim() > 1 else mask
                precision = torch.promote_types(h.dtype, torch.float32)
                units = torch.full_like(kept, math.prod(examples.shape[1:]), dtype=precision)
                scale = units / kept.clamp(min=1)
                per_example = [-1 if dim == self.batch_dim else 1 for dim in range(mask.dim())]
                factors = factors * scale.to(h.dtype).view(per_example)
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
        if not self._warned_empty and values_readable(mask) and mask.numel() and not (mask[0].any() or mask.any()):
            self._warned_empty = True
            warnings.warn(
                f"no unit of {tuple(mask.shape)} is left in the whole batch, so the layer outputs zeros; lower "
                f"p={self.p} or delta={self.delta}",
                AdversarialDropoutWarning,
                stacklevel=2,
            )

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by ``torch.jit.script``, which cannot compile this layer."""
        raise InvalidTypeError(
            "expected a module without an AdversarialDropout layer in torch.jit.script; script the parts below and "
            "above the layer, or use torch.export or torch.compile"
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_last_mask=None, _mask_of_pass=None)
        return state


def adversarial_layers(model: nn.Module) -> list[AdversarialDropout]:
    """The AdversarialDropout layers of ``model``, each once, in the order of ``model.modules()``."""
    return [module for module in model.modules() if isinstance(module, AdversarialDropout)]


@contextlib.contextmanager
def preserving_last_masks(model: nn.Module) -> Iterator[None]:
    """Restore afterwards the mask of each layer's last training forward, which a search may start from."""
    before = [(layer, layer._last_mask) for layer in adversarial_layers(model)]
    try:
        yield
    finally:
        for layer, mask in before:
            layer._last_mask = mask


def take_last_masks(model: nn.Module, other: nn.Module) -> None:
    """Let the masks of the last training forward of ``other``, a copy of ``model``, count as those of ``model``."""
    for layer, of_other in zip(adversarial_layers(model), adversarial_layers(other), strict=True):
        layer._last_mask = of_other._last_mask

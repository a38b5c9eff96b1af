"""The dropout layer whose mask can be searched, and everything that holds the state of a mask."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
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
from adversarial_dropout.mask_streams import draw_seed, generators_of_a_search, new_generator
from adversarial_dropout.masks import sample_mask

Granularity = Literal["element", "channel", "feature"]
Rescale = Literal["inverted", "sum", "none"]
LinearizeAt = Literal["ones", "base"]
Stage = Literal["under", "base", "search", "found"]


@dataclass(eq=False)
class Steering:
    """What a regulariser has one layer do while its passes run.

    ``stage`` names the mask that the next passes apply: the base mask εˢ, the point of linearisation ε⁰ as a leaf to
    differentiate by, or the mask found. At ``"under"`` the layer must not be reached at all. εˢ is ``kept`` if that
    fits, else drawn from a generator of its own (``generator``, or one made of ``seed``), so that the default random
    streams hold every *other* noise and can be replayed.
    """

    seed: int
    kept: Tensor | None = None
    generator: torch.Generator | None = None
    stage: Stage = "under"
    linearize_at: LinearizeAt = "ones"
    base: Tensor | None = None
    leaf: Tensor | None = None
    found: Tensor | None = None
    seen: Tensor | None = None
    """What entered the layer at ``"search"``."""


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
        self._kept: Tensor | None = None
        self._steering: Steering | None = None
        self._warned_empty = False
        self._warned_none = False

    def forward(self, h: Tensor) -> Tensor:
        if not h.is_floating_point():
            raise InvalidTypeError(f"expected floating activations, got {h.dtype}; place the layer after an embedding")
        if self._steering is not None:
            return self._steered(h, self._steering)
        if not self.training:
            return h
        mask = sample_mask(self.mask_shape(h), self.p, device=h.device)
        self._kept = mask
        return self._apply_mask(h, mask)

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

    def _steered(self, h: Tensor, steering: Steering) -> Tensor:
        if steering.stage == "under":
            raise InvalidValueError(
                "the under part of the model contains an AdversarialDropout layer; expected upper(h) to contain all of "
                "them, so that forward(x) equals upper(under(x))"
            )
        shape = self.mask_shape(h)
        if steering.stage == "search":
            if steering.leaf is None:
                steering.leaf = self._leaf(steering, shape, h)
                steering.seen = h.detach()
            mask = steering.leaf
        else:
            found = steering.found if steering.stage == "found" else None
            mask = self.base_mask(steering, shape, h.device) if found is None else found
        if tuple(mask.shape) != shape:
            raise InvalidValueError(
                f"an AdversarialDropout layer was called with masks of shape {tuple(mask.shape)} and {shape} in the "
                f"passes of one step; use one layer for each place in the model"
            )
        if steering.stage == "search":
            return (h * mask).to(h.dtype)
        if _is_checkpointed():
            raise InvalidValueError(
                "an AdversarialDropout layer lies in a part of the model under torch.utils.checkpoint, which would be "
                "computed again, in the backward pass, with another mask; leave the layer out of that part"
            )
        return self._apply_mask(h, mask) if self.training or steering.stage == "found" else h

    def _leaf(self, steering: Steering, shape: tuple[int, ...], h: Tensor) -> Tensor:
        """ε⁰, in float32 or better."""
        precision = torch.promote_types(h.dtype, torch.float32)
        if steering.linearize_at == "ones":
            return torch.ones(shape, dtype=precision, device=h.device, requires_grad=True)
        return self.base_mask(steering, shape, h.device).to(precision).requires_grad_()

    def base_mask(self, steering: Steering, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """εˢ of the step under way: the mask kept from the last training forward if it fits, else a new one."""
        if steering.base is None:
            kept = steering.kept
            if not self.training:
                steering.base = torch.ones(shape, dtype=torch.bool, device=device)
            elif kept is not None and tuple(kept.shape) == shape and kept.device == device:
                steering.base = kept
            else:
                generator = steering.generator
                if self.p not in (0, 1) and (generator is None or generator.device != device):
                    generator = new_generator(device, steering.seed)
                steering.base = sample_mask(shape, self.p, generator=generator, device=device)
        return steering.base

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
        state.update(_kept=None, _steering=None)
        return state


def _is_checkpointed() -> bool:
    """Whether activations are being dropped by a non-reentrant ``torch.utils.checkpoint``, to be computed again later.

    The hooks that it sets are the only trace. (A reentrant one refuses a search by itself.)
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None or torch.compiler.is_compiling():
        return False
    hooks = top(True)
    return bool(hooks) and "checkpoint" in getattr(hooks[0], "__qualname__", "")


def adversarial_layers(model: nn.Module) -> list[AdversarialDropout]:
    """The model's :class:`AdversarialDropout` layers, in the order of ``model.modules()``, each once."""
    return [module for module in model.modules() if isinstance(module, AdversarialDropout)]


@contextlib.contextmanager
def kept_masks(model: nn.Module) -> Iterator[None]:
    """Run passes that leave each layer's kept mask, the one of the user's last training forward, as it was."""
    before = [(layer, layer._kept) for layer in adversarial_layers(model)]
    try:
        yield
    finally:
        for layer, mask in before:
            layer._kept = mask


@contextlib.contextmanager
def steered(
    model: nn.Module, *, reuse_kept: bool, linearize_at: LinearizeAt = "ones"
) -> Iterator[list[tuple[AdversarialDropout, Steering]]]:
    """Put every layer of ``model`` under a :class:`Steering` of its own, and free it again, whatever happens.

    All base masks drawn meanwhile come from one seed, itself a single draw from the default CPU generator, or from the
    :class:`~adversarial_dropout.mask_streams.MaskStreams` that serve.
    """
    layers = adversarial_layers(model)
    if not layers:
        raise InvalidValueError(
            "expected a model with an AdversarialDropout layer, found none; put one in front of the last layers, e.g. "
            "nn.Sequential(features, AdversarialDropout(p=0.5, delta=0.05), head)"
        )
    generators = generators_of_a_search(len(layers))
    seed = draw_seed() if generators is None else 0
    steerings = []
    before = [(layer, layer._steering) for layer in layers]
    try:
        for index, layer in enumerate(layers):
            kept = layer._kept if reuse_kept else None
            generator = None if generators is None else generators[index]
            layer._steering = Steering(seed + index, kept, generator, linearize_at=linearize_at)
            steerings.append((layer, layer._steering))
        yield steerings
    finally:
        for layer, steering in before:
            layer._steering = steering

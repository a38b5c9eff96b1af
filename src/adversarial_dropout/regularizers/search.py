"""One step's masks: which mask each pass runs under, and the search for the worst ones (Algorithm 1)."""

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidValueError, NonFiniteError, values_readable
from adversarial_dropout.layers import AdversarialDropout, adversarial_layers, handing
from adversarial_dropout.masks import adversarial_mask, flip_budget, sample_mask
from adversarial_dropout.regularizers.base import check_per_example
from adversarial_dropout.regularizers.passes import (
    Noise,
    check_not_computed_again,
    cut,
    detached_copy,
    run_frozen,
    run_model,
    whole,
)

# Logits that agree to this come from passes that do not differ; large ones, to two units in the last place besides.
_AGREE = 1e-6
_ROUNDING = 2

generators_of_a_search: ContextVar[Callable[[int], Sequence[torch.Generator]] | None] = ContextVar(
    "generators_of_a_search", default=None
)
"""Where a search takes the generators of its base masks from, one for each layer, if not from a seed of its own."""


def draw_seed() -> int:
    """The seed of one search: a single draw from the default CPU generator."""
    return int(torch.randint(2**62, (), device="cpu"))


@dataclass(eq=False)
class LayerMasks:
    """The masks of one layer in one step.

    Attributes:
        layer: The layer.
        base: εˢ, bool; ``None`` until a pass has reached the layer.
        point: ε⁰, floating, a leaf to differentiate by; ``None`` until the search has reached the layer.
        entered: What entered the layer in the search.
        found: The worst mask found, bool; ``None`` until the search has reached the layer.
        applied: The mask of the last adversarial pass; ``None``: the base mask.
    """

    layer: AdversarialDropout
    base: Tensor | None = None
    point: Tensor | None = None
    entered: Tensor | None = None
    found: Tensor | None = None
    applied: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Slopes:
    """What the search pass gives: D, and J at ε⁰ in each layer that it has reached."""

    prediction: Tensor
    values: Tensor
    reached: list[LayerMasks]
    jacobians: tuple[Tensor, ...]


class Search:
    """One step's masks and the passes under them, through a model cut in front of its first AdversarialDropout layer.

    In the order of a step: ``h = under_pass(x)``; ``base_pass(h)`` under the base masks εˢ, all ones in evaluation;
    ``find``, one gradient at ε⁰ and one ranking per layer; ``adversarial_pass(h)`` under the masks found. New base
    masks come from one seed, a draw from the default CPU generator: the default streams hold *other* noise alone.

    Args:
        model: Model with at least one AdversarialDropout layer.
        x: Its input.
        from_last_masks: Take as εˢ the masks of the model's last training forward, where they fit.
        at_layer: ``model`` starts with the layer: nothing is to be cut off.
        warn: Is told why nothing at all can be flipped, if so.

    Attributes:
        masks: Those of each layer, in the order of ``model.modules()``.

    Raises:
        InvalidValueError: no layer in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        *,
        from_last_masks: bool = False,
        at_layer: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        layers = adversarial_layers(model)
        if not layers:
            raise InvalidValueError(
                "expected a model with an AdversarialDropout layer, found none; put one in front of the last layers, "
                "e.g. nn.Sequential(features, AdversarialDropout(p=0.5, delta=0.05), head)"
            )
        self.masks = [LayerMasks(layer) for layer in layers]
        self._under, self._upper = whole(model) if at_layer else cut(model)
        self._noise = Noise(model, x)
        self._from_last_masks = from_last_masks
        self._at_layer = at_layer
        self._warn = warn
        source = generators_of_a_search.get()
        self._generators = None if source is None else source(len(layers))
        self._seed = draw_seed() if self._generators is None else 0

    def under_pass(self, x: Tensor) -> Tensor:
        """What enters the upper part of the model: ``under(x)``, which must not reach a layer."""
        with self._handing(self._no_mask):
            return run_model(self._under, x)

    def base_pass(self, h: Tensor, *, noise_again: bool = False) -> Tensor:
        """f(x, εˢ), as ``upper(h)``; with ``noise_again`` the next pass sees the same noise."""
        noise = self._noise.unchanged() if noise_again else contextlib.nullcontext()
        with self._handing(self._base_mask), noise:
            return run_model(self._upper, h)

    def adversarial_pass(self, h: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """f(x, εᵃᵈᵛ), as ``upper(h)``, under the masks found, or under others of their shape, one for each layer."""
        for index, own in enumerate(self.masks):
            own.applied = own.found if masks is None else masks[index]
        with self._handing(self._applied_mask):
            return run_model(self._upper, h)

    def find(self, h: Tensor, target: Tensor, divergence: Divergence) -> None:
        r"""Take :math:`J = \partial D(target, upper(h \odot \varepsilon)) / \partial \varepsilon` at ε⁰ in all
        layers at once, then make each layer's mask with its own budget.

        Rows in which the search pass repeats the target pass flip nothing: there J would be rounding noise. No graph is
        built for parameters or below ``h``; every buffer and every random stream is left as it was.

        Raises:
            InvalidValueError: no layer is reached, ``h`` is not what a layer is given (``at_layer``), the divergence
                has no graph or another shape than (N,), or J is not finite.
        """
        h, target = detached_copy(h), detached_copy(target)
        differentiable, noise = torch.inference_mode(False), self._noise.unchanged()
        with differentiable, torch.enable_grad(), noise, self._handing(self._point_mask):
            slopes = run_frozen(self._upper, h, partial(self._slopes, target, divergence))
        if self._at_layer and not self._starts_at_a_layer(h):
            raise InvalidValueError(
                'noise="shared" with target= needs the activations that the target was computed from, but the model '
                "still has an under part; call h = under(x), then out = head(h), then reg(head, h, target=out), where "
                "head starts at the AdversarialDropout layer"
            )
        repeated = _repeated_rows(target, slopes.prediction)
        for masks, jacobian in zip(slopes.reached, slopes.jacobians, strict=True):
            assert masks.base is not None
            masks.found = _found_mask(masks, masks.base, jacobian, repeated)
        idle = _why_idle(repeated, slopes)
        if idle is not None and self._warn is not None:
            self._warn(idle)

    def point(self, base: Tensor, dtype: torch.dtype) -> Tensor:
        """ε⁰, the mask at which D is linearised, given εˢ: all ones, as in the paper."""
        return torch.ones_like(base, dtype=dtype)

    def _handing(self, mask_of_pass: Callable[[LayerMasks, Tensor], Tensor | None]) -> AbstractContextManager[None]:
        return handing([(masks.layer, partial(mask_of_pass, masks)) for masks in self.masks])

    def _no_mask(self, masks: LayerMasks, h: Tensor) -> Tensor:
        raise InvalidValueError(
            "the under part of the model contains an AdversarialDropout layer; expected upper(h) to contain all of "
            "them, so that forward(x) equals upper(under(x))"
        )

    def _base_mask(self, masks: LayerMasks, h: Tensor) -> Tensor | None:
        check_not_computed_again()
        base = _fitting(masks, self._base(masks, h), h)
        return base if masks.layer.training else None

    def _applied_mask(self, masks: LayerMasks, h: Tensor) -> Tensor:
        check_not_computed_again()
        # A layer that the search did not reach keeps its base mask.
        return _fitting(masks, self._base(masks, h) if masks.applied is None else masks.applied, h)

    def _point_mask(self, masks: LayerMasks, h: Tensor) -> Tensor:
        if masks.point is None:
            precision = torch.promote_types(h.dtype, torch.float32)
            masks.point = self.point(self._base(masks, h), precision).requires_grad_()
            masks.entered = h.detach()
        return _fitting(masks, masks.point, h)

    def _base(self, masks: LayerMasks, h: Tensor) -> Tensor:
        """εˢ: the layer's last mask if it is to be used and fits, else a new one."""
        if masks.base is None:
            layer, shape = masks.layer, masks.layer.mask_shape(h)
            last = layer._last_mask if self._from_last_masks else None
            if not layer.training:
                masks.base = torch.ones(shape, dtype=torch.bool, device=h.device)
            elif last is not None and last.shape == shape and last.device == h.device:
                masks.base = last
            else:
                generator = None if layer.p in (0, 1) else self._generator(self.masks.index(masks), h.device)
                masks.base = sample_mask(shape, layer.p, generator=generator, device=h.device)
        return masks.base

    def _generator(self, layer: int, device: torch.device) -> torch.Generator:
        if self._generators is not None:
            return self._generators[layer]
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise InvalidValueError(
                "expected base masks from generators that outlive the step while a CUDA graph is captured, got none, "
                "so that this one mask would be repeated for ever; run the step under "
                "experiments.run.mask_streams.MaskStreams.serving(), or give target=model(x)"
            )
        return torch.Generator(device).manual_seed(self._seed + layer)

    def _slopes(self, target: Tensor, divergence: Divergence, prediction: Tensor) -> _Slopes:
        reached = [masks for masks in self.masks if masks.point is not None]
        if not reached:
            raise InvalidValueError(
                "expected the pass to reach an AdversarialDropout layer of the model, but none was called; use the "
                "layer in forward (or upper)"
            )
        values = check_per_example(divergence(target, prediction), prediction.shape[0])
        if not values.requires_grad:
            raise InvalidValueError(
                "expected a divergence that can be differentiated by the prediction, but its value has no graph; "
                "look for detach(), item() or no_grad() in the divergence or in the model"
            )
        points = [masks.point for masks in reached if masks.point is not None]
        jacobians = torch.autograd.grad(values.sum(), points, materialize_grads=True)
        return _Slopes(prediction.detach(), values.detach(), reached, jacobians)

    def _starts_at_a_layer(self, h: Tensor) -> bool:
        """Whether a layer was given what the search pass was given, so that nothing is computed below it."""
        entered = [masks.entered for masks in self.masks if masks.entered is not None]
        flat = h.flatten()
        return not values_readable(h) or any(torch.equal(each.flatten(), flat.to(each.dtype)) for each in entered)


def _fitting(masks: LayerMasks, mask: Tensor, h: Tensor) -> Tensor:
    shape = masks.layer.mask_shape(h)
    if mask.shape != shape:
        raise InvalidValueError(
            f"an AdversarialDropout layer was called with masks of shape {tuple(mask.shape)} and {shape} in the "
            f"passes of one step; use one layer for each place in the model"
        )
    return mask


def _found_mask(masks: LayerMasks, base: Tensor, jacobian: Tensor, repeated: Tensor) -> Tensor:
    """The mask of Algorithm 1 for the examples that are not ``repeated``, εˢ for the others."""
    examples, *unit_shape = jacobian.shape
    units = math.prod(unit_shape)
    flat = (examples, units)
    try:
        mask = adversarial_mask(
            base.reshape(flat), jacobian.reshape(flat), max_flips=flip_budget(masks.layer.delta, units)
        ).reshape(base.shape)
    except NonFiniteError as error:
        finite = masks.entered is not None and bool(masks.entered.isfinite().all())
        cause = "its activations are finite, so look at the divergence" if finite else "its activations are not finite"
        raise NonFiniteError(f"{error}, in {masks.layer}: {cause}") from error
    if values_readable(repeated) and not repeated.any():
        return mask
    if repeated.shape[0] != examples:
        repeated = repeated.all().expand(examples)
    return base.where(repeated.view(-1, *(1,) * len(unit_shape)), mask)


def _why_idle(repeated: Tensor, slopes: _Slopes) -> str | None:
    """What is to be warned of: the search pass repeats the target pass, or no unit matters."""
    if not repeated.numel() or not values_readable(repeated):
        return None
    if repeated.all():
        return (
            "the search pass repeats the target pass, so there is no divergence to raise and no unit is flipped; give "
            'the passes something to differ in: p > 0 in training, noise in the model with noise="independent", or two '
            "views, reg(model, view_2, target=model(view_1)). In evaluation mode every mask starts as all ones"
        )
    if slopes.values.any() and not any(jacobian[:1].any() or jacobian.any() for jacobian in slopes.jacobians):
        return (
            "the Jacobian is zero everywhere: the prediction does not depend on any unit, so none is flipped; look at "
            "the weights and activations behind the AdversarialDropout layer"
        )
    return None


def _repeated_rows(target: Tensor, prediction: Tensor) -> Tensor:
    if target.shape != prediction.shape or not target.is_floating_point():
        return prediction.new_zeros(prediction.shape[0], dtype=torch.bool)
    rounding = _ROUNDING * torch.finfo(prediction.dtype).eps
    close = torch.isclose(prediction, target.to(prediction.dtype), rtol=rounding, atol=_AGREE)
    return close.reshape(close.shape[0], math.prod(close.shape[1:])).all(dim=1)

"""The masks of one step: the mask of each pass, and the search for the adversarial masks (Algorithm 1)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidValueError, values_readable
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.masks import sample_mask
from adversarial_dropout.regularizers.layer_masks import LayerMasks, found_mask, repeated_rows
from adversarial_dropout.regularizers.model_io import Inputs, Output, call, map_tensors, select, tensors_in
from adversarial_dropout.regularizers.passes import (
    Noise,
    check_differentiable,
    check_not_recomputed,
    cut,
    detached_copy,
    gradients,
    replacing,
    run_model,
    without_fused_layers,
)
from adversarial_dropout.regularizers.replay import Replay
from adversarial_dropout.regularizers.replayable import starts_at_a_layer

generators_of_a_search: ContextVar[Callable[[int], Sequence[torch.Generator]] | None] = ContextVar(
    "generators_of_a_search", default=None
)
"""Gives a search as many generators as it asks for; without it, a search makes them from a new seed."""


def draw_seed() -> int:
    """The seed of one search: a single draw from the default CPU generator."""
    return int(torch.randint(2**62, (), device="cpu"))


class Search:
    """The masks of one step, and the passes that use them.

    The order of a step is ``h = under_pass(x)``; ``base_pass(h)`` with the base masks εˢ (all ones in evaluation);
    ``find``, with one gradient at ε⁰ and one ranking per layer; ``adversarial_pass(h)`` with the masks found. Base
    masks are drawn from generators seeded by one draw from the default CPU generator, so the default generators produce
    only the *other* noise.

    Args:
        model: Model with at least one AdversarialDropout layer.
        x: Its input: a tensor, a tuple for ``model(*x)`` or a dict for ``model(**x)``.
        output: Which part of what the model returns is the prediction; see :func:`model_io.select`.
        from_last_masks: Use the masks of the model's last training forward as εˢ, where they fit.
        at_layer: ``model`` starts with the layer, so it is not cut.
        warn: Called with the reason if no unit can be flipped.
    """

    streams = 1
    """Generators that it asks for, per layer: one for the base masks."""

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        *,
        output: Output = None,
        from_last_masks: bool = False,
        at_layer: bool = False,
        warn: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.masks = [LayerMasks(layer) for layer in adversarial_layers(model)]
        if not self.masks:
            raise InvalidValueError(
                "expected a model with an AdversarialDropout layer, found none; put one in front of the last layers, "
                "e.g. nn.Sequential(features, AdversarialDropout(p=0.5, delta=0.05), head)"
            )
        self._under, self._upper = (nn.Sequential(), model) if at_layer else cut(model)
        self._whole = self._upper is model
        self._output = output
        noise = Noise(model, x)
        self._preserving_noise = noise.preserved
        self._replay = Replay(self._upper, noise, at_layer=at_layer or starts_at_a_layer(self._upper))
        self.returned: object = None
        """What the model returned in the base pass."""
        self._from_last_masks = from_last_masks
        self._at_layer = at_layer
        self._warn = warn
        generators = generators_of_a_search.get()
        self._generators = None if generators is None else generators(self.streams * len(self.masks))
        self._seed = draw_seed() if generators is None else 0

    def under_pass(self, x: Inputs) -> Inputs:
        """The input of the upper part: ``under(x)``, which must not reach a layer; ``x`` if the model is not cut."""

        def no_mask(masks: LayerMasks, h: Tensor) -> None:
            raise InvalidValueError(
                "the under part of the model contains an AdversarialDropout layer; expected upper(h) to contain all "
                "of them, so that forward(x) equals upper(under(x))"
            )

        if self._whole:
            return x
        with self._applying(no_mask):
            h: object = call(self._under, x)
        return h if isinstance(h, Tensor) else (h,)

    def base_pass(self, h: Inputs, *, repeat_noise: bool = False) -> Tensor:
        """f(x, εˢ), computed as ``upper(h)``; with ``repeat_noise`` the next pass sees the same noise."""

        def base_mask(masks: LayerMasks, h: Tensor) -> Tensor | None:
            base = self._base(masks, h)
            return base if masks.layer.training else None

        with contextlib.ExitStack() as stack:
            stack.enter_context(self._applying(base_mask))
            if repeat_noise:
                stack.enter_context(self._preserving_noise())
                stack.enter_context(self._replay.recording(h))
            self.returned = call(self._upper, h)
        return select(self.returned, self._output)

    def adversarial_pass(self, h: Inputs, masks: Sequence[Tensor] | None = None) -> Tensor:
        """f(x, εᵃᵈᵛ), computed as ``upper(h)``, with the masks found or with the given ones, one per layer."""
        given = [layer_masks.found for layer_masks in self.masks] if masks is None else masks
        by_layer = dict(zip(self.masks, given, strict=True))

        def given_mask(masks: LayerMasks, h: Tensor) -> Tensor:
            mask = by_layer[masks]
            return self._base(masks, h) if mask is None else mask  # None: the search has not reached the layer.

        with self._applying(given_mask):
            return self._replay.run(h, partial(run_model, self._upper, h, self._output), search=False)

    def find(self, h: Inputs, target: Tensor, divergence: Divergence) -> None:
        r"""Find the adversarial mask of every layer, within the layer's budget.

        One gradient gives :math:`J = \partial D(target, upper(h \odot \varepsilon)) / \partial \varepsilon` at ε⁰ for
        all layers. Rows in which this pass repeats the target pass flip nothing: there J is rounding noise. No graph is
        built for the parameters or below ``h``; buffers and random streams are unchanged.
        """

        def point_mask(masks: LayerMasks, h: Tensor) -> Tensor:
            check_differentiable()
            if masks.point is None:
                precision = torch.promote_types(h.dtype, torch.float32)
                masks.point = self.point(self._base(masks, h), precision).requires_grad_()
                masks.entered = h.detach()
            return masks.point

        def to_the_first_layer() -> None:
            with self._applying(lambda masks, h: None):
                call(self._upper, h)

        def search() -> tuple[Tensor, list[LayerMasks], Tensor, tuple[Tensor, ...]]:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                self._preserving_noise(),
                self._applying(point_mask),
                replacing(self._upper, parameters=Tensor.detach, buffers=Tensor.clone),
            ):
                prediction = run_model(self._upper, detached, self._output)
                reached = {masks: masks.point for masks in self.masks if masks.point is not None}
                if not reached:
                    raise InvalidValueError(
                        "expected the pass to reach an AdversarialDropout layer of the model, but none was called; use "
                        "the layer in forward (or upper)"
                    )
                values = divergence(target, prediction)
                if not values.requires_grad:
                    raise InvalidValueError(
                        "expected a divergence that can be differentiated by the prediction, but its value has no "
                        "graph; look for detach(), item() or no_grad() in the divergence or in the model"
                    )
                jacobians = gradients(values.sum(), list(reached.values()))
                return prediction.detach(), list(reached), values, jacobians

        self._replay.prepare(h, to_the_first_layer)
        detached, target = map_tensors(detached_copy, h), detached_copy(target)
        prediction, reached, values, jacobians = self._replay.run(h, search, search=True)
        if self._at_layer:
            self._check_starts_at_a_layer(detached)
        for masks in reached:
            masks.layer.check_batch_dim(cast(Tensor, masks.entered).shape, prediction.shape[0], warn=self._warn)
        repeated = repeated_rows(target, prediction)
        for masks, jacobian in zip(reached, jacobians, strict=True):
            masks.found = found_mask(masks, jacobian, repeated)
        self._warn_if_idle(repeated, values, jacobians)

    def keep_base_masks(self) -> None:
        """Let the base masks count as those of the model's last training forward."""
        for masks in self.masks:
            if masks.layer.training and masks.base is not None:
                masks.layer._last_mask = masks.base

    def point(self, base: Tensor, dtype: torch.dtype) -> Tensor:
        """ε⁰, the mask at which D is linearised, for the base mask εˢ: all ones, as in the paper."""
        return torch.ones_like(base, dtype=dtype)

    @contextlib.contextmanager
    def _applying(self, mask_of: Callable[[LayerMasks, Tensor], Tensor | None]) -> Iterator[None]:
        """Let each layer take its mask from ``mask_of(masks, h)``, given the layer's masks and input."""

        def checked(masks: LayerMasks, h: Tensor) -> Tensor | None:
            check_not_recomputed()
            self._replay.reached()
            mask, shape = mask_of(masks, h), masks.layer.mask_shape(h)
            if mask is not None and mask.shape != shape:
                raise InvalidValueError(
                    f"an AdversarialDropout layer was called with masks of shape {tuple(mask.shape)} and {shape} in "
                    f"the passes of one step; use one layer for each place in the model"
                )
            return mask

        before = [(masks.layer, masks.layer._mask_of_pass) for masks in self.masks]
        try:
            for masks in self.masks:
                masks.layer._mask_of_pass = partial(checked, masks)
            with without_fused_layers():
                yield
        finally:
            for layer, mask_of_pass in before:
                layer._mask_of_pass = mask_of_pass

    def _base(self, masks: LayerMasks, h: Tensor) -> Tensor:
        """εˢ: in training the layer's last mask, if it is to be used and fits, or else a new one."""
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

    def _generator(self, index: int, device: torch.device) -> torch.Generator:
        if self._generators is not None:
            return self._generators[index]
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise InvalidValueError(
                "expected base masks from generators that outlive the step while a CUDA graph is captured, because "
                "every replay would use the same masks otherwise; run the step under "
                "experiments.run.captured.MaskStreams.serving(), or give target=model(x)"
            )
        return torch.Generator(device).manual_seed(self._seed + index)

    def _check_starts_at_a_layer(self, h: Inputs) -> None:
        """Raise unless a tensor of ``h``, the input of the search pass, is the input of a layer."""
        inputs = [masks.entered.flatten() for masks in self.masks if masks.entered is not None]
        given = [tensor.flatten() for tensor in tensors_in(h)]
        pairs = [(each, tensor) for each in inputs for tensor in given]
        if all(map(values_readable, given)) and not any(torch.equal(a, b.to(a.dtype)) for a, b in pairs):
            raise InvalidValueError(
                'noise="shared" with target= needs the activations that the target was computed from, but the model '
                "still has an under part; call h = under(x), then out = head(h), then reg(head, h, target=out), where "
                "head starts at the AdversarialDropout layer"
            )

    def _warn_if_idle(self, repeated: Tensor, values: Tensor, jacobians: Sequence[Tensor]) -> None:
        if not repeated.numel() or not values_readable(repeated):
            return
        if repeated.all():
            self._warn(
                "the search pass repeats the target pass, so there is no divergence to raise and no unit is flipped; "
                'make the passes differ: p > 0 in training, noise in the model with noise="independent", or two views, '
                "reg(model, view_2, target=model(view_1)). In evaluation mode every base mask is all ones"
            )
        elif values.any() and not any(jacobian[:1].any() or jacobian.any() for jacobian in jacobians):
            self._warn(
                "the Jacobian is zero everywhere: the prediction does not depend on any unit, so none is flipped; look "
                "at the weights and activations behind the AdversarialDropout layer"
            )

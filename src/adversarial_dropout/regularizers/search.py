"""Search for adversarial masks in a model: one gradient, one mask per layer (Algorithm 1)."""

import math

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidValueError, NonFiniteError, values_readable
from adversarial_dropout.layers import AdversarialDropout, Stage, Steering
from adversarial_dropout.masks import adversarial_mask, flip_budget
from adversarial_dropout.regularizers.base import check_per_example
from adversarial_dropout.regularizers.passes import Noise, constant, isolated, output

# Logits that agree to this come from passes that do not differ; large ones, to two units in the last place besides.
_AGREE = 1e-6
_ROUNDING = 2


class Search:
    """One step's passes through a model whose AdversarialDropout layers are steered.

    The stages follow the data: ``h = under(x)``; the target pass under the base masks εˢ; ``find``, one gradient at
    ε⁰ (all ones, or εˢ) and one ranking per layer; the adversarial pass under the masks found.

    Args:
        noise: The model's random streams.
        layers: The model's layers, from :func:`~adversarial_dropout.layers.steered`.
    """

    def __init__(self, noise: Noise, layers: list[tuple[AdversarialDropout, Steering]]) -> None:
        self._noise = noise
        self._layers = layers
        self._searched = torch.empty(0)

    def under_pass(self, under: nn.Module, x: Tensor) -> Tensor:
        """Run ``under(x)``, which must not reach a layer."""
        self._enter("under")
        return output(under, x)

    def base_pass(self, upper: nn.Module, h: Tensor) -> Tensor:
        """Run ``upper(h)`` under the base masks εˢ."""
        self._enter("base")
        return output(upper, h)

    def adversarial_pass(self, upper: nn.Module, h: Tensor) -> Tensor:
        """Run ``upper(h)`` under the masks found."""
        self._enter("found")
        return output(upper, h)

    def find(self, upper: nn.Module, h: Tensor, target: Tensor, divergence: Divergence) -> str | None:
        r"""Take :math:`J = \partial D(target, upper(h \odot \varepsilon)) / \partial \varepsilon` at ε⁰ in all
        layers at once, then make each layer's mask with its own budget.

        Rows in which the search pass repeats the target pass flip nothing: there J would be rounding noise. No graph is
        built for parameters or below ``h``; every buffer and every random stream is left as it was.

        Returns:
            Why nothing at all could be flipped, if so: something to warn of.
        """
        target = constant(target)
        self._enter("search")
        self._searched = constant(h)
        idle: list[str | None] = []

        def differentiate(prediction: Tensor) -> Tensor:
            reached = [(layer, steering) for layer, steering in self._layers if steering.leaf is not None]
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
            leaves = [steering.leaf for _, steering in reached if steering.leaf is not None]
            jacobians = torch.autograd.grad(values.sum(), leaves, materialize_grads=True)
            repeated = _repeated_rows(target, prediction.detach())
            for (layer, steering), jacobian in zip(reached, jacobians, strict=True):
                steering.found = _found_mask(layer, steering, jacobian, repeated)
            idle.append(_why_idle(repeated, values.detach(), jacobians))
            return prediction

        with torch.inference_mode(False), torch.enable_grad(), self._noise.unchanged():
            isolated(upper, self._searched, frozen=True, then=differentiate)
        return idle[0]

    def starts_at_a_layer(self) -> bool:
        """Whether a layer was given what the search pass was given, so that nothing is computed below it."""
        start = self._searched
        if not values_readable(start):
            return True
        inputs = [steering.seen for _, steering in self._layers if steering.seen is not None]
        return any(seen.numel() == start.numel() and _same(seen, start) for seen in inputs)

    def _enter(self, stage: Stage) -> None:
        for _, steering in self._layers:
            steering.stage = stage


def _found_mask(layer: AdversarialDropout, steering: Steering, jacobian: Tensor, repeated: Tensor) -> Tensor:
    base = layer.base_mask(steering, tuple(jacobian.shape), jacobian.device)
    examples, *unit_shape = jacobian.shape
    units = math.prod(unit_shape)
    flat = (examples, units)
    try:
        mask = adversarial_mask(
            base.reshape(flat), jacobian.reshape(flat), max_flips=flip_budget(layer.delta, units)
        ).reshape(base.shape)
    except NonFiniteError as error:
        finite = steering.seen is not None and bool(steering.seen.isfinite().all())
        cause = "its activations are finite, so look at the divergence" if finite else "its activations are not finite"
        raise NonFiniteError(f"{error}, in {layer}: {cause}") from error
    if values_readable(repeated) and not repeated.any():
        return mask
    if repeated.shape[0] != examples:
        repeated = repeated.all().expand(examples)
    return base.where(repeated.view(-1, *(1,) * len(unit_shape)), mask)


def _why_idle(repeated: Tensor, values: Tensor, jacobians: tuple[Tensor, ...]) -> str | None:
    """What is to be warned of: the search pass repeats the target pass, or no unit matters."""
    if not repeated.numel() or not values_readable(repeated):
        return None
    if repeated.all():
        return (
            "the search pass repeats the target pass, so there is no divergence to raise and no unit is flipped; give "
            'the passes something to differ in: p > 0 in training, noise in the model with noise="independent", or two '
            "views, reg(model, view_2, target=model(view_1)). In evaluation mode every mask starts as all ones"
        )
    if values.any() and not any(jacobian[:1].any() or jacobian.any() for jacobian in jacobians):
        return (
            "the Jacobian is zero everywhere: the prediction does not depend on any unit, so none is flipped; look at "
            "the weights and activations behind the AdversarialDropout layer"
        )
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.flatten(), b.to(a.dtype).flatten())


def _repeated_rows(target: Tensor, prediction: Tensor) -> Tensor:
    if target.shape != prediction.shape or not target.is_floating_point():
        return prediction.new_zeros(prediction.shape[0], dtype=torch.bool)
    rounding = _ROUNDING * torch.finfo(prediction.dtype).eps
    close = torch.isclose(prediction, target.to(prediction.dtype), rtol=rounding, atol=_AGREE)
    return close.reshape(close.shape[0], math.prod(close.shape[1:])).all(dim=1)

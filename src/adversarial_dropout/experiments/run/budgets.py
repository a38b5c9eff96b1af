"""The budget δ of the searches, where it rises during training."""

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.trained.evaluation import evaluating
from adversarial_dropout.layers import AdversarialDropout, adversarial_layers


class RisingBudgets:
    """Lets the budget of each AdversarialDropout layer of ``model`` rise from one flip to the δ that it has now.

    Args:
        model: It is run once, in evaluation mode; random streams are unchanged.
        x: An example of its input, on any device.

    Raises:
        InvalidValueError: δ allows no more than one flip in any layer, so that nothing can rise.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        units: dict[AdversarialDropout, int] = {}

        def count(layer: AdversarialDropout, inputs: tuple[Tensor, ...]) -> None:
            sizes = [size for dim, size in enumerate(layer.mask_shape(inputs[0])) if dim != layer.batch_dim]
            units[layer] = int(torch.Size(sizes).numel())

        hooks = [layer.register_forward_pre_hook(count) for layer in adversarial_layers(model)]
        device = next(model.parameters()).device
        try:
            with evaluating(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
                model(x.to(device))
        finally:
            for hook in hooks:
                hook.remove()
        self._layers = [(layer, layer.delta, 1 / count) for layer, count in units.items()]
        if all(delta < 2 * one for _, delta, one in self._layers):
            flips = ", ".join(f"{delta:g} of {round(1 / one)}" for _, delta, one in self._layers)
            raise InvalidValueError(
                f"expected model.delta to allow two flips or more for training.ramp_delta, which lets it rise from "
                f"one, got {flips} units; raise model.delta, or leave training.ramp_delta out"
            )

    def set(self, share: float) -> None:
        """Set each δ to ``share``, in [0, 1], of its value at the end; to that of one flip where this is less."""
        for layer, delta, one in self._layers:
            layer.delta = max(min(delta, one), delta * share)

"""Passes of a model: where it is cut, and passes that leave its state unchanged."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.layers import AdversarialDropout, adversarial_layers
from adversarial_dropout.regularizers.model_io import Inputs, Output, call, select, tensors_in


class Part(nn.Module):
    """The part of a model that one of its methods computes."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, *x: Any, **named: Any) -> Any:
        return getattr(self.model, self.method)(*x, **named)


def cut(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Split ``model`` in front of its first AdversarialDropout layer into an under part and an upper part.

    An ``nn.Sequential`` is split in front of the first child that contains a layer, and that child is split in the same
    way. A model whose class has methods ``under`` and ``upper``, or that has submodules of these names with all layers
    in ``upper``, is split there, and so is a model of timm's form with all layers in its head
    (:func:`_is_features_and_head`). Any other model stays whole, with an empty under part; so does a module that has
    hooks or whose ``forward`` was replaced on the instance.
    """
    whole = nn.Sequential(), model
    hooks = (model._forward_pre_hooks, model._forward_hooks, model._backward_pre_hooks, model._backward_hooks)
    if any(hooks) or "forward" in vars(model):
        return whole
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        children = list(model)
        first = next((i for i, child in enumerate(children) if adversarial_layers(child)), None)
        if first is None:
            return whole
        if isinstance(children[first], AdversarialDropout):
            return nn.Sequential(*children[:first]), nn.Sequential(*children[first:])
        inner_under, inner_upper = cut(children[first])
        return nn.Sequential(*children[:first], inner_under), nn.Sequential(inner_upper, *children[first + 1 :])
    # The class decides: a wrapper may have the attributes of the model inside it, but a forward that differs.
    if callable(getattr(type(model), "under", None)) and callable(getattr(type(model), "upper", None)):
        return Part(model, "under"), Part(model, "upper")
    under, upper = model._modules.get("under"), model._modules.get("upper")
    if under is not None and upper is not None and adversarial_layers(upper) == adversarial_layers(model):
        return under, upper
    if _is_features_and_head(model):
        return Part(model, "forward_features"), Part(model, "forward_head")
    return whole


def _is_features_and_head(model: nn.Module) -> bool:
    """Whether ``forward(x)`` is ``forward_head(forward_features(x))``, as in timm, with all layers in the head.

    The names in the code of these methods say so: ``forward`` calls nothing else, and the submodules that contain the
    layers appear in ``forward_head`` and not in ``forward_features``.
    """

    def names(method: str) -> set[str]:
        function = getattr(type(model), method, None)
        function = inspect.unwrap(function) if callable(function) else None
        return set(function.__code__.co_names) if inspect.isfunction(function) else set()

    with_layers = {name for name, child in model._modules.items() if child is not None and adversarial_layers(child)}
    calls_both = names("forward") == {"forward_features", "forward_head"}
    return calls_both and bool(with_layers) and with_layers <= names("forward_head") - names("forward_features")


def run_model(model: nn.Module, x: Inputs, output: Output = None) -> Tensor:
    """The prediction in ``model(x)``, a tensor with the examples in dimension 0."""
    return select(call(model, x), output)


@contextlib.contextmanager
def replacing(
    model: nn.Module,
    *,
    parameters: Callable[[Tensor], Tensor] | None = None,
    buffers: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Replace the parameters and buffers of ``model`` by functions of them, for the passes inside the context.

    ``parameters=Tensor.detach`` runs passes that build no graph for the parameters. (``torch.no_grad`` would not do:
    under autocast, PyTorch before 2.10 caches the casts of the parameters without a graph, and later passes give no
    gradient.) ``buffers=Tensor.clone`` runs passes that change no buffer.

    TorchScript replaces nothing. Its parameters stay in the graph, and the buffers get their values back.

    A backward pass through activation checkpoints recomputes activations, so it belongs inside the context too.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InvalidValueError(
            "expected initialised parameters, got lazy ones that have no shape yet; run the model once on a batch first"
        )
    scripted = [module for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    if parameters is not None:
        _check_scripted(scripted, parameters)
    before = [
        (module, dict(module.named_parameters(recurse=False, remove_duplicate=False)), dict(module._buffers))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    copies: dict[Tensor, Tensor] = {}  # A buffer that two modules share stays shared.
    cache_enabled, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        for module, its_parameters, its_buffers in before:
            if parameters is not None:
                for name, parameter in its_parameters.items():
                    module._parameters[name] = parameters(parameter)  # type: ignore[assignment]
            if buffers is not None:
                for name, buffer in its_buffers.items():
                    module._buffers[name] = None if buffer is None else copies.setdefault(buffer, buffers(buffer))
        with contextlib.nullcontext() if buffers is None else _restoring_scripted(scripted):
            yield
    finally:
        parametrize._cache_enabled = cache_enabled
        for module, its_parameters, its_buffers in before:
            module._parameters.update(its_parameters)
            if buffers is not None:
                module._buffers.clear()  # Forgets buffers that the passes have created.
                module._buffers.update(its_buffers)


def _check_scripted(scripted: Sequence[nn.Module], parameters: Callable[[Tensor], Tensor]) -> None:
    """Raise if ``parameters`` changes the dtype of a parameter in TorchScript, which cannot be replaced."""
    for parameter in (parameter for module in scripted for parameter in module.parameters()):
        if parameters(parameter).dtype != parameter.dtype:
            raise InvalidTypeError(
                f"expected TorchScript in float32 or float64, got {parameter.dtype}: this pass runs half-precision "
                f"models in float32, and the parameters of TorchScript cannot be replaced; use module.float() under "
                f"autocast, or the module that it was made from"
            )


@contextlib.contextmanager
def _restoring_scripted(scripted: Sequence[nn.Module]) -> Iterator[None]:
    """Give the buffers of TorchScript modules their values back, in the way in which the passes have changed them.

    An operation that counts its change, such as ``add_``, is undone by one that counts. Normalisation updates its
    running statistics uncounted, because its backward pass in training does not read them; so they are restored
    uncounted, and the graphs of earlier passes stay valid.
    """
    before = [
        (module, name, buffer, buffer.detach().clone(), buffer._version)
        for module in scripted
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values, version in before:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                (buffer.data if buffer._version == version else buffer).copy_(values)


def detached_copy(tensor: Tensor) -> Tensor:
    """A copy of ``tensor`` without its graph, usable in a new graph even if made in inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().clone()


def held_generators(model: nn.Module) -> set[torch.Generator]:
    """Every ``torch.Generator`` that a module of ``model`` has as an attribute."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    return {value for value in attributes if isinstance(value, torch.Generator)}


class Noise:
    """The random streams that a pass may draw from.

    These are PyTorch's default generators of the CPU and of the devices of ``model`` and ``x``, and the generators that
    the modules of ``model`` have as attributes.
    """

    def __init__(self, model: nn.Module, x: Inputs) -> None:
        self._streams: list[tuple[Callable[[], Tensor], Callable[[Tensor], object]]]
        self._streams = [(torch.get_rng_state, torch.set_rng_state)]
        for device in {tensor.device for tensor in (*tensors_in(x), *model.parameters(), *model.buffers())}:
            if device.type not in ("cpu", "meta"):
                backend = torch.get_device_module(device)
                where = {} if device.type == "mps" else {"device": device}
                self._streams.append((partial(backend.get_rng_state, **where), partial(backend.set_rng_state, **where)))
        self._streams += [(generator.get_state, generator.set_state) for generator in held_generators(model)]

    def states(self) -> list[Tensor]:
        """The state of each stream."""
        return [get_state() for get_state, _ in self._streams]

    def restore(self, states: list[Tensor]) -> None:
        """Set each stream to its state in ``states``."""
        for (_, set_state), state in zip(self._streams, states, strict=True):
            set_state(state)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the streams afterwards, so that the next pass draws the same noise."""
        before = self.states()
        try:
            yield
        finally:
            self.restore(before)


def preserving_noise(model: nn.Module, x: Inputs) -> contextlib.AbstractContextManager[None]:
    """Restore the random streams afterwards, so that the next pass draws the same :class:`Noise`."""
    return Noise(model, x).preserved()


def check_not_recomputed() -> None:
    """Raise inside a non-reentrant ``torch.utils.checkpoint``, which would compute the activations a second time.

    Its saved-tensor hooks are the only trace of it. (A reentrant checkpoint does not support a search's gradient.)
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None or torch.compiler.is_compiling():
        return
    hooks = top(True)
    if hooks and "checkpoint" in getattr(hooks[0], "__qualname__", ""):
        raise InvalidValueError(
            "an AdversarialDropout layer is in a part of the model under torch.utils.checkpoint, which would recompute "
            "it in the backward pass with a different mask; leave the layer out of that part"
        )


def check_differentiable() -> None:
    """Raise where a search reaches a layer without gradients, as inside a reentrant ``torch.utils.checkpoint``."""
    if not torch.is_grad_enabled():
        raise InvalidValueError(
            "expected gradients where a search reaches an AdversarialDropout layer, but they are disabled there: the "
            "model uses no_grad(), or a torch.utils.checkpoint with use_reentrant=True around the layer; leave the "
            "layer out of that part"
        )


def gradients(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of ``value`` in ``inputs`` alone; says what to do about a reentrant ``torch.utils.checkpoint``."""
    try:
        return torch.autograd.grad(value, inputs, materialize_grads=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise InvalidValueError(
            "a part of the model that this gradient passes through is under torch.utils.checkpoint with "
            "use_reentrant=True, which supports backward() alone; give the checkpoint use_reentrant=False"
        ) from error


@contextlib.contextmanager
def without_fused_layers() -> Iterator[None]:
    """Let ``nn.TransformerEncoderLayer`` call its submodules, among them a layer, in evaluation too."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)

"""Runs a model, or a part of it, without side effects: where to cut, replayed noise, copied buffers."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, NonFiniteError, values_readable
from adversarial_dropout.layers import AdversarialDropout, adversarial_layers

Result = TypeVar("Result")


class Part(nn.Module):
    """The part of a model that one of its methods computes."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        part: Tensor = getattr(self.model, self.method)(x)
        return part


def cut(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Split ``model`` in front of its first AdversarialDropout layer into ``under`` and ``upper``.

    An ``nn.Sequential`` is split in front of the first child that contains a layer, and such a child is opened in its
    turn. A model whose class has methods ``under`` and ``upper``, or that has submodules of these names with all layers
    in ``upper``, is split there. Anything else, and a module whose call does more than its ``forward`` (hooks, a
    ``forward`` patched into the instance), stays whole: ``under`` is empty.
    """
    if _does_more_than_forward(model):
        return whole(model)
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        children = list(model)
        first = next((i for i, child in enumerate(children) if adversarial_layers(child)), None)
        if first is None:
            return whole(model)
        below, above = children[:first], children[first + 1 :]
        if isinstance(children[first], AdversarialDropout):
            return nn.Sequential(*below), nn.Sequential(*children[first:])
        inner_under, inner_upper = cut(children[first])
        return nn.Sequential(*below, inner_under), nn.Sequential(inner_upper, *above)
    # Looked up in the class: a wrapper that passes attributes on to what it wraps has a forward of its own.
    if callable(getattr(type(model), "under", None)) and callable(getattr(type(model), "upper", None)):
        return Part(model, "under"), Part(model, "upper")
    under, upper = model._modules.get("under"), model._modules.get("upper")
    if under is not None and upper is not None and adversarial_layers(upper) == adversarial_layers(model):
        return under, upper
    return whole(model)


def whole(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """``model`` with nothing cut off: an empty under part, everything in the upper one."""
    return nn.Sequential(), model


def _does_more_than_forward(model: nn.Module) -> bool:
    hooks = (model._forward_pre_hooks, model._forward_hooks, model._backward_pre_hooks, model._backward_hooks)
    return any(hooks) or "forward" in vars(model)


def run_model(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)``, checked to be a tensor with a batch dimension.

    The model gets a copy of ``x``, because it may start with an in-place operation, and other passes need ``x`` too.
    """
    result: object = model(x.clone())
    if not isinstance(result, Tensor) or result.dim() == 0:
        what = "a tensor without dimensions" if isinstance(result, Tensor) else type(result).__name__
        raise InvalidTypeError(
            f"expected the model to return a tensor of shape (N, ...), got {what}; wrap the model so that "
            f"forward (and under, and upper) returns one tensor"
        )
    return result


def run_without_graph(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)`` with the parameters as constants; buffers move as the model's mode says.

    Not ``torch.no_grad``: under autocast, PyTorch before 2.10 then caches casts of the parameters without a graph, and
    the passes after it give no gradient.
    """
    return _run_with(_detached_parameters(model), model, detached_copy(x), _as_it_is)


def run_without_side_effects(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)`` on copies of the buffers: it normalises as its mode says and leaves every buffer as it was."""
    with _no_buffer_made(model):
        return _run_with(dict(_parameters(model)) | _copied_buffers(model), model, x, _as_it_is)


def run_frozen(model: nn.Module, x: Tensor, then: Callable[[Tensor], Result], *, precise: bool = False) -> Result:
    """``then(model(x))`` without side effects and with the parameters as constants: no graph is built for them.

    Args:
        model: Module or part of one.
        x: Its input.
        then: What is made of the output. A backward pass belongs here, where a model with activation checkpoints
            recomputes with the same parameters.
        precise: Compute in float32 where the parameters, ``x`` or autocast say half precision.
    """
    state = _detached_parameters(model) | _copied_buffers(model)
    autocast: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if precise:
        state = {name: _at_least_float32(tensor) for name, tensor in state.items()}
        x = _at_least_float32(x)
        autocast = torch.autocast(x.device.type, enabled=False)
    with autocast, _no_buffer_made(model):
        return _run_with(state, model, x, then)


class _Then(nn.Module):
    """A model and what is done with its output, while its parameters and buffers are substituted."""

    def __init__(self, model: nn.Module, then: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model = model
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        prediction = run_model(self.model, x)
        self.then(prediction)
        return prediction  # A tensor, because global hooks of modules see it.


def _run_with(state: dict[str, Tensor], model: nn.Module, x: Tensor, then: Callable[[Tensor], Result]) -> Result:
    inner = {f"model.{name}": tensor for name, tensor in state.items()}
    made: list[Result] = []
    with _no_weight_cached():
        functional_call(_Then(model, lambda prediction: made.append(then(prediction))), inner, (x,))
    return made[0]


def _as_it_is(prediction: Tensor) -> Tensor:
    return prediction


def _detached_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in _parameters(model)}


def _copied_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@contextlib.contextmanager
def _no_weight_cached() -> Iterator[None]:
    """Keep substituted weights out of the cache of ``torch.nn.utils.parametrize.cached()``, if it is on."""
    before = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before


def detached_copy(tensor: Tensor) -> Tensor:
    """A copy of ``tensor`` without its graph, fit for a new one also where it was made in inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().clone()


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    parameters = list(model.named_parameters())
    if any(is_lazy(parameter) for _, parameter in parameters):
        raise InvalidValueError(
            "expected initialised parameters, got lazy ones that have no shape yet; run the model once on a batch first"
        )
    return parameters


@contextlib.contextmanager
def _no_buffer_made(model: nn.Module) -> Iterator[None]:
    """Forget buffers that a pass makes at its first call; ``functional_call`` takes back only those it was given."""
    before = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, buffers in before:
            module._buffers.clear()
            module._buffers.update(buffers)


def input_gradient(model: nn.Module, x: Tensor, values: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of ``values(model(x)).sum()`` in x, in float32 or better, by a pass that changes no buffer.

    Args:
        model: Module whose parameters are taken as constants.
        x: Floating input, shape (N, ...).
        values: From the model's output to one value per example.

    Raises:
        InvalidValueError: the gradient has NaN or infinite entries.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = _at_least_float32(detached_copy(x)).requires_grad_()

        def gradient_of(prediction: Tensor) -> Tensor:
            return torch.autograd.grad(values(prediction).sum(), leaf, materialize_grads=True)[0]

        gradient = run_frozen(model, leaf, gradient_of, precise=True)
    if values_readable(gradient) and not gradient.isfinite().all():
        what = "x is finite, so look at the model's output" if bool(x.isfinite().all()) else "x is not finite"
        raise NonFiniteError(f"expected a finite gradient in x, got NaN or infinite entries: {what}")
    return gradient


def check_perturbable(x: Tensor) -> None:
    """Raise unless ``x`` can be moved by a small step."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidTypeError(
            f"expected floating x, got {what}; an input that cannot be moved by a small step, such as token ids, has "
            f"no gradient: pass embeddings, with a model that starts from them"
        )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def held_generators(model: nn.Module) -> set[torch.Generator]:
    """Every ``torch.Generator`` that a module of ``model`` holds as an attribute."""
    held = (value for module in model.modules() for value in vars(module).values())
    return {value for value in held if isinstance(value, torch.Generator)}


class Noise:
    """The random streams that a model can draw from, so that passes can see the same noise again.

    These are PyTorch's default generators on the CPU and on the devices of the model and of ``x``, and any
    ``torch.Generator`` that a module of the model holds as an attribute.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._get: list[Callable[[], Tensor]] = [torch.get_rng_state]
        self._set: list[Callable[[Tensor], object]] = [torch.set_rng_state]
        for device in {tensor.device for tensor in (x, *model.parameters(), *model.buffers())}:
            if device.type in ("cpu", "meta"):
                continue
            backend = torch.get_device_module(device)
            where = {} if device.type == "mps" else {"device": device}
            self._get.append(partial(backend.get_rng_state, **where))
            self._set.append(partial(backend.set_rng_state, **where))
        for generator in held_generators(model):
            self._get.append(generator.get_state)
            self._set.append(generator.set_state)

    def mark(self) -> list[Tensor]:
        """Where the streams stand now."""
        return [get() for get in self._get]

    def rewind(self, mark: list[Tensor]) -> None:
        """Put the streams back to ``mark``."""
        for set_state, state in zip(self._set, mark, strict=True):
            set_state(state)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Run passes whose draws are taken back afterwards."""
        mark = self.mark()
        try:
            yield
        finally:
            self.rewind(mark)


def check_not_computed_again() -> None:
    """Raise where a non-reentrant ``torch.utils.checkpoint`` drops activations, to compute them again later.

    The hooks that it sets are the only trace. (A reentrant one refuses a search by itself.)
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None or torch.compiler.is_compiling():
        return
    hooks = top(True)
    if hooks and "checkpoint" in getattr(hooks[0], "__qualname__", ""):
        raise InvalidValueError(
            "an AdversarialDropout layer lies in a part of the model under torch.utils.checkpoint, which would be "
            "computed again, in the backward pass, with another mask; leave the layer out of that part"
        )

"""Under PyTorch's tracers and transforms: what they must run as it is, and what they must not keep."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_functorch = torch._C._functorch


def eagerly(function: Callable[P, T], reason: str) -> Callable[P, T]:
    """``function``, but ``torch.compile`` breaks its graph and runs the function as it is.

    With ``fullgraph=True`` the error of ``torch.compile`` shows ``reason``.
    """
    if not torch.compiler.is_compiling():
        return function
    torch._dynamo.graph_break(msg=reason)
    eager: Callable[P, T] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return eager


def exporting() -> bool:
    """Whether ``torch.export`` runs the caller on a copy of the model that must stay as it is."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def recording() -> bool:
    """Whether ``torch.jit.trace`` records the operations of the caller."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def transformed(tensor: Tensor) -> bool:
    """Whether ``tensor`` stands for values inside a transform of ``torch.func``."""
    return not torch.compiler.is_compiling() and _functorch.is_functorch_wrapped_tensor(tensor)


def under_transform() -> bool:
    """Whether a transform of ``torch.func``, such as ``grad`` or ``vmap``, runs the caller."""
    return not torch.compiler.is_compiling() and _functorch.maybe_current_level() is not None


def outside_transforms(tensor: Tensor) -> Tensor | None:
    """``tensor`` as it is outside the transforms of ``torch.func``: ``None`` if a ``vmap`` has one for each entry."""
    if torch.compiler.is_compiling():
        return tensor
    while _functorch.is_gradtrackingtensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return None if transformed(tensor) else tensor


def as_leaf(module: torch.nn.Module, proxy: torch.fx.Proxy) -> torch.fx.Proxy:
    """The call of ``module`` in the graph of ``torch.fx.symbolic_trace``, which does not trace into the module."""
    tracer = proxy.tracer
    assert isinstance(tracer, torch.fx.Tracer)
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (proxy,), {})

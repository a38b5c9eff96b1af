"""What modules take and return: tensors in tuples, lists, mappings and dataclasses."""

import copy
import dataclasses
import enum
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    slice,
    enum.Enum,
    EllipsisType,
    torch.Size,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


class UnknownTypeError(Exception):
    """A value is neither a tensor, nor a plain value, nor a container of these."""


def leaves(value: Any) -> list[Any]:
    """The tensors and plain values in ``value``, in their order, with the type of each container in front of its own.

    Raises:
        UnknownTypeError: there is something else in it.
    """
    if isinstance(value, Tensor) or value is None or isinstance(value, _PLAIN):
        return [value]
    found = [type(value)]
    for key, item in _items(value):
        found += [key, *leaves(item)]
    return found


def mapped(value: Any, change: Callable[[Any], Any], kinds: tuple[type, ...] = (Tensor,)) -> Any:
    """``value`` with each tensor, or what else is of these ``kinds``, changed, in new containers of the same types.

    Raises:
        UnknownTypeError: there is something else in it.
    """
    if isinstance(value, kinds):
        return change(value)
    if value is None or isinstance(value, _PLAIN):
        return value
    items = {key: mapped(item, change, kinds) for key, item in _items(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        made: Any = type(value)
        return made._make(items.values())
    if isinstance(value, tuple | list):
        return type(value)(items.values())
    result = copy.copy(value)
    for key, item in items.items():
        if isinstance(value, Mapping):
            result[key] = item
        else:
            object.__setattr__(result, key, item)
    return result


def _items(value: Any) -> list[tuple[Any, Any]]:
    """The keys and values of a container."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    raise UnknownTypeError(type(value).__name__)


def tensors_in(values: list[Any]) -> list[Tensor]:
    """The tensors in a list."""
    return [value for value in values if isinstance(value, Tensor)]


def form(values: list[Any]) -> list[Any]:
    """``values`` with shape, dtype and device in place of each tensor."""
    return [
        (None if value.is_nested else value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value
        for value in values
    ]


def memory(tensors: list[Tensor]) -> set[int]:
    """Where the entries of the tensors are stored: tensors that share entries share a place."""
    return {t.untyped_storage().data_ptr() for t in tensors if t.layout == torch.strided and not t.is_meta} - {0}

"""What goes into a model and what comes out of it: tensors, tuples, mappings, objects with logits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map_only

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, did_you_mean

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
"""A batch: ``model(x)``, ``model(*x)`` or ``model(**x)``."""
Output = str | int | Callable[[Any], Tensor] | None
"""Which part of what the model returns is the prediction: its name, its index, or a function that takes it out."""


_MISSING = object()


def as_inputs(x: object) -> Inputs:
    """A batch as a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Raises:
        InvalidTypeError: ``x`` is something else, or holds no tensor, or a tensor without values to compute with.
    """
    if isinstance(x, Mapping):
        x = dict(x)
        if not all(isinstance(name, str) for name in x):
            raise InvalidTypeError(f"expected the names of arguments as keys of x, got {list(x)}")
    elif isinstance(x, PackedSequence):
        x = (x,)
    elif not isinstance(x, Tensor | tuple):
        raise InvalidTypeError(
            f"expected x to be a tensor, a tuple for model(*x) or a mapping for model(**x), got {type(x).__name__}"
            f"{'; pass tuple(x)' if isinstance(x, list) else ''}"
        )
    found = tensors_in(x)
    if not found:
        raise InvalidTypeError(f"expected a tensor in x, got a {type(x).__name__} without one")
    for tensor in found:
        if tensor.is_meta:
            raise InvalidTypeError("expected x with values, got a meta tensor; move it to a device with data")
        if tensor.is_floating_point() and tensor.itemsize == 1:
            raise InvalidTypeError(f"expected x in 16 bits or more, got {tensor.dtype}; pass x.to(torch.bfloat16)")
    return x


def tensors_in(x: object) -> list[Tensor]:
    """The tensors of a batch, in their order; a ``PackedSequence`` counts as its data."""
    leaves = (leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in tree_leaves(x))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def is_packed(x: object) -> bool:
    """Whether there is a ``PackedSequence`` in a batch."""
    leaves = tree_leaves(x, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))
    return any(isinstance(leaf, PackedSequence) for leaf in leaves)


def map_tensors(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """``x`` with each tensor changed."""
    return change(x) if isinstance(x, Tensor) else tree_map_only(Tensor, change, x)


def call(model: nn.Module, x: Inputs) -> Any:
    """``model(x)``, ``model(*x)`` or ``model(**x)``.

    The model gets copies of the tensors, because it may start with an in-place operation, and other passes need them.
    """
    x = map_tensors(Tensor.clone, x)
    if isinstance(x, tuple):
        return model(*x)
    return model(**x) if isinstance(x, dict) else model(x)


def select(returned: object, output: Output) -> Tensor:
    """The prediction in what a model returned, with the examples in dimension 0.

    Raises:
        InvalidTypeError, InvalidValueError: there is no such part, or it is not a tensor with a batch dimension.
    """
    if callable(output):
        try:
            part: object = output(returned)
        except Exception as error:
            raise InvalidTypeError(
                f"expected output= to take the prediction out of what the model returned, {_described(returned)}, "
                f"but the function raises {type(error).__name__}: {error}"
            ) from error
    elif output is None:
        part = returned if isinstance(returned, Tensor) else _part(returned, "logits", returned)
    else:
        part = _part(returned, output, _MISSING)
        if part is _MISSING:
            names = _parts(returned)
            raise InvalidValueError(
                f"expected an output named {output!r}, but the model returned {_described(returned)}"
                f"{did_you_mean(output, [name for name in names if isinstance(name, str)])}"
            )
    if isinstance(part, Tensor) and part.is_meta:
        raise InvalidTypeError("expected logits with values, got a meta tensor; move the model to a device with data")
    if isinstance(part, Tensor) and part.dim() > 0:
        return part
    what = "a tensor without dimensions" if isinstance(part, Tensor) else _described(part)
    raise InvalidTypeError(
        f"expected the model to return a tensor of shape (N, ...), or an object or mapping with logits, got {what}; "
        f"say which part is the prediction: output=NAME, output=INDEX or output=lambda returned: ..."
    )


def _parts(returned: object) -> dict[str | int, object]:
    """The named or numbered parts of what a model returned."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return {**returned._asdict(), **dict(enumerate(returned))}
    if isinstance(returned, tuple | list):
        return dict(enumerate(returned))
    return {} if isinstance(returned, Tensor) else dict(getattr(returned, "__dict__", {}))


def _part(returned: object, output: str | int, otherwise: object) -> object:
    if isinstance(output, int) and hasattr(returned, "__getitem__") and not isinstance(returned, Tensor):
        try:
            return returned[output]
        except (LookupError, TypeError):
            return otherwise
    if isinstance(output, str) and not isinstance(returned, Tensor | Mapping) and hasattr(returned, output):
        part: object = getattr(returned, output)
        return part
    return _parts(returned).get(output, otherwise)


def _described(value: object) -> str:
    """A value in words: its type, and the parts that it has."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    parts = _parts(value)
    if not parts:
        return type(value).__name__
    inner = ", ".join(
        f"{name}: {f'tensor {tuple(part.shape)}' if isinstance(part, Tensor) else type(part).__name__}"
        for name, part in parts.items()
    )
    return f"{type(value).__name__} with {inner}"


def perturbable(x: Inputs) -> Tensor:
    """The one floating tensor of a batch.

    Raises:
        InvalidTypeError: it has none, or several.
    """
    floating = [tensor for tensor in tensors_in(x) if tensor.is_floating_point()]
    if len(floating) == 1 and floating[0].layout == torch.strided:
        return floating[0]
    found = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors_in(x))
    raise InvalidTypeError(
        f"expected floating x, one dense tensor that can be moved by a small step, got {found}; for token ids, or "
        f'for one of several inputs, name the module whose output is to be moved, such as embedding="word_embeddings"'
    )

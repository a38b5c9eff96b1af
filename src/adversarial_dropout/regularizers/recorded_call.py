"""One call of a module, and its output for another call that must give the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.regularizers.buffers import version
from adversarial_dropout.regularizers.passes import Noise
from adversarial_dropout.regularizers.trees import UnknownTypeError, form, leaves, mapped, memory, tensors_in


@dataclass(frozen=True, eq=False)
class _Argument:
    """Stands in a recorded output for a tensor that the module was given."""

    index: int


@dataclass(frozen=True, eq=False)
class RecordedCall:
    """One recorded call.

    Attributes:
        module: What was called.
        form: Its arguments, with the form of each tensor in place of the tensor.
        output: What it returned.
        tensors: The tensors in it that the call has made, or copies of them, and their versions then.
        returned: These tensors themselves.
        noise: The states of the random streams afterwards; ``None`` if it has drawn nothing.
        copied: Whether each use gets a copy of the output, because it changes it in place.
    """

    module: nn.Module
    form: list[Any]
    output: Any
    tensors: list[tuple[Tensor, int]]
    returned: list[Tensor]
    noise: list[Tensor] | None
    copied: bool

    def unchanged(self) -> bool:
        """Whether no tensor of the output was changed in place since."""
        return all(version(tensor) == before for tensor, before in self.tensors)

    def has_hooks(self) -> bool:
        """Whether gradients of the output are changed on their way: each pass needs an output of its own."""
        return any(tensor._backward_hooks for tensor in self.returned)

    def again(self, given: list[Any], *, detached: bool) -> Any:
        """The output for the arguments ``given``, without its graph if ``detached``."""
        inputs, outputs = tensors_in(given), {}
        for tensor, _ in self.tensors:
            output = tensor.detach() if detached else tensor
            outputs[id(tensor)] = output.clone() if self.copied else output
        return mapped(
            self.output,
            lambda leaf: inputs[leaf.index] if isinstance(leaf, _Argument) else outputs[id(leaf)],
            (Tensor, _Argument),
        )


def recorded(
    module: nn.Module, call: Callable[[], Any], arguments: Any, noise: Noise, *, copied: bool
) -> tuple[Any, RecordedCall | None]:
    """The output of ``call()``, and its record; ``None`` if the output cannot stand for the call.

    That is so if the call changes an argument, or returns a part of one or something of an unknown type.
    """
    given = leaves(arguments)
    inputs, before = tensors_in(given), noise.states()
    versions = list(map(version, inputs))
    output = call()
    after = noise.states()
    try:
        returned, still_given = leaves(output), leaves(arguments)
    except UnknownTypeError:
        return output, None
    made = [tensor for tensor in tensors_in(returned) if not any(map(partial(is_, tensor), inputs))]
    given_is_unchanged = (
        list(map(version, inputs)) == versions
        and len(still_given) == len(given)
        and all(map(is_, tensors_in(still_given), inputs))
    )
    copies_would_part = copied and len(memory(made)) < len(set(map(id, made)))
    wrapped = any(map(torch._C._functorch.is_functorch_wrapped_tensor, (*inputs, *made)))
    if wrapped or not given_is_unchanged or memory(made) & memory(inputs) or copies_would_part:
        return output, None
    kept = {id(tensor): tensor.clone() if copied else tensor for tensor in made}
    places = {id(tensor): _Argument(index) for index, tensor in enumerate(inputs)}
    try:
        rebuilt = mapped(output, lambda tensor: places.get(id(tensor)) or kept[id(tensor)])
    except Exception:  # A container that cannot be made from its entries.
        return output, None
    return output, RecordedCall(
        module,
        form(given),
        rebuilt,
        [(tensor, version(tensor)) for tensor in kept.values()],
        made,
        None if all(map(torch.equal, before, after)) else after,
        copied,
    )

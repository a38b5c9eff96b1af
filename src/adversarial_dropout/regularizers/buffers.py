"""The buffers of modules, and how often a tensor was changed."""

from collections.abc import Container, Iterable

import torch
from torch import Tensor, nn

from adversarial_dropout.regularizers.passes import detached_copy


class Buffers:
    """The buffers of modules and their values, to return to."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._before = [
            (
                module,
                dict(module._buffers),
                [
                    (buffer, detached_copy(buffer), version(buffer))
                    for buffer in module._buffers.values()
                    if buffer is not None
                ],
            )
            for module in modules
        ]

    def restore(self, but: Container[nn.Module] = ()) -> None:
        """Set them to these values, except those of the modules ``but``."""
        for module, buffers, values in self._before:
            if module in but:
                continue
            module._buffers.clear()
            module._buffers.update(buffers)
            for buffer, value, count in values:
                if version(buffer) != count:
                    with torch.no_grad():
                        buffer.copy_(value)
                elif not torch.equal(buffer, value):
                    buffer.data.copy_(value)  # Batch normalisation leaves the version, too.


def version(tensor: Tensor) -> int:
    """How often ``tensor``, or a tensor that shares its entries, was changed in place."""
    return 0 if tensor.is_inference() else tensor._version

"""A small step r in the input, or in what one module returns, for adversarial and virtual adversarial training."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import (
    InvalidTypeError,
    InvalidValueError,
    NonFiniteError,
    did_you_mean,
    values_readable,
)
from adversarial_dropout.regularizers.model_io import Inputs, Output, map_tensors, perturbable
from adversarial_dropout.regularizers.passes import detached_copy, gradients, preserving_noise, replacing, run_model


class Perturbation:
    """A model and a batch x, and the place where r is added: the floating input, or the output of one module.

    Args:
        model: The model.
        x: The batch.
        embedding: Name of the module whose output is moved, or the end of its name, such as ``"word_embeddings"``;
            ``None`` moves the one floating tensor in ``x``.
        output: Which part of the model's output is the prediction.
    """

    def __init__(self, model: nn.Module, x: Inputs, embedding: str | None, output: Output) -> None:
        self._model, self._x, self._output = model, x, output
        self._module = None if embedding is None else _named(model, embedding)
        self._moved = perturbable(x) if self._module is None else None

    def run(self, r: Tensor | None = None) -> Tensor:
        """f(x + r), in the model's mode; for ``None`` f(x), of copies of x without a graph."""
        return self._run(self._x if r is not None else map_tensors(detached_copy, self._x), r)

    def run_without_side_effects(self, r: Tensor) -> Tensor:
        """f(x + r) on copies of the buffers: normalisation follows the model's mode, and no buffer changes."""
        with replacing(self._model, buffers=Tensor.clone):
            return self.run(r.to(self.moved().dtype))

    def moved(self) -> Tensor:
        """What r is added to, from a pass without side effects if no pass has been run yet."""
        if self._moved is None:
            with torch.no_grad(), preserving_noise(self._model, self._x), replacing(self._model, buffers=Tensor.clone):
                self.run()
        assert self._moved is not None
        return self._moved

    def gradient(self, r: Tensor, values: Callable[[Tensor], Tensor]) -> Tensor:
        """Gradient of ``values(f(x + r)).sum()`` in r, by a pass that changes no buffer and no random stream.

        It is computed in float32 where the parameters, ``x`` or autocast use half precision.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = detached_copy(r).requires_grad_()
            x = map_tensors(lambda tensor: _at_least_float32(detached_copy(tensor)), self._x)
            with (
                torch.autocast(leaf.device.type, enabled=False),
                preserving_noise(self._model, x),
                replacing(
                    self._model,
                    parameters=lambda parameter: _at_least_float32(parameter.detach()),
                    buffers=lambda buffer: _at_least_float32(buffer.clone()),
                ),
            ):
                total = values(self._run(x, leaf)).sum()
                gradient = gradients(total, [leaf])[0]
        if values_readable(gradient) and not gradient.isfinite().all():
            finite = bool(self.moved().isfinite().all())
            what = "x is finite, so look at the model's output" if finite else "x is not finite"
            raise NonFiniteError(f"expected a finite gradient in x, got NaN or infinite entries: {what}")
        return gradient

    def _run(self, x: Inputs, r: Tensor | None) -> Tensor:
        if self._module is not None:
            with self._adding(self._module, r):
                return run_model(self._model, x, self._output)
        if r is not None:
            moved = perturbable(x)
            x = map_tensors(lambda tensor: tensor + r if tensor is moved else tensor, x)
        return run_model(self._model, x, self._output)

    @contextlib.contextmanager
    def _adding(self, module: nn.Module, r: Tensor | None) -> Iterator[None]:
        """Add r to what ``module`` returns, which must happen once in the pass inside the context."""
        calls = 0

        def add(_: nn.Module, inputs: object, returned: object) -> Tensor:
            nonlocal calls
            calls += 1
            if not isinstance(returned, Tensor) or not returned.is_floating_point():
                raise InvalidTypeError(
                    f"expected the module named by embedding= to return a floating tensor, got "
                    f"{returned.dtype if isinstance(returned, Tensor) else type(returned).__name__}"
                )
            if self._moved is None:
                self._moved = returned.detach()
            return returned if r is None else returned + r.to(returned.dtype)

        hook = module.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()
        if calls != 1:
            raise InvalidValueError(
                f"expected the pass to call the module named by embedding= once, but it called it {calls} times"
                f"{'; a compiled model does not see it: pass the model before torch.compile' if not calls else ''}"
            )


def _named(model: nn.Module, name: str) -> nn.Module:
    """The module of this name, or the only one whose name ends in it."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    found = {module for path, module in modules.items() if path and (path == name or path.endswith(f".{name}"))}
    if name in modules and name:
        return modules[name]
    if len(found) == 1:
        return found.pop()
    embeddings = [path for path, module in modules.items() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    raise InvalidValueError(
        f"expected embedding= to name one module of the model, got {name!r}, which fits {len(found)}"
        f"{did_you_mean(name, [path for path in modules if path])}; its embeddings: {', '.join(embeddings) or 'none'}"
    )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor

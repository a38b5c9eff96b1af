"""The base class of the regularisers: their call, the checks of its arguments, the reduction of the values."""

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.errors import (
    AdversarialDropoutError,
    AdversarialDropoutWarning,
    InvalidTypeError,
    InvalidValueError,
    NonFiniteError,
    check_choice,
    values_readable,
)
from adversarial_dropout.layers import preserving_last_masks
from adversarial_dropout.logits import of_shape
from adversarial_dropout.regularizers.model_io import Inputs, Output, as_inputs, select, tensors_in
from adversarial_dropout.regularizers.passes import detached_copy, run_model
from adversarial_dropout.tracing import eagerly, under_transform

P = ParamSpec("P")
Reduction = Literal["mean", "sum", "none"]

UNLABELLED = -1
"""The label of a row whose class is unknown, as in scikit-learn."""


class Regularizer(nn.Module, ABC):
    """Base class of the regularisers, which are called as ``reg(model, x, y=None, *, target=None, mask=None)``.

    A subclass implements :meth:`per_example`. It sets ``supervised = True`` if it needs labels, and keeps each argument
    of ``__init__`` as an attribute of the same name, which ``repr`` shows.

    Args:
        divergence: D, a name or a function; see :func:`~adversarial_dropout.divergences.resolve_divergence`.
        reduction: ``"mean"`` over the examples (those with a position that counts and, in a supervised method, a
            label), ``"sum"``, or ``"none"`` for one value per example, shape (N,).
        output: Which part of what the model returns is the prediction: a name, an index, or a function that takes it
            out. ``None``: the tensor that the model returns, or the ``logits`` of an object or mapping.
        class_dim: The dimension of the classes in predictions with positions: 1 for (N, C, H, W), -1 for (N, T, C).
    """

    supervised = False

    def __init__(
        self,
        *,
        divergence: str | Divergence = "kl",
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        if (
            output is not None
            and not callable(output)
            and (isinstance(output, bool) or not isinstance(output, str | int))
        ):
            raise InvalidTypeError(f"expected output to be a name, an index or a function, got {output!r}")
        self.divergence_of = resolve_divergence(divergence, class_dim)
        """D as a function: ``(target, prediction, mask) -> values of shape (N,)``."""
        self.divergence = divergence
        self.reduction = reduction
        self.output = output
        self.class_dim = class_dim
        self._warned: set[str] = set()

    def forward(
        self,
        model: nn.Module,
        x: Tensor | tuple[Any, ...] | Mapping[str, Any],
        y: Tensor | None = None,
        *,
        target: object = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the regularisation term.

        Args:
            model: Module that maps ``x`` to logits. Its parameters' ``.grad`` and its train/eval flags are unchanged.
            x: Batch, with the examples in dimension 0: a tensor for ``model(x)``, a tuple for ``model(*x)``, or a
                mapping for ``model(**x)``.
            y: Labels, shape (N,), or the shape of the logits without the classes. Supervised methods require them; the
                others ignore them. Entries -1 are unlabelled: an example without a label gives 0 with
                ``reduction="none"`` and does not count in the mean.
            target: ``model(x)``, or the logits in it, if it has been computed already; where ``output`` is a function,
                ``model(x)``. It must be the model's last training forward, because a search starts from the masks of
                that pass. Adversarial training ignores ``target``; supervised adversarial dropout uses only the masks
                of that pass.
            mask: For predictions with positions, such as (N, T, C): bool or 0 and 1, the shape of the positions, 1 =
                the position counts (an attention mask). The value of an example is the mean over these.

        Returns:
            Scalar, or shape (N,) with ``reduction="none"``, attached to the graph.
        """
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(
                f"expected a torch.nn.Module as first argument, got {type(model).__name__}; call reg(model, x)"
            )
        self._check_order(x, y)
        inputs = as_inputs(x)
        logits = None if target is None else self._logits_of(target)
        counted = None if mask is None else _checked_mask(mask)
        if self.supervised:
            y = self._checked_labels(y)
            y, counted = self._without_unlabelled(y, counted)
        with preserving_last_masks(model):
            values = self.per_example(model, inputs, y, logits, counted)
        self._check_finite(values, inputs)
        if self.reduction == "none":
            return values
        total = values.sum()
        if self.reduction == "sum":
            return total
        if counted is None:
            return total / max(values.shape[0], 1)
        return total / (counted.flatten(1).any(dim=1) if counted.dim() > 1 else counted).sum().clamp(min=1)

    @abstractmethod
    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The value of each example, shape (N,).

        ``x`` is a tensor, a tuple or a dict; ``y`` has no entry -1, but ``mask`` is ``False`` there; ``target`` is
        logits.
        """

    def run(self, model: nn.Module, x: Inputs) -> Tensor:
        """The prediction in ``model(x)``, in the model's mode."""
        return run_model(model, x, self.output)

    def warn_once(self, message: str) -> None:
        """Warn with ``message``, unless this regulariser has done so before."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, AdversarialDropoutWarning, stacklevel=2)

    def extra_repr(self) -> str:
        arguments = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)}" for name in arguments if hasattr(self, name))

    def _logits_of(self, target: object) -> Tensor:
        if isinstance(target, Tensor) and not callable(self.output):
            return target
        try:
            return select(target, self.output)
        except AdversarialDropoutError as error:
            what = "what the model returned" if callable(self.output) else "model(x), or the logits in it"
            raise InvalidTypeError(f"expected target to be {what}: {error}") from error

    def _check_order(self, x: object, y: object) -> None:
        """Raise if labels were given as x and the batch as y."""
        if callable(self.divergence) or self.divergence == "squared_error":
            return
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.is_floating_point() or x.is_complex():
            return
        if y.is_floating_point() and x.dim() < y.dim() and x.shape == y.shape[: x.dim()]:
            raise InvalidTypeError(
                f"expected reg(model, x, y), got x of {x.dtype} {tuple(x.shape)} and y of {y.dtype} {tuple(y.shape)}; "
                f"they look exchanged"
            )

    def _checked_labels(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise InvalidValueError(
                f"{type(self).__name__} is supervised: expected labels, got y=None; call reg(model, x, y)"
            )
        if not isinstance(y, Tensor):
            raise InvalidTypeError(f"expected y to be a tensor, got {type(y).__name__}; use torch.as_tensor(y)")
        if y.is_floating_point() and isinstance(self.divergence, str) and self.divergence.startswith("bernoulli"):
            raise InvalidTypeError(f"expected labels 0 and 1 as bool or integers, got {y.dtype}; pass y.long()")
        return detached_copy(y.long() if y.dtype == torch.uint8 else y)

    def _without_unlabelled(self, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Labels with a class in place of -1, and a mask that leaves these entries out.

        Targets that are not class labels, as in regression, are passed on unchanged.
        """
        classes = y.dim() == 1 if callable(self.divergence) else self.divergence != "squared_error"
        if not classes or y.dtype == torch.bool or y.is_floating_point():
            return y, mask
        with torch.inference_mode(False):
            labelled = y != UNLABELLED
            return y.where(labelled, torch.zeros_like(y)), labelled if mask is None else labelled & of_shape(
                mask, y.shape
            )

    def _check_finite(self, values: Tensor, x: Inputs) -> None:
        if not values_readable(values) or values.detach().isfinite().all():
            return
        dense = (tensor for tensor in tensors_in(x) if tensor.layout == torch.strided)
        finite = all(bool(tensor.isfinite().all()) for tensor in dense)
        raise NonFiniteError(
            f"expected finite values, got {values[~values.isfinite()][0].item()} at example "
            f"{int((~values.isfinite()).nonzero()[0])}; "
            f"{'x is finite, so look at the logits and the target' if finite else 'x is not finite'}"
        )


def _checked_mask(mask: Tensor) -> Tensor:
    if not isinstance(mask, Tensor):
        raise InvalidTypeError(f"expected mask to be a tensor, got {type(mask).__name__}")
    if mask.is_floating_point() or mask.is_complex():
        raise InvalidTypeError(f"expected mask to be bool or 0 and 1, got {mask.dtype}; pass mask.bool()")
    if mask.dtype != torch.bool and values_readable(mask) and not ((mask == 0) | (mask == 1)).all():
        raise InvalidValueError("expected mask entries 0 and 1, got others; pass an attention mask, not token ids")
    return detached_copy(mask.bool())


def searching(per_example: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Mark a method ``per_example(self, model, ...)`` that takes a gradient of its own, or replays noise.

    ``torch.compile`` runs it as it is; compiled modules inside it stay compiled. The transforms of ``torch.func`` and
    some wrappers of models cannot run it.
    """

    @functools.wraps(per_example)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if under_transform():
            raise InvalidTypeError(
                f"expected a call outside the transforms of torch.func, got one under them: {type(args[0]).__name__} "
                f"takes a gradient of its own; use torch.autograd.grad or backward()"
            )
        _check_wrappers(args[1])
        return eagerly(per_example, _SEARCH_IS_EAGER)(*args, **kwargs)

    return run


def _check_wrappers(model: object) -> None:
    """Raise if ``model`` contains a wrapper that would give wrong masks or gradients."""
    assert isinstance(model, nn.Module)
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise InvalidTypeError(
                f"expected one replica of the model in a process, got nn.DataParallel on {len(module.device_ids)} "
                f"devices, whose replicas would share their masks; use DistributedDataParallel"
            )
        if isinstance(module, nn.parallel.DistributedDataParallel) and module.static_graph:
            raise InvalidTypeError(
                "expected DistributedDataParallel without static_graph=True, which takes the first gradient of the "
                "search for that of the step; call reg(model.module, x) in a step that also runs model(x), or wrap a "
                "module that computes the whole loss"
            )
        if type(module).__name__ == "FullyShardedDataParallel":
            raise InvalidTypeError(
                "expected a model that the gradient of a search may pass through, got FullyShardedDataParallel; use "
                "torch.distributed.fsdp.fully_shard"
            )


_SEARCH_IS_EAGER = (
    "a regulariser with a search takes a gradient of its own and replays random streams, which one graph cannot hold; "
    "compile the step without fullgraph=True, or compile the model alone"
)

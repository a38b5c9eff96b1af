"""The base class of the regularisers: their call, the checks of its arguments, the reduction of the values."""

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, ParamSpec, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidTypeError, InvalidValueError, check_choice
from adversarial_dropout.layers import preserving_last_masks
from adversarial_dropout.regularizers.passes import detached_copy
from adversarial_dropout.tracing import eagerly, under_transform

P = ParamSpec("P")
Reduction = Literal["mean", "sum", "none"]

UNLABELLED = -1
"""The label of a row whose class is unknown, as in scikit-learn."""


class Regularizer(nn.Module, ABC):
    """Base class of the regularisers, which are called as ``reg(model, x, y=None, *, target=None)``.

    A subclass implements :meth:`per_example`. It sets ``supervised = True`` if it needs labels, and keeps each argument
    of ``__init__`` as an attribute of the same name, which ``repr`` shows.

    Args:
        reduction: ``"mean"`` over the examples (over the labelled ones in a supervised method), ``"sum"``, or
            ``"none"`` for one value per example, shape (N,).
    """

    supervised = False

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        self.reduction = reduction
        self._warned: set[str] = set()

    def forward(self, model: nn.Module, x: Tensor, y: Tensor | None = None, *, target: Tensor | None = None) -> Tensor:
        """Compute the regularisation term.

        Args:
            model: Module that maps ``x`` to logits. Its parameters' ``.grad`` and its train/eval flags are unchanged.
            x: Batch, with the examples in dimension 0.
            y: Labels, shape (N,). Supervised methods require them; the others ignore them. Rows with label -1 are
                unlabelled: they give 0 with ``reduction="none"`` and do not count in the mean.
            target: ``model(x)``, if it has been computed already. It must be the model's last training forward,
                because a search starts from the masks of that pass. Adversarial training ignores ``target``;
                supervised adversarial dropout uses only the masks of that pass.

        Returns:
            Scalar, or shape (N,) with ``reduction="none"``, attached to the graph.
        """
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(
                f"expected a torch.nn.Module as first argument, got {type(model).__name__}; call reg(model, x)"
            )
        if not isinstance(x, Tensor):
            raise InvalidTypeError(
                f"expected x to be a tensor, got {type(x).__name__}; wrap the model so that forward takes one tensor"
            )
        if target is not None and not isinstance(target, Tensor):
            raise InvalidTypeError(f"expected target to be a tensor, got {type(target).__name__}; pass model(x)")
        if self.supervised:
            y = self._checked_labels(y)
        with preserving_last_masks(model):
            values = self.per_example(model, x, y, target)
        if self.reduction == "none":
            return values
        total = values.sum()
        if self.reduction == "sum":
            return total
        if not self.supervised or y is None or not _has_classes(y):
            return total / max(values.shape[0], 1)
        return total / (y != UNLABELLED).sum().clamp(min=1)

    @abstractmethod
    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        """The value of each example, shape (N,)."""

    def warn_once(self, message: str) -> None:
        """Warn with ``message``, unless this regulariser has done so before."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, AdversarialDropoutWarning, stacklevel=2)

    def extra_repr(self) -> str:
        arguments = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)}" for name in arguments if hasattr(self, name))

    def _checked_labels(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise InvalidValueError(
                f"{type(self).__name__} is supervised: expected labels, got y=None; call reg(model, x, y)"
            )
        if not isinstance(y, Tensor):
            raise InvalidTypeError(f"expected y to be a tensor, got {type(y).__name__}; use torch.as_tensor(y)")
        return detached_copy(y.long() if y.dtype == torch.uint8 else y)


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


def on_labelled(divergence: Divergence) -> Divergence:
    """``divergence`` of the labelled rows, and 0 without gradient for the rows with label -1.

    Targets that are not class labels, as in regression, are passed on unchanged. The class that replaces a missing
    label must have no gradient, because BatchNorm would carry it to the other rows.
    """

    def values(y: Tensor, prediction: Tensor) -> Tensor:
        if not _has_classes(y):
            return divergence(y, prediction)
        if y.shape != prediction.shape[:1]:
            raise InvalidValueError(f"expected labels of shape ({prediction.shape[0]},), got {tuple(y.shape)}")
        labelled = y != UNLABELLED
        of_each = divergence(y.where(labelled, torch.zeros_like(y)), prediction)
        return of_each.where(labelled, torch.zeros_like(of_each))

    return values


def _has_classes(y: Tensor) -> bool:
    return y.dim() == 1 and y.dtype != torch.bool and not y.is_floating_point()

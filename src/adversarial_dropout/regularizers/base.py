"""What all regularisers share: how they are called, what is checked, how values are reduced."""

import warnings
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidTypeError, InvalidValueError, check_choice
from adversarial_dropout.layers import preserving_last_masks
from adversarial_dropout.regularizers.passes import detached_copy

Reduction = Literal["mean", "sum", "none"]

UNLABELLED = -1
"""The label of a row whose class is not known (scikit-learn's convention)."""


class Regularizer(nn.Module, ABC):
    """Base of the regularisers: ``reg(model, x, y=None, *, target=None)``.

    A new method overrides :meth:`per_example` and, if it needs labels, sets ``supervised = True``.

    Args:
        reduction: ``"mean"`` over the examples (for a supervised method: over the labelled ones), ``"sum"``, or
            ``"none"`` for the values themselves, shape (N,).
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
            model: Any module that maps ``x`` to logits. Neither its parameters' ``.grad`` nor its train/eval flags
                are touched.
            x: Batch, dimension 0 the examples.
            y: Labels, shape (N,), required by supervised methods and ignored by the others. Rows with -1 count as
                unlabelled: they give 0 with ``reduction="none"`` and are left out of the mean.
            target: Result of a pass already made, ``model(x)``, so that it is not computed again: the model's last
                pass in training, because the search starts from the masks that its layers have kept. Adversarial
                training ignores it; supervised adversarial dropout takes the masks of that pass alone.

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
            y = self._check_labels(y)
        with preserving_last_masks(model):
            values = self.per_example(model, x, y, target)
        return self._reduce(values, y if self.supervised else None)

    @abstractmethod
    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        """The term's value for each example, shape (N,), not reduced."""

    def warn_once(self, message: str | None) -> None:
        """Warn with ``message``, if there is one, unless this regulariser has done so before."""
        if message is not None and message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, AdversarialDropoutWarning, stacklevel=2)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction}"

    def _check_labels(self, y: Tensor | None) -> Tensor:
        name = type(self).__name__
        if y is None:
            raise InvalidValueError(f"{name} is supervised: expected labels, got y=None; call reg(model, x, y)")
        if not isinstance(y, Tensor):
            raise InvalidTypeError(f"expected y to be a tensor, got {type(y).__name__}; use torch.as_tensor(y)")
        return detached_copy(y.long() if y.dtype == torch.uint8 else y)

    def _reduce(self, values: Tensor, y: Tensor | None) -> Tensor:
        if self.reduction == "none":
            return values
        total = values.sum()
        if self.reduction == "sum":
            return total
        if y is None or not _has_classes(y):
            return total / max(values.shape[0], 1)
        return total / (y != UNLABELLED).sum().clamp(min=1)


def on_labelled(divergence: Divergence) -> Divergence:
    """``divergence`` for integer labels among which -1 stands for an unlabelled row: there it is 0, without gradient.

    Targets of another form, as in regression, pass through.
    What stands in for the missing label must not reach the other rows, which it could through BatchNorm.
    """

    def values(y: Tensor, prediction: Tensor) -> Tensor:
        if not _has_classes(y):
            return divergence(y, prediction)
        if y.shape != prediction.shape[:1]:
            raise InvalidValueError(f"expected labels of shape ({prediction.shape[0]},), got {tuple(y.shape)}")
        labelled = y != UNLABELLED
        found = check_per_example(divergence(y.where(labelled, torch.zeros_like(y)), prediction), prediction.shape[0])
        return found.where(labelled, torch.zeros_like(found))

    return values


def _has_classes(y: Tensor) -> bool:
    return y.dim() == 1 and y.dtype != torch.bool and not y.is_floating_point()


def check_per_example(values: Tensor, examples: int) -> Tensor:
    """``values`` if a divergence gave one for each example, else an error."""
    if not isinstance(values, Tensor) or values.shape != (examples,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidValueError(
            f"expected the divergence to return one value per example, shape ({examples},), got {shape}; "
            f"reduce over all dimensions but the first"
        )
    return values

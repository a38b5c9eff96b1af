"""What all regularisers share: how they are called, what is checked, how values are reduced."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.layers import check_choice, kept_masks

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

    def forward(self, model: nn.Module, x: Tensor, y: Tensor | None = None, *, target: Tensor | None = None) -> Tensor:
        """Compute the regularisation term.

        Args:
            model: Any module that maps ``x`` to logits. Neither its parameters' ``.grad`` nor its train/eval flags
                are touched.
            x: Batch, dimension 0 the examples.
            y: Labels, shape (N,), required by supervised methods and ignored by the others. Rows with -1 count as
                unlabelled: they give 0 with ``reduction="none"`` and are left out of the mean.
            target: Result of a pass already made, ``model(x)``, so that it is not computed again. Ignored by
                supervised methods.

        Returns:
            Scalar, or shape (N,) with ``reduction="none"``, attached to the graph.
        """
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(
                f"expected a torch.nn.Module as first argument, got {type(model).__name__}; call reg(model, x)"
            )
        labelled = None
        if self.supervised:
            y, labelled = self._check_labels(y)
        with kept_masks(model):
            values = self.per_example(model, x, y, target)
        return self._reduce(values, labelled)

    @abstractmethod
    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        """The term's value for each example, shape (N,), not reduced."""

    def extra_repr(self) -> str:
        return f"reduction={self.reduction}"

    def _check_labels(self, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Labels in which unlabelled rows have a valid stand-in, and which rows are labelled (``None``: all)."""
        name = type(self).__name__
        if y is None:
            raise InvalidValueError(f"{name} is supervised: expected labels, got y=None; call reg(model, x, y)")
        if not isinstance(y, Tensor):
            raise InvalidTypeError(f"expected y to be a tensor, got {type(y).__name__}; use torch.as_tensor(y)")
        if y.is_floating_point():
            return y, None
        labelled = y != UNLABELLED
        return y.where(labelled, torch.zeros_like(y)), labelled

    def _reduce(self, values: Tensor, labelled: Tensor | None) -> Tensor:
        if labelled is not None:
            values = values.where(labelled, torch.zeros_like(values))
        if self.reduction == "none":
            return values
        total = values.sum()
        if self.reduction == "sum":
            return total
        count = values.shape[0] if labelled is None else labelled.sum()
        return total / torch.as_tensor(count, device=values.device).clamp(min=1)


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"expected {name} to be a number above 0, got {value!r} ({type(value).__name__})")
    if not 0 < value < float("inf"):
        raise InvalidValueError(f"expected {name} to be finite and above 0, got {value}")


def check_values(values: Tensor, examples: int) -> Tensor:
    """``values`` if a divergence gave one for each example, else an error."""
    if not isinstance(values, Tensor) or values.shape != (examples,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidValueError(
            f"expected the divergence to return one value per example, shape ({examples},), got {shape}; "
            f"reduce over all dimensions but the first"
        )
    return values

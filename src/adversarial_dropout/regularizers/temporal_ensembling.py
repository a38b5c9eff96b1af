"""Temporal ensembling: agreement with the running average of each example's earlier predictions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import (
    InvalidTypeError,
    InvalidValueError,
    check_at_least,
    check_fraction,
    values_readable,
)
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.model_io import Inputs, Output


class TemporalEnsembling(Regularizer):
    r"""Temporal ensembling (Laine & Aila, ICLR 2017, Algorithm 2), for example i in epoch t:

    .. math:: D[\tilde z_i,\; z_i], \qquad Z_i \leftarrow \alpha Z_i + (1 - \alpha)\, z_i, \qquad
        \tilde z_i = Z_i / (1 - \alpha^t)

    where :math:`z_i = \mathrm{softmax}(f(x_i, \xi))` is the prediction of the pass, and :math:`\tilde z_i`, from the
    earlier epochs, has no gradient. In the first epoch the term is 0. A step needs a single pass. Algorithm 2 updates Z
    at the end of an epoch; here Z_i is updated when example i has been used, which is the same if an epoch uses each
    example once. Otherwise t counts how often example i has been used. (The authors' code counts an example that an
    epoch leaves out as a prediction of 0.)

    Args:
        examples: Number of examples in the training set, 1 or more.
        classes: Number of classes, C ≥ 2.
        momentum: α, in [0, 1). The paper uses 0.6.
        divergence: ``"qe"`` as published, ``"kl"``, ``"ce"``, or a function ``(target, prediction) -> (N,)`` of logits;
            those of the target are :math:`\log Z`.
        reduction: ``"mean"`` over all examples of the batch, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.

    Call:
        ``reg(model, x, *, index, target=None)``: ``index`` is the number of each row of x in the training set, integers
        in [0, examples), shape (N,); ``target`` is ``model(x)``, logits (N, C), if it has been computed already.
        Returns a scalar, or shape (N,). ``reg.state_dict()`` holds Z, of shape (examples, C). With several
        processes, each must use the same rows in every epoch.

    Training and evaluation:
        The pass, if there is one, runs in the model's mode. Predictions are stored if the model is in training mode.

    Raises:
        InvalidValueError, InvalidTypeError: ``index`` is missing or invalid, or the logits are not of shape (N, C).

    Example:
        >>> ensemble = TemporalEnsembling(len(data), classes=10)
        >>> logits = model(x)  # y is -1 where there is no label
        >>> term = ensemble(model, x, index=index, target=logits)
        >>> loss = F.cross_entropy(logits, y, ignore_index=-1) + lam * term
    """

    def __init__(
        self,
        examples: int,
        classes: int,
        *,
        momentum: float = 0.6,
        divergence: str | Divergence = "qe",
        reduction: Reduction = "mean",
        output: Output = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output)
        check_at_least("examples", examples, 1)
        check_at_least("classes", classes, 2)
        check_fraction("momentum", momentum)
        if momentum == 1:
            raise InvalidValueError("expected momentum below 1, got 1, with which predictions have no weight")
        self.examples = examples
        self.classes = classes
        self.momentum = momentum
        self.sums: Tensor
        self.register_buffer("sums", torch.zeros(examples, classes))
        self._index: Tensor | None = None
        self._prediction: Tensor | None = None

    def forward(
        self,
        model: nn.Module,
        x: Tensor | tuple[Any, ...] | Mapping[str, Any],
        y: Tensor | None = None,
        *,
        target: object = None,
        mask: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the term, and store the predictions for later epochs; see the class."""
        self._index = self._checked(index)
        try:
            value = super().forward(model, x, y, target=target, mask=mask)
            if model.training and self._prediction is not None:
                self._store(self._index, self._prediction)
        finally:
            self._index = self._prediction = None
        return value

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        prediction, index = self.run(model, x) if target is None else target, self._index
        assert index is not None
        if prediction.shape != (len(index), self.classes):
            raise InvalidValueError(
                f"expected logits of shape {(len(index), self.classes)}, one row for each entry of index and "
                f"classes={self.classes}, got {tuple(prediction.shape)}"
            )
        self._prediction = prediction.detach()
        sums = self.sums[index]
        seen = sums.sum(dim=1) > 0
        # The softmax of log Z is Z / ΣZ, which is the bias-corrected average, because Z sums to 1 - αᵗ.
        earlier = sums.log().where(seen.unsqueeze(1), torch.zeros_like(sums))
        values = self._divergence(earlier, prediction, mask)
        return values.where(seen, torch.zeros_like(values))

    def _checked(self, index: Tensor | None) -> Tensor:
        if index is None:
            raise InvalidValueError(
                "expected index, the number of each row of x in the training set; call reg(model, x, index=index)"
            )
        if (
            not isinstance(index, Tensor)
            or index.is_floating_point()
            or index.is_complex()
            or index.dtype == torch.bool
        ):
            what = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise InvalidTypeError(f"expected index to be a tensor of integers, got {what}")
        if index.dim() != 1:
            raise InvalidValueError(f"expected index of shape (N,), got {tuple(index.shape)}")
        index = index.to(self.sums.device, torch.long)
        if len(index) and values_readable(index) and not (index.min() >= 0 and index.max() < self.examples):
            raise InvalidValueError(
                f"expected index in [0, {self.examples}), got values from {int(index.min())} to {int(index.max())}"
            )
        return index

    @torch.no_grad()
    def _store(self, index: Tensor, prediction: Tensor) -> None:
        """Add the predictions to Z; rows of the batch that are the same example count once, with their mean."""
        rows, place, copies = torch.unique(index, return_inverse=True, return_counts=True)
        z = torch.zeros_like(self.sums[rows])
        z.index_add_(0, place, prediction.to(z).softmax(dim=1))
        self.sums[rows] = self.momentum * self.sums[rows] + (1 - self.momentum) * z / copies.unsqueeze(1)

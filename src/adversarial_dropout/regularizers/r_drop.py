"""R-Drop: two passes with their own dropout must agree, in both directions."""

from functools import partial

from torch import Tensor

from adversarial_dropout.divergences import Divergence, MaskedDivergence
from adversarial_dropout.regularizers.base import Reduction
from adversarial_dropout.regularizers.model_io import Output
from adversarial_dropout.regularizers.pi_model import PiModel


class RDrop(PiModel):
    r"""Regularised dropout (Wu, Li, Wang et al., NeurIPS 2021), the consistency term of its loss:

    .. math:: \tfrac12 \big( D_{KL}[f(x, \xi_1) \,\|\, f(x, \xi_2)] + D_{KL}[f(x, \xi_2) \,\|\, f(x, \xi_1)] \big)

    where ξ is all noise of a pass, dropout masks included. It is the Π-model with a divergence that is the same in both
    directions; the gradient flows through both passes. The published loss also has the cross-entropy of both passes,
    :math:`-\log P_1(y) - \log P_2(y)`, and so needs labels for every row:

    >>> a, b = model(x), model(x)
    >>> both_ways = (kl_divergence(a, b) + kl_divergence(b, a)).mean() / 2
    >>> loss = F.cross_entropy(a, y) + F.cross_entropy(b, y) + alpha * both_ways

    The authors' code adds α times the *sum* of the KL divergences over the batch to a cross-entropy that is a *mean*.
    So its α depends on the batch size: with N rows, their α has the effect of N·α here.

    Args:
        divergence: ``"kl"`` as published, another name, such as ``"bernoulli_kl"`` for multi-label models and
            ``"squared_error"`` for regression, or a function ``(target, prediction) -> (N,)``. The value is the mean of
            both directions.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, *, target=None)``: ``target`` is ``model(x)`` if it has been computed already, which saves the
        first pass. Labels are not needed, so unlabelled rows may be in x. Returns a scalar, or shape (N,).

    Training and evaluation:
        Both passes run in the model's mode and update BatchNorm as usual. A model without noise gives 0.

    Raises:
        InvalidValueError, InvalidTypeError: the model or the divergence returns an invalid shape or type.

    Example:
        >>> logits = model(x)
        >>> loss = F.cross_entropy(logits, y) + alpha * RDrop()(model, x, target=logits)
    """

    def __init__(
        self,
        *,
        divergence: str | Divergence = "kl",
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)
        self._divergence = partial(_both_ways, self._divergence)


def _both_ways(divergence: MaskedDivergence, first: Tensor, second: Tensor, mask: Tensor | None) -> Tensor:
    return (divergence(first, second, mask) + divergence(second, first, mask)) / 2

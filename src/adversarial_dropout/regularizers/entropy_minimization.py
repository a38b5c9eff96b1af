"""Entropy minimisation: predictions should be confident."""

from typing import Literal

from torch import Tensor, nn

from adversarial_dropout.errors import check_choice
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.model_io import Inputs, Output


class EntropyMinimization(Regularizer):
    r"""Entropy of the predicted distribution (Grandvalet & Bengio, NeurIPS 2004):

    .. math:: H[q] = -\sum_c q_c \log q_c, \qquad q = \mathrm{softmax}(f(x))

    The authors' code of adversarial dropout adds it with weight 1 to every semi-supervised run; the paper does not
    mention it.

    Args:
        divergence: Whose entropy: ``"ce"`` of the softmax, ``"bernoulli_ce"`` of the sigmoids, for one logit and for
            multi-label models.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, *, target=None, mask=None)``: ``target`` is the logits (N, C) whose entropy is computed,
        ``model(x)`` if ``None``. Returns nats in [0, log C]: a scalar, or shape (N,).

    Training and evaluation:
        The pass, if there is one, runs in the model's mode.

    Raises:
        InvalidValueError, InvalidTypeError: the logits are not floating or not of shape (N, C).

    Example:
        >>> logits = model(x_unlabelled)
        >>> loss = F.cross_entropy(model(x), y) + EntropyMinimization()(model, x_unlabelled, target=logits)
    """

    def __init__(
        self,
        *,
        divergence: Literal["ce", "bernoulli_ce"] = "ce",
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        check_choice("divergence", divergence, ("ce", "bernoulli_ce"))
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        logits = self.run(model, x) if target is None else target
        return self._divergence(logits, logits, mask)

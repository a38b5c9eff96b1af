"""Entropy minimisation: predictions should be confident."""

from torch import Tensor, nn

from adversarial_dropout.divergences import cross_entropy
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.passes import run_model


class EntropyMinimization(Regularizer):
    r"""Entropy of the predicted distribution (Grandvalet & Bengio, NeurIPS 2004):

    .. math:: H[q] = -\sum_c q_c \log q_c, \qquad q = \mathrm{softmax}(f(x))

    The authors' code of adversarial dropout adds it with weight 1 to every semi-supervised run; the paper does not
    mention it.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, *, target=None)``: ``target`` is the logits (N, C) whose entropy is computed, ``model(x)`` if
        ``None``. Returns nats in [0, log C]: a scalar, or shape (N,).

    Training and evaluation:
        The pass, if there is one, runs in the model's mode.

    Raises:
        InvalidValueError, InvalidTypeError: the logits are not floating or not of shape (N, C).

    Example:
        >>> logits = model(x_unlabelled)
        >>> loss = F.cross_entropy(model(x), y) + EntropyMinimization()(model, x_unlabelled, target=logits)
    """

    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        logits = run_model(model, x) if target is None else target
        return cross_entropy(logits, logits)

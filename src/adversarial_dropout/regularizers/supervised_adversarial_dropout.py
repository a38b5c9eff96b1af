"""SAdD: the loss under the worst dropout mask."""

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.model_io import Inputs, Output
from adversarial_dropout.regularizers.search import Search


class SupervisedAdversarialDropout(Regularizer):
    r"""Supervised adversarial dropout, eq. 4 of Park et al. (AAAI 2018):

    .. math:: D[g(y),\; f(x, \varepsilon^{adv})]

    with the mask that raises the linearised divergence from the labels the most, at most ``floor(δ·H)`` flips away from
    a random mask εˢ. If the model can be cut, the part below the layer runs once.

    Args:
        divergence: ``"ce"``, ``"kl"`` (the same with labels), ``"qe"``, or a function ``(target, prediction) -> (N,)``.
        reduction: ``"mean"`` over the labelled rows, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, y, *, target=None)``: labels y of shape (N,), -1 = unlabelled (gives 0, does not count in the
        mean). With ``target=model(x)``, the model's last training forward, εˢ is the mask of that pass, as in eq. 6,
        which has one εˢ for the likelihood and this term; otherwise εˢ is drawn. The values of ``target`` are not used.
        Returns a scalar, or shape (N,).

    Training and evaluation:
        Both passes run in the model's mode. The adversarial pass updates BatchNorm as usual; the search changes no
        buffer.

    Raises:
        InvalidValueError, InvalidTypeError: y is missing or out of range, the model has no AdversarialDropout layer, or
            activations or J are not finite.

    Warns:
        AdversarialDropoutWarning: (once) no unit is flipped, because none matters; the budget allows no flip.

    Example:
        >>> sadd = SupervisedAdversarialDropout()
        >>> logits = model(x)
        >>> loss = F.cross_entropy(logits, y) + lam * sadd(model, x, y, target=logits)
    """

    supervised = True
    search = Search
    """The class that finds the masks."""

    def __init__(
        self,
        *,
        divergence: str | Divergence = "ce",
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        assert y is not None
        search = self.search(model, x, output=self.output, from_last_masks=target is not None, warn=self.warn_once)
        h = search.under_pass(x)
        search.find(h, y, lambda labels, prediction: self._divergence(labels, prediction, mask))
        return self._divergence(y, search.adversarial_pass(h), mask)

"""SAdD: the network must be right under its worst dropout mask."""

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.regularizers.base import Reduction, Regularizer, check_per_example, on_labelled
from adversarial_dropout.regularizers.search import Search


class SupervisedAdversarialDropout(Regularizer):
    r"""Supervised adversarial dropout, eq. 4 of Park et al. (AAAI 2018):

    .. math:: D[g(y),\; f(x, \varepsilon^{adv})]

    with the mask that raises the linearised divergence to the labels the most, at most ``floor(δ·H)`` flips away from
    a random one, εˢ. What lies below the layer runs once, if the model can be cut.

    Args:
        divergence: ``"ce"``, ``"kl"`` (with labels the same), ``"qe"``, or a function ``(target, prediction) -> (N,)``.
        reduction: ``"mean"`` over the labelled rows, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, y, *, target=None)``: labels y of shape (N,), -1 = unlabelled (gives 0, left out of the mean).
        With ``target=model(x)``, the model's last training forward, εˢ is the mask of that pass, as in eq. 6, which has
        one εˢ for the likelihood and for this term; without it εˢ is drawn. The values of ``target`` are not used.
        Returns a scalar, or shape (N,).

    Training and evaluation:
        Both passes run in the model's own mode; the adversarial one updates BatchNorm as usual, the search changes no
        buffer.

    Raises:
        InvalidValueError, InvalidTypeError: y missing or out of range, no layer in the model, activations or J not
            finite.

    Warns:
        AdversarialDropoutWarning: (once) nothing is flipped, because no unit matters; a budget of no flip.

    Example:
        >>> sadd = SupervisedAdversarialDropout()
        >>> logits = model(x)
        >>> loss = F.cross_entropy(logits, y) + lam * sadd(model, x, y, target=logits)
    """

    supervised = True
    search = Search
    """What finds the masks."""

    def __init__(
        self,
        *,
        divergence: str | Divergence = "ce",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self._divergence = resolve_divergence(divergence)
        self.divergence = divergence

    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        assert y is not None
        divergence = on_labelled(self._divergence)
        search = self.search(model, x, from_last_masks=target is not None, warn=self.warn_once)
        h = search.under_pass(x)
        search.find(h, y, divergence)
        prediction = search.adversarial_pass(h)
        return check_per_example(divergence(y, prediction), prediction.shape[0])

    def extra_repr(self) -> str:
        return f"divergence={self.divergence}, {super().extra_repr()}"

"""SAdD: the network must be right under its worst dropout mask."""

from typing import get_args

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.errors import check_choice
from adversarial_dropout.layers import LinearizeAt, steered
from adversarial_dropout.regularizers.base import Reduction, Regularizer, check_per_example, on_labelled
from adversarial_dropout.regularizers.passes import Noise, cut
from adversarial_dropout.regularizers.search import Search


class SupervisedAdversarialDropout(Regularizer):
    r"""Supervised adversarial dropout, eq. 4 of Park et al. (AAAI 2018):

    .. math:: D[g(y),\; f(x, \varepsilon^{adv})]

    with the mask that raises the linearised divergence to the labels the most, at most ``floor(δ·H)`` flips away from
    a random one, εˢ. What lies below the layer runs once, if the model can be cut.

    Args:
        divergence: ``"ce"``, ``"kl"`` (with labels the same), ``"qe"``, or a function ``(target, prediction) -> (N,)``.
        linearize_at: ε⁰, the mask at which D is linearised. ``"ones"``: all units kept, as in the paper. ``"base"``:
            the random one, without the rescaling (docs/search.md compares them). With p = 0 they are the same.
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

    def __init__(
        self,
        *,
        divergence: str | Divergence = "ce",
        linearize_at: LinearizeAt = "ones",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_choice("linearize_at", linearize_at, get_args(LinearizeAt))
        self._divergence = resolve_divergence(divergence)
        self.divergence = divergence
        self.linearize_at = linearize_at

    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        assert y is not None
        with steered(model, reuse_kept=target is not None, linearize_at=self.linearize_at) as layers:
            search = Search(Noise(model, x), layers)
            under, upper = cut(model)
            h = search.under_pass(under, x)
            self.warn_once(search.find(upper, h, y, on_labelled(self._divergence)))
            prediction = search.adversarial_pass(upper, h)
        return check_per_example(on_labelled(self._divergence)(y, prediction), prediction.shape[0])

    def extra_repr(self) -> str:
        return f"divergence={self.divergence}, linearize_at={self.linearize_at}, {super().extra_repr()}"

"""VAdD: agreement with the network under its worst dropout mask, without labels."""

from typing import Literal, get_args

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.errors import check_choice
from adversarial_dropout.regularizers.base import Reduction, Regularizer, check_per_example
from adversarial_dropout.regularizers.search import Search

NoiseMode = Literal["independent", "shared"]


class VirtualAdversarialDropout(Regularizer):
    r"""Virtual adversarial dropout, eq. 5 of Park et al. (AAAI 2018):

    .. math:: D[f(x, \varepsilon^s),\; f(x, \varepsilon^{adv})], \qquad \varepsilon^{adv} =
        \arg\max_{\|\varepsilon^s - \varepsilon\| \le \delta H} D[f(x, \varepsilon^s), f(x, \varepsilon)]

    solved for the divergence linearised at ε⁰ = 1 (Algorithm 1). εˢ is one mask a step: that of the target
    pass, and the one that the search starts from.

    Args:
        divergence: ``"kl"``, ``"qe"``, ``"ce"``, or a function ``(target, prediction) -> (N,)``.
        noise: What *other* random things (dropout, Gaussian noise) do. ``"independent"``: target and adversarial pass
            draw their own. ``"shared"``: all passes see the same; what lies below the layer runs once, if the model
            can be cut.
        detach_target: Stop the gradient at the target. The paper prints θ on both sides (a constant, θ̂, for VAT
            alone), so it flows through both by default.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, *, target=None)``: ``model`` maps ``x`` (N, ...) to logits (N, C) (or to what the divergence
        takes) and contains at least one :class:`~adversarial_dropout.AdversarialDropout`. ``target`` is ``model(x)``
        where that has been computed, as the model's last training forward: the search then starts from its masks. With
        ``noise="shared"`` it needs ``h`` as well: ``h = under(x); out = head(h); reg(head, h, target=out)``. Returns a
        scalar, or shape (N,).

    Training and evaluation:
        Every pass runs in the model's own mode. Target and adversarial pass update BatchNorm as usual (two batches
        above the layer), the search changes no buffer. In evaluation εˢ is all ones.

    Raises:
        InvalidValueError, InvalidTypeError: no layer in the model, activations or J not finite, or ``"shared"`` with
            ``target=`` on a model that still has an under part.

    Warns:
        AdversarialDropoutWarning: (once) nothing is flipped, because the passes do not differ or no unit matters; a
            budget of no flip.

    Example:
        >>> vadd = VirtualAdversarialDropout(divergence="kl")
        >>> loss = F.cross_entropy(model(x), y) + lam * vadd(model, x_unlabelled)
    """

    search = Search
    """What finds the masks."""

    def __init__(
        self,
        *,
        divergence: str | Divergence = "kl",
        noise: NoiseMode = "independent",
        detach_target: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_choice("noise", noise, get_args(NoiseMode))
        self._divergence = resolve_divergence(divergence)
        self.divergence = divergence
        self.noise = noise
        self.detach_target = detach_target

    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        given, shared = target is not None, self.noise == "shared"
        search = self.search(model, x, from_last_masks=given, at_layer=given and shared, warn=self.warn_once)
        h = search.under_pass(x)
        if target is None:
            target = search.base_pass(h, noise_again=shared)
            h = h if shared else search.under_pass(x)
        search.find(h, target, self._divergence)
        prediction = search.adversarial_pass(h)
        if self.detach_target:
            target = target.detach()
        return check_per_example(self._divergence(target, prediction), prediction.shape[0])

    def extra_repr(self) -> str:
        return (
            f"divergence={self.divergence}, noise={self.noise}, "
            f"detach_target={self.detach_target}, {super().extra_repr()}"
        )

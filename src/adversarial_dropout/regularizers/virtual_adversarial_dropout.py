"""VAdD: the network must agree with itself under its worst dropout mask, without labels."""

from typing import Literal, get_args

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import check_choice
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.model_io import Inputs, Output
from adversarial_dropout.regularizers.search import Search

NoiseMode = Literal["independent", "shared"]


class VirtualAdversarialDropout(Regularizer):
    r"""Virtual adversarial dropout, eq. 5 of Park et al. (AAAI 2018):

    .. math:: D[f(x, \varepsilon^s),\; f(x, \varepsilon^{adv})], \qquad \varepsilon^{adv} =
        \arg\max_{\|\varepsilon^s - \varepsilon\| \le \delta H} D[f(x, \varepsilon^s), f(x, \varepsilon)]

    The maximum is computed for the divergence linearised at ε⁰ = 1 (Algorithm 1). A step has one base mask εˢ: the mask
    of the target pass, from which the search starts.

    Args:
        divergence: ``"kl"``, ``"qe"``, ``"ce"``, or a function ``(target, prediction) -> (N,)``.
        noise: How *other* noise (ordinary dropout, Gaussian noise) is drawn. ``"independent"``: separately for the
            target pass and the adversarial pass. ``"shared"``: once for all passes; if the model can be cut, the part
            below the layer runs once.
        detach_target: Stop the gradient at the target. By default it flows through both passes, because the paper
            prints θ on both sides (and a constant θ̂ only for VAT).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, *, target=None)``: ``model`` maps ``x`` (N, ...) to logits (N, C), or to what the divergence
        takes, and contains at least one :class:`~adversarial_dropout.AdversarialDropout`. ``target`` is ``model(x)``
        if it has been computed already, as the model's last training forward: the search then starts from its masks.
        With ``noise="shared"``, ``target`` also needs the activations ``h`` from which it was computed:
        ``h = under(x); out = head(h); reg(head, h, target=out)``. Returns a scalar, or shape (N,).

    Training and evaluation:
        Every pass runs in the model's mode. The target pass and the adversarial pass update BatchNorm as usual (two
        batches above the layer); the search changes no buffer. In evaluation εˢ is all ones.

    Raises:
        InvalidValueError, InvalidTypeError: the model has no AdversarialDropout layer, activations or J are not finite,
            or ``noise="shared"`` with ``target=`` on a model that still has an under part.

    Warns:
        AdversarialDropoutWarning: (once) no unit is flipped, because the passes do not differ or no unit matters; the
            budget allows no flip.

    Example:
        >>> vadd = VirtualAdversarialDropout(divergence="kl")
        >>> loss = F.cross_entropy(model(x), y) + lam * vadd(model, x_unlabelled)
    """

    search = Search
    """The class that finds the masks."""

    def __init__(
        self,
        *,
        divergence: str | Divergence = "kl",
        noise: NoiseMode = "independent",
        detach_target: bool = False,
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)
        check_choice("noise", noise, get_args(NoiseMode))
        self.noise = noise
        self.detach_target = detach_target

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        given, shared = target is not None, self.noise == "shared"
        search = self.search(
            model, x, output=self.output, from_last_masks=given, at_layer=given and shared, warn=self.warn_once
        )
        h = search.under_pass(x)
        if target is None:
            target = search.base_pass(h, repeat_noise=shared)
            h = h if shared else search.under_pass(x)
        search.find(h, target, lambda t, q: self._divergence(t, q, mask))
        prediction = search.adversarial_pass(h)
        return self._divergence(target.detach() if self.detach_target else target, prediction, mask)

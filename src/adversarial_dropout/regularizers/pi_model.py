"""Π-model: two passes with different noise must agree."""

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.passes import run_model


class PiModel(Regularizer):
    r"""Π-model (Laine & Aila, ICLR 2017), eq. 1 of Park et al. (AAAI 2018):

    .. math:: D[f(x, \xi_1),\; f(x, \xi_2)]

    where ξ is all noise of a pass, including dropout masks.

    Args:
        divergence: ``"qe"``, ``"kl"``, ``"ce"``, or a function ``(target, prediction) -> (N,)``.
        detach_target: Stop the gradient at the target. By default it flows through both passes, because the paper
            prints θ on both sides (and a constant θ̂ only for VAT).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, *, target=None)``: ``target`` is ``model(x)``, or the output for another view of ``x``, if it
        has been computed already. Returns a scalar, or shape (N,).

    Training and evaluation:
        Both passes run in the model's mode and update BatchNorm as usual. A model without noise gives 0.

    Raises:
        InvalidValueError, InvalidTypeError: the model or the divergence returns an invalid shape or type.

    Example:
        >>> loss = F.cross_entropy(model(x), y) + lam * PiModel()(model, x_unlabelled)
    """

    def __init__(
        self, *, divergence: str | Divergence = "qe", detach_target: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self._divergence = resolve_divergence(divergence)
        self.divergence = divergence
        self.detach_target = detach_target

    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        if target is None:
            target = run_model(model, x)
        return self._divergence(target.detach() if self.detach_target else target, run_model(model, x))

"""Π-model: two passes with different noise must agree."""

from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import values_readable
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.model_io import Inputs, Output


class PiModel(Regularizer):
    r"""Π-model (Laine & Aila, ICLR 2017), eq. 1 of Park et al. (AAAI 2018):

    .. math:: D[f(x, \xi_1),\; f(x, \xi_2)]

    where ξ is all noise of a pass, including dropout masks.

    Args:
        divergence: ``"qe"``, ``"kl"``, ``"ce"``; ``"bernoulli_qe"``, ``"bernoulli_kl"``, ``"bernoulli_ce"`` for one
            logit and for multi-label models; ``"squared_error"`` for regression; or a function ``(target, prediction)
            -> (N,)``.
        detach_target: Stop the gradient at the target. By default it flows through both passes, because the paper
            prints θ on both sides (and a constant θ̂ only for VAT).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, *, target=None, mask=None)``: ``target`` is ``model(x)``, or the output for another view of
        ``x``, if it has been computed already. Returns a scalar, or shape (N,).

    Training and evaluation:
        Both passes run in the model's mode and update BatchNorm as usual. A model without noise gives 0.

    Raises:
        InvalidValueError, InvalidTypeError: the model or the divergence returns an invalid shape or type.

    Example:
        >>> loss = F.cross_entropy(model(x), y) + lam * PiModel()(model, x_unlabelled)
    """

    def __init__(
        self,
        *,
        divergence: str | Divergence = "qe",
        detach_target: bool = False,
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)
        self.detach_target = detach_target

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        if target is None:
            target = self.run(model, x)
        values = self.divergence_of(target.detach() if self.detach_target else target, self.run(model, x), mask)
        if values_readable(values) and values.numel() and not values.any() and (mask is None or mask.any()):
            self.warn_once(
                "both passes gave the same predictions, so there is nothing to make consistent; make them differ: "
                "dropout in training mode (model.train()), or two views, reg(model, view_2, target=model(view_1))"
            )
        return values

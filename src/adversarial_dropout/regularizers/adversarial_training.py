"""Adversarial training: the loss on the input moved along the sign of its gradient."""

from torch import Tensor, nn

from adversarial_dropout.divergences import cross_entropy
from adversarial_dropout.errors import check_positive
from adversarial_dropout.regularizers.base import Reduction, Regularizer, on_labelled, searching
from adversarial_dropout.regularizers.passes import check_perturbable, input_gradient, run_without_side_effects


class AdversarialTraining(Regularizer):
    r"""Adversarial training with the fast gradient sign method (Goodfellow, Shlens, Szegedy, ICLR 2015), eq. 2 of
    Park et al. (AAAI 2018) with g = y:

    .. math:: D[g(y),\; f(x + r)], \qquad r = \epsilon \cdot \mathrm{sign}\, \nabla_x D[g(y), f(x)]

    D is the cross-entropy. Both passes see the same noise.

    Args:
        eps: Length ε of the perturbation in the L∞ norm, in units of x, above 0.
        reduction: ``"mean"`` over the labelled rows, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, y)``: floating x (N, ...); labels y of shape (N,), -1 = unlabelled (gives 0, does not count in
        the mean). Returns a scalar, or shape (N,). The perturbed input is not clipped to the range of the data.

    Training and evaluation:
        In both passes, normalisation follows the model's mode, and no buffer changes.

    Raises:
        InvalidTypeError: x is not floating (pass embeddings instead).
        InvalidValueError: y is missing or out of range, or a gradient is not finite.

    Example:
        >>> loss = F.cross_entropy(model(x), y) + AdversarialTraining(eps=0.1)(model, x, y)
    """

    supervised = True

    def __init__(self, *, eps: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("eps", eps)
        self.eps = eps

    @searching
    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        assert y is not None
        check_perturbable(x)
        divergence = on_labelled(cross_entropy)
        gradient = input_gradient(model, x, lambda prediction: divergence(y, prediction))
        perturbed = x + (self.eps * gradient.sign()).to(x.dtype)
        return divergence(y, run_without_side_effects(model, perturbed))

"""Adversarial training: the loss on the input moved along the sign of its gradient."""

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import check_positive
from adversarial_dropout.regularizers.base import Reduction, Regularizer, searching
from adversarial_dropout.regularizers.model_io import Inputs, Output
from adversarial_dropout.regularizers.perturbation import Perturbation


class AdversarialTraining(Regularizer):
    r"""Adversarial training with the fast gradient sign method (Goodfellow, Shlens, Szegedy, ICLR 2015), eq. 2 of
    Park et al. (AAAI 2018) with g = y:

    .. math:: D[g(y),\; f(x + r)], \qquad r = \epsilon \cdot \mathrm{sign}\, \nabla_x D[g(y), f(x)]

    D is the cross-entropy unless another is given. Both passes see the same noise.

    Args:
        eps: Length ε of the perturbation in the L∞ norm, in units of x, above 0.
        divergence: D, as in supervised adversarial dropout.
        embedding: Name of a module whose output is moved instead of x, for token ids; the end of the name is enough.
        reduction: ``"mean"`` over the labelled rows, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, y, *, mask=None)``: floating x (N, ...); labels y of shape (N,), -1 = unlabelled (gives 0, does
        not count in the mean). Returns a scalar, or shape (N,). The perturbed input is not clipped to the range of the
        data.

    Training and evaluation:
        In both passes, normalisation follows the model's mode, and no buffer changes.

    Raises:
        InvalidTypeError: x is not floating (pass embeddings instead).
        InvalidValueError: y is missing or out of range, or a gradient is not finite.

    Example:
        >>> loss = F.cross_entropy(model(x), y) + AdversarialTraining(eps=0.1)(model, x, y)
    """

    supervised = True

    def __init__(
        self,
        *,
        eps: float = 0.1,
        divergence: str | Divergence = "ce",
        embedding: str | None = None,
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)
        check_positive("eps", eps)
        self.eps = eps
        self.embedding = embedding

    @searching
    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        assert y is not None
        perturbation = Perturbation(model, x, self.embedding, self.output)
        moved = perturbation.moved()
        still = torch.zeros_like(moved, dtype=torch.promote_types(moved.dtype, torch.float32))
        gradient = perturbation.gradient(still, lambda prediction: self.divergence_of(y, prediction, mask))
        return self.divergence_of(y, perturbation.run_without_side_effects(self.eps * gradient.sign()), mask)

"""VAT: the network must agree with itself on the input moved in the direction that changes its prediction most."""

import math

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.errors import check_at_least, check_positive
from adversarial_dropout.regularizers.base import Reduction, Regularizer, searching
from adversarial_dropout.regularizers.passes import (
    check_perturbable,
    detached_copy,
    input_gradient,
    preserving_noise,
    replacing,
    run_model,
    run_without_side_effects,
)


class VirtualAdversarialTraining(Regularizer):
    r"""Virtual adversarial training (Miyato et al., TPAMI 2018), eq. 2 of Park et al. (AAAI 2018) with g = f(x):

    .. math:: D[f(x),\; f(x + r)], \qquad r = \arg\max_{\|r\|_2 \le \epsilon} D[f(x), f(x + r)]

    with r = ε·d from the power iteration :math:`d \leftarrow \overline{\nabla_d D[f(x), f(x + \xi d)]}`, which starts
    at a random direction. No gradient flows into the target. All passes see the same noise (except a given ``target``).
    Eq. 2 prints the L∞ norm for both AT and VAT; the L2 norm is that of Miyato et al., which the paper cites.

    Args:
        eps: Length ε of the perturbation in the L2 norm per example, in units of x, above 0.
        xi: Step ξ of the finite difference, in units of x, above 0. ``None``: 1e-4 if x is float64, otherwise 0.1. (In
            float32, the 1e-6 of the original code gives a direction that is mostly rounding error.) The power iteration
            runs in float32 if the model or autocast uses half precision.
        steps: Number of power iterations, 1 or more.
        divergence: ``"kl"``, ``"qe"``, ``"ce"``, or a function ``(target, prediction) -> (N,)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, *, target=None)``: floating x (N, ...); ``target`` is ``model(x)`` if it has been computed
        already. Returns a scalar, or shape (N,).

    Training and evaluation:
        In all passes, normalisation follows the model's mode. The target pass updates BatchNorm as usual; the other
        passes change no buffer.

    Raises:
        InvalidTypeError: x is not floating (pass embeddings instead).
        InvalidValueError: a setting is out of range, or a gradient is not finite.

    Example:
        >>> loss = F.cross_entropy(model(x), y) + VirtualAdversarialTraining(eps=2.0)(model, x_unlabelled)
    """

    def __init__(
        self,
        *,
        eps: float = 2.0,
        xi: float | None = None,
        steps: int = 1,
        divergence: str | Divergence = "kl",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("eps", eps)
        if xi is not None:
            check_positive("xi", xi)
        check_at_least("steps", steps, 1)
        self._divergence = resolve_divergence(divergence)
        self.divergence = divergence
        self.eps = eps
        self.xi = xi
        self.steps = steps

    @searching
    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        check_perturbable(x)
        origin = detached_copy(x)
        direction = _normalised(torch.randn_like(origin, dtype=torch.promote_types(x.dtype, torch.float32)))
        if target is None:
            with preserving_noise(model, x), replacing(model, parameters=Tensor.detach):
                target = run_model(model, origin)
        reference = detached_copy(target)
        xi = self.xi if self.xi is not None else (1e-4 if x.dtype == torch.float64 else 0.1)
        for _ in range(self.steps):
            moved = origin + xi * direction
            gradient = input_gradient(model, moved, lambda prediction: self._divergence(reference, prediction))
            direction = _normalised(gradient, otherwise=direction)
        perturbed = x + (self.eps * direction).to(x.dtype)
        return self._divergence(reference, run_without_side_effects(model, perturbed))


def _normalised(d: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """``d`` scaled to L2 length 1 per example; ``otherwise`` where ``d`` is 0.

    Dividing by the largest entry first keeps tiny gradients from underflowing when they are squared.
    """
    flat = d.reshape(d.shape[0], math.prod(d.shape[1:]))
    largest = flat.abs().amax(dim=1, keepdim=True) if flat.numel() else flat.new_ones(flat.shape[0], 1)
    scaled = flat / largest.clamp(min=torch.finfo(flat.dtype).tiny)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    unit = (scaled / length.clamp(min=1e-12)).reshape(d.shape)
    if otherwise is None:
        return unit
    return unit.where((length > 0).view(-1, *(1,) * (d.dim() - 1)), otherwise)

"""VAT: agreement with the network on the input moved in the direction that changes its prediction most."""

import math
import numbers

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence, resolve_divergence
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, check_positive
from adversarial_dropout.regularizers.base import Reduction, Regularizer, check_per_example
from adversarial_dropout.regularizers.passes import (
    Noise,
    check_perturbable,
    detached_copy,
    input_gradient,
    run_without_graph,
    run_without_side_effects,
)


class VirtualAdversarialTraining(Regularizer):
    r"""Virtual adversarial training (Miyato et al., TPAMI 2018), eq. 2 of Park et al. (AAAI 2018) with g = f(x):

    .. math:: D[f(x),\; f(x + r)], \qquad r = \arg\max_{\|r\|_2 \le \epsilon} D[f(x), f(x + r)]

    with r = ε·d from the power iteration :math:`d \leftarrow \overline{\nabla_d D[f(x), f(x + \xi d)]}`, started at a
    random direction. No gradient flows into the target. All passes see the same noise (a ``target=`` has had its own).
    Eq. 2 prints the L∞ norm for AT and VAT alike; the L2 norm is that of Miyato et al., whom it cites.

    Args:
        eps: Length ε of the perturbation in the L2 norm per example, in units of x, above 0.
        xi: Step ξ of the finite difference, in units of x, above 0. ``None``: 0.1, or 1e-4 where x is float64. (The
            1e-6 of the original code leaves, in float32, a direction made of rounding.) The power iteration is computed
            in float32 where the model or autocast says half precision.
        steps: Number of power iterations, 1 or more.
        divergence: ``"kl"``, ``"qe"``, ``"ce"``, or a function ``(target, prediction) -> (N,)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Call:
        ``reg(model, x, *, target=None)``: floating x (N, ...); ``target`` is ``model(x)`` where that has been computed.
        Returns a scalar, or shape (N,).

    Training and evaluation:
        All passes normalise as the model's mode says. The target pass updates BatchNorm as usual, the others leave
        every buffer as it was.

    Raises:
        InvalidTypeError: x is not floating (pass embeddings).
        InvalidValueError: a setting out of range, or a gradient that is not finite.

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
        if isinstance(steps, bool) or not isinstance(steps, int | numbers.Integral):
            raise InvalidTypeError(f"expected steps to be a whole number, got {steps!r} ({type(steps).__name__})")
        if steps < 1:
            raise InvalidValueError(f"expected 1 or more power iterations, got steps={steps}")
        self._divergence = resolve_divergence(divergence)
        self.divergence = divergence
        self.eps = eps
        self.xi = xi
        self.steps = steps

    def per_example(self, model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None) -> Tensor:
        check_perturbable(x)
        origin = detached_copy(x)
        direction = _normalised(torch.randn_like(origin, dtype=torch.promote_types(x.dtype, torch.float32)))
        noise = Noise(model, x)
        start = noise.mark()
        if target is None:
            target = run_without_graph(model, x)
            noise.rewind(start)
        reference = detached_copy(target)
        xi = self.xi if self.xi is not None else (1e-4 if x.dtype == torch.float64 else 0.1)
        for _ in range(self.steps):
            with noise.unchanged():
                gradient = input_gradient(
                    model,
                    origin + xi * direction,
                    lambda prediction: check_per_example(self._divergence(reference, prediction), prediction.shape[0]),
                )
            direction = _normalised(gradient, otherwise=direction)
        perturbed = x + (self.eps * direction).to(x.dtype)
        prediction = run_without_side_effects(model, perturbed)
        return check_per_example(self._divergence(reference, prediction), prediction.shape[0])

    def extra_repr(self) -> str:
        return f"eps={self.eps}, xi={self.xi}, steps={self.steps}, divergence={self.divergence}, {super().extra_repr()}"


def _normalised(d: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """``d`` at L2 length 1 per example; where it is 0, ``otherwise``. Scaled by the largest entry first, so that tiny
    gradients do not underflow when squared.
    """
    flat = d.reshape(d.shape[0], math.prod(d.shape[1:]))
    largest = flat.abs().amax(dim=1, keepdim=True) if flat.numel() else flat.new_ones(flat.shape[0], 1)
    scaled = flat / largest.clamp(min=torch.finfo(flat.dtype).tiny)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    unit = (scaled / length.clamp(min=1e-12)).reshape(d.shape)
    if otherwise is None:
        return unit
    return unit.where((length > 0).view(-1, *(1,) * (d.dim() - 1)), otherwise)

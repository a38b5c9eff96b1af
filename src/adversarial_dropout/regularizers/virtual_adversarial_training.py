"""VAT: the network must agree with itself on the input moved in the direction that changes its prediction most."""

import math

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, check_at_least, check_positive
from adversarial_dropout.regularizers.base import Reduction, Regularizer, searching
from adversarial_dropout.regularizers.model_io import Inputs, Output, is_packed
from adversarial_dropout.regularizers.passes import detached_copy, preserving_noise, replacing
from adversarial_dropout.regularizers.perturbation import Perturbation


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
        embedding: Name of a module whose output is moved instead of x, for token ids; the end of the name is enough.
            One more pass without a gradient then measures this output.
        divergence: ``"kl"``, ``"qe"``, ``"ce"``; ``"bernoulli_kl"``, ``"bernoulli_qe"``, ``"bernoulli_ce"`` for one
            logit and for multi-label models; ``"squared_error"`` for regression; or a function ``(target, prediction)
            -> (N,)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, *, target=None, mask=None)``: floating x (N, ...); ``target`` is ``model(x)`` if it has been
        computed already. Returns a scalar, or shape (N,).

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
        embedding: str | None = None,
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)
        check_positive("eps", eps)
        if xi is not None:
            check_positive("xi", xi)
        check_at_least("steps", steps, 1)
        self.eps = eps
        self.xi = xi
        self.steps = steps
        self.embedding = embedding

    @searching
    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        if self.embedding is None and is_packed(x):
            raise InvalidTypeError(
                "expected padded sequences, got a PackedSequence, whose tensor has no dimension of the examples; let "
                "the model pack them, or name a module whose output is to be moved: embedding=NAME"
            )
        perturbation = Perturbation(model, x, self.embedding, self.output)
        moved = perturbation.moved()
        direction = _normalised(torch.randn_like(moved, dtype=torch.promote_types(moved.dtype, torch.float32)))
        if target is None:
            with preserving_noise(model, x), replacing(model, parameters=Tensor.detach):
                target = perturbation.run()
        reference = detached_copy(target)
        self._check_batch(moved.shape, reference.shape[0])
        xi = self.xi if self.xi is not None else (1e-4 if moved.dtype == torch.float64 else 0.1)
        for _ in range(self.steps):
            gradient = perturbation.gradient(
                xi * direction, lambda prediction: self.divergence_of(reference, prediction, mask)
            )
            direction = _normalised(gradient, otherwise=direction)
        return self.divergence_of(reference, perturbation.run_without_side_effects(self.eps * direction), mask)

    def _check_batch(self, moved: torch.Size, examples: int) -> None:
        """Raise where the length of a perturbation would be that of another dimension than the examples'."""
        rows = moved[0] if moved else 0
        if rows != examples and (examples in moved[1:] or (examples and rows % examples)):
            raise InvalidValueError(
                f"expected what is moved to have the {examples} examples in dimension 0, got shape {tuple(moved)}; "
                f"transpose inside the model, or name a module with embedding= whose output has them there"
            )


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

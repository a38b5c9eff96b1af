"""Regularisers on mixtures of images: interpolation consistency, and mixup."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.errors import InvalidTypeError, check_positive
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.model_io import Inputs


def drawn_shares(x: Tensor, alpha: float) -> Tensor:
    """A share λ ~ Beta(α, α) for each example of ``x`` (N, ...), shape (N,)."""
    both = torch.full((), alpha, dtype=torch.float32, device=x.device)
    return torch.distributions.Beta(both, both, validate_args=False).sample((len(x),))


def mixed(x: Tensor, share: Tensor) -> Tensor:
    """λ xᵢ + (1 - λ) xⱼ with the shares λ (N,), where j is the example before i: a batch is in random order."""
    weight = share.to(x.dtype).view(-1, *(1,) * (x.dim() - 1))
    return weight * x + (1 - weight) * x.roll(1, dims=0)


def mixed_predictions(logits: Tensor, share: Tensor) -> Tensor:
    """Logits (N, C) of the mixtures of the predicted distributions, λ softmax(zᵢ) + (1 - λ) softmax(zⱼ)."""
    own = F.log_softmax(logits, dim=1)
    weight = share.to(own.dtype).unsqueeze(1)
    return torch.logaddexp(own + weight.log(), own.roll(1, dims=0) + (1 - weight).log())


class InterpolationConsistency(Regularizer):
    r"""Interpolation consistency training (Verma et al., IJCAI 2019): the prediction of a mixture should be the mixture
    of the predictions:

    .. math:: D[\lambda f'(x_i) + (1 - \lambda) f'(x_j),\; f(\lambda x_i + (1 - \lambda) x_j)],
        \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with distributions f over the classes. j is the example before i in the batch, and each pair has its own λ. No
    gradient flows into f', which is the network itself, or with ``target=`` another one.

    Args:
        divergence: D, a name or a function; ``"qe"`` as published.
        alpha: α, above 0.

    Call:
        ``reg(model, x, *, target=None)``: ``target`` is f'(x), logits (N, C). Returns a scalar.
    """

    def __init__(self, *, divergence: str = "qe", alpha: float = 1.0) -> None:
        super().__init__(divergence=divergence)
        check_positive("alpha", alpha)
        self.alpha = alpha

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        images = _one_tensor(x)
        if target is None:
            with torch.no_grad():
                target = self.run(model, images)
        share = drawn_shares(images, self.alpha)
        goal = mixed_predictions(target.detach(), share)
        return self.divergence_of(goal, self.run(model, mixed(images, share)), mask)


class MixupLoss(Regularizer):
    r"""The loss of mixup (Zhang et al., ICLR 2018), the cross-entropy of mixtures of images and of their labels:

    .. math:: \lambda\, \ell(z, y_i) + (1 - \lambda)\, \ell(z, y_j), \qquad z = f(\lambda x_i + (1 - \lambda) x_j),
        \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    j is the example before i in the batch, and each pair has its own λ.

    Args:
        alpha: α, above 0.

    Call:
        ``reg(model, x, y)``: ``y`` are labels, shape (N,). Returns a scalar.
    """

    supervised = True

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__(divergence="ce")
        check_positive("alpha", alpha)
        self.alpha = alpha

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        assert y is not None
        images = _one_tensor(x)
        share = drawn_shares(images, self.alpha)
        logits = self.run(model, mixed(images, share))
        own, other = (self.divergence_of(labels, logits, mask) for labels in (y, y.roll(1)))
        return share * own + (1 - share) * other


def _one_tensor(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise InvalidTypeError(f"expected images as one tensor, got {type(x).__name__}")
    return x

"""The loss of one step, as one module: everything that runs the model runs inside its forward."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.experiments.config import TermConfig
from adversarial_dropout.regularizers.adversarial_training import AdversarialTraining
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization
from adversarial_dropout.regularizers.pi_model import PiModel
from adversarial_dropout.regularizers.supervised_adversarial_dropout import SupervisedAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_dropout import VirtualAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_training import VirtualAdversarialTraining


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sees.

    Attributes:
        images: Labelled images, float32, shape (N, C, H, W).
        labels: Their labels, int64, shape (N,).
        unlabelled: Images without labels, shape (M, C, H, W).
    """

    images: Tensor
    labels: Tensor
    unlabelled: Tensor


class Objective(nn.Module):
    """Cross-entropy of the labelled images plus λ-weighted terms: L + Σ λᵢ Rᵢ (eqs. 2–7).

    Supervised terms see the labelled images, the others the unlabelled ones.
    """

    def __init__(self, model: nn.Module, terms: Sequence[TermConfig]) -> None:
        super().__init__()
        self.model = model
        self.terms = tuple(terms)
        self.regularizers = nn.ModuleList(build_regularizer(term) for term in terms)

    def forward(self, batch: Batch, ramp: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of one step.

        Args:
            batch: The step's images.
            ramp: Factor in [0, 1] of the weights that follow the ramp-up.

        Returns:
            The loss, a scalar, and the detached values of cross-entropy and terms before weighting.
        """
        loss = F.cross_entropy(self.model(batch.images), batch.labels)
        values = {"ce": loss.detach()}
        for term, regularizer in zip(self.terms, self.regularizers, strict=True):
            assert isinstance(regularizer, Regularizer)
            if regularizer.supervised:
                value = regularizer(self.model, batch.images, batch.labels)
            else:
                value = regularizer(self.model, batch.unlabelled)
            values[term.kind] = value.detach()
            loss = loss + term.weight * (ramp if term.ramp else 1.0) * value
        return loss, values


def build_regularizer(term: TermConfig) -> Regularizer:
    """The regulariser that ``term`` describes."""
    match term.kind:
        case "at":
            return AdversarialTraining(eps=term.eps)
        case "vat":
            return VirtualAdversarialTraining(eps=term.eps, divergence=term.divergence)
        case "pi":
            return PiModel(divergence=term.divergence)
        case "sadd":
            return SupervisedAdversarialDropout(divergence=term.divergence)
        case "vadd":
            return VirtualAdversarialDropout(divergence=term.divergence, noise=term.noise)
        case "entmin":
            return EntropyMinimization()

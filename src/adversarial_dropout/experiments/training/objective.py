"""The loss of one step, as one module: everything that runs the model runs inside its forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.experiments.config import TermConfig
from adversarial_dropout.experiments.models.autoencoder import Autoencoder, reconstruction_error
from adversarial_dropout.regularizers.adversarial_training import AdversarialTraining
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization
from adversarial_dropout.regularizers.passes import cut
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
        unlabelled: Images without labels, shape (M, C, H, W); ``None``: the terms see the labelled ones.
        second: A second view of the images that terms without labels see; ``None`` where it would be the same.
    """

    images: Tensor
    labels: Tensor
    unlabelled: Tensor | None = None
    second: Tensor | None = None


class Objective(nn.Module):
    """Cross-entropy of the labelled images plus λ-weighted terms: L + Σ λᵢ Rᵢ (eq. 6; with several terms, eq. 7).

    Supervised terms see the labelled images, the others the unlabelled ones if there are any. SAdD starts from the
    masks of the pass that the cross-entropy needs, as eq. 6 has one εˢ for both. Where the terms see the
    labelled images, the pass that the cross-entropy needs is their target; where there are two views, the target is
    that of the first, and the pass that is compared with it sees the second. VAT makes its own target, because all of
    its passes see the same noise.
    """

    def __init__(self, model: nn.Module, terms: Sequence[TermConfig]) -> None:
        super().__init__()
        self.model = model
        self.terms = tuple(terms)
        self.regularizers = nn.ModuleList(build_regularizer(term) for term in terms)

    @property
    def needs_unlabelled(self) -> bool:
        """Whether there are terms that see the unlabelled images."""
        return any(not regularizer.supervised for regularizer in self._regularizers())

    def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of one step.

        Args:
            batch: The step's images.
            ramp: Factor in [0, 1] of the weights that follow the ramp-up; as a 0-dim float64 tensor it gives the same.

        Returns:
            The loss, a scalar, and the detached values before weighting: of what is learned ("ce", "se") and the terms.
        """
        under, upper = cut(self.model)
        h = under(batch.images)
        learned, loss, goal = self.learn(upper(h), batch)
        values = {learned: loss.detach()}
        first = batch.images if batch.unlabelled is None else batch.unlabelled
        second = first if batch.second is None else batch.second
        target = goal if batch.unlabelled is None else None
        # Supervised ones first: they start from the masks of the labelled pass, which a target made below replaces.
        pairs = sorted(zip(self.terms, self._regularizers(), strict=True), key=lambda pair: not pair[1].supervised)
        for term, regularizer in pairs:
            if regularizer.supervised:
                value = regularizer(self.model, batch.images, batch.labels, target=goal)
            elif term.kind == "vat":
                value = regularizer(self.model, first)
            elif batch.unlabelled is None and term.noise == "shared" and term.kind == "vadd":
                value = regularizer(upper, h, target=target)
            else:
                if target is None and batch.second is not None:
                    target = self.model(first)
                value = regularizer(self.model, second, target=target)
            values[term.kind] = value.detach()
            weight = term.weight * (ramp if term.ramp else 1.0)
            # A scalar does not raise the precision of what it multiplies; a tensor would.
            loss = loss + (weight.to(value.dtype) if isinstance(weight, Tensor) else weight) * value
        return loss, values

    def learn(self, output: Tensor, batch: Batch) -> tuple[str, Tensor, Tensor]:
        """What is learned besides the terms: its name, its loss, and the target of terms that see the same images."""
        return "ce", F.cross_entropy(output, batch.labels), output

    def _regularizers(self) -> Iterator[Regularizer]:
        for regularizer in self.regularizers:
            assert isinstance(regularizer, Regularizer)
            yield regularizer


class Reconstruction(Objective):
    """Reconstruction error of the images plus λ-weighted adversarial dropout terms, with the images as target.

    All passes share the hidden units; the search starts from the masks of the first pass.
    """

    def learn(self, output: Tensor, batch: Batch) -> tuple[str, Tensor, Tensor]:
        images = batch.images.flatten(1)
        return "se", reconstruction_error(images, output).mean(), images


def build_objective(model: nn.Module, terms: Sequence[TermConfig]) -> Objective:
    """What ``model`` is trained for: its images again if it is an autoencoder, else their classes."""
    return Reconstruction(model, terms) if isinstance(model, Autoencoder) else Objective(model, terms)


def build_regularizer(term: TermConfig) -> Regularizer:
    """The regulariser that ``term`` describes."""
    match term.kind:
        case "at":
            return AdversarialTraining(eps=term.eps)
        case "vat":
            return VirtualAdversarialTraining(eps=term.eps, xi=term.xi, divergence=term.divergence)
        case "pi":
            return PiModel(divergence=term.divergence)
        case "sadd":
            return SupervisedAdversarialDropout(divergence=term.divergence)
        case "vadd":
            divergence = reconstruction_error if term.divergence == "se" else term.divergence
            return VirtualAdversarialDropout(divergence=divergence, noise=term.noise)
        case "entmin":
            return EntropyMinimization()

"""One step of training: loss, gradients, update. Everything that runs the model runs inside the loss's forward."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import Task
from adversarial_dropout.experiments.terms import StepInputs, Term
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.passes import cut


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

    def __init__(self, model: nn.Module, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.model = model
        self.terms = tuple(terms.values())
        self.regularizers = nn.ModuleList(term.build() for term in self.terms)

    @property
    def needs_unlabelled(self) -> bool:
        """Whether there are terms that see the unlabelled images."""
        return any(not term.supervised for term in self.terms)

    def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of one step.

        Args:
            batch: The step's images.
            ramp: Factor in [0, 1] of the weights that follow the ramp-up; as a 0-dim float64 tensor it gives the same.

        Returns:
            The loss, a scalar, and the detached values before weighting: of the main loss ("ce", "se") and the terms.
        """
        under, upper = cut(self.model)
        h = under(batch.images)
        name, loss, goal = self.main_loss(upper(h), batch)
        values = {name: loss.detach()}
        labelled_alone = batch.unlabelled is None
        first = batch.images if batch.unlabelled is None else batch.unlabelled
        given = StepInputs(
            model=self.model,
            upper=upper,
            hidden=h,
            images=batch.images,
            labels=batch.labels,
            goal=goal,
            first=first,
            second=first if batch.second is None else batch.second,
            target=goal if labelled_alone else None,
            labelled_alone=labelled_alone,
        )
        # Supervised ones first: they start from the masks of the labelled pass, which a target made later replaces.
        pairs = sorted(zip(self.terms, self._regularizers(), strict=True), key=lambda pair: not pair[0].supervised)
        for term, regularizer in pairs:
            value = term.value(regularizer, given)
            values[term.kind] = value.detach()
            weight = term.weight * (ramp if term.ramp else 1.0)
            # A scalar does not raise the precision of what it multiplies; a tensor would.
            loss = loss + (weight.to(value.dtype) if isinstance(weight, Tensor) else weight) * value
        return loss, values

    def main_loss(self, output: Tensor, batch: Batch) -> tuple[str, Tensor, Tensor]:
        """The loss without the terms: its name, its value, and the target of terms that see the same images."""
        return "ce", F.cross_entropy(output, batch.labels), output

    def _regularizers(self) -> Iterator[Regularizer]:
        for regularizer in self.regularizers:
            assert isinstance(regularizer, Regularizer)
            yield regularizer


class Reconstruction(Objective):
    """Reconstruction error of the images plus λ-weighted adversarial dropout terms, with the images as target.

    All passes share the hidden units; the search starts from the masks of the first pass.
    """

    def main_loss(self, output: Tensor, batch: Batch) -> tuple[str, Tensor, Tensor]:
        images = batch.images.flatten(1)
        return "se", reconstruction_error(images, output).mean(), images


_OBJECTIVES: dict[Task, type[Objective]] = {"classes": Objective, "images": Reconstruction}


def build_objective(model: nn.Module, terms: Mapping[str, Term], task: Task = "classes") -> Objective:
    """What ``model`` is trained for: the classes of images, or to give them back."""
    return _OBJECTIVES[task](model, terms)


Step = Callable[[Batch, float], dict[str, Tensor]]
"""From a batch and the factor of the weights that rise to the step's detached values: "loss" and those of the terms."""


def eager_step(
    objective: nn.Module, optimizer: torch.optim.Optimizer, backward: Callable[[Tensor], None] = Tensor.backward
) -> Step:
    """A step that runs operation by operation, on any device.

    Args:
        objective: From a batch and the factor to the loss and the values of its terms.
        optimizer: Of the objective's parameters.
        backward: Computes the gradients of the loss.
    """

    def step(batch: Batch, ramp: float) -> dict[str, Tensor]:
        loss, values = objective(batch, ramp)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        return {"loss": loss.detach(), **values}

    return step


def choose_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None] = Tensor.backward,
    *,
    capture: bool = False,
) -> Step:
    """The step for the device of the objective; on a GPU, with an error that helps where memory does not suffice.

    Args:
        objective: From a batch and the factor of the weights that rise to the loss and the values of its terms.
        optimizer: Of the objective's parameters; Adam where the step is recorded.
        backward: Computes the gradients of the loss.
        capture: Whether to record it as one CUDA graph; otherwise it runs operation by operation.

    Raises:
        CaptureError: it is to be recorded and cannot be.
    """
    # Both modules below build on this one, and most runs need neither.
    step: Step
    if capture:
        from adversarial_dropout.experiments.run.captured import CapturedStep, check_capture

        check_capture(objective)
        step = CapturedStep(objective, optimizer, backward)
    else:
        step = eager_step(objective, optimizer, backward)
    if next(objective.parameters()).device.type == "cuda":
        from adversarial_dropout.experiments.run.memory import explaining

        step = explaining(step)
    return step

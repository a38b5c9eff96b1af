"""One step of training: loss, gradients, update. Everything that runs the model runs inside the loss's forward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import Task
from adversarial_dropout.experiments.step_inputs import StepInputs
from adversarial_dropout.experiments.terms import Term, averages_weights
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.mean_teacher import MeanTeacher
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
    masks of the pass that the cross-entropy needs, as eq. 6 has one εˢ for both. Where the terms see the labelled
    images, that pass is also their target; where there are two views, the target is computed on the first view and
    compared with a pass on the second. VAT computes its own target, because all of its passes see the same noise.

    With task "images", the loss is the reconstruction error of the images, which are also the target of the terms.

    Some terms take their target from the moving average of the weights, with ``decay``: it is :attr:`average`, whose
    ``update(model)`` belongs after each step of the optimiser. ``None`` if no term of the loss does.
    """

    def __init__(
        self, model: nn.Module, terms: Mapping[str, Term], task: Task = "classes", *, decay: float = 0.99
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.terms = tuple(terms.values())
        self.regularizers = nn.ModuleList(term.build() for term in self.terms)
        averaging = any(averages_weights(term) for term in self.terms)
        self.average = MeanTeacher(model, decay=decay) if averaging else None

    @property
    def needs_unlabelled(self) -> bool:
        """Whether there are terms that see the unlabelled images."""
        return any(not term.supervised for term in self.terms)

    def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and the detached values before weighting: of the main loss and of each term.

        ``ramp`` in [0, 1] scales the weights that follow the ramp-up; as a 0-dim float64 tensor it gives the same.
        """
        under, upper = cut(self.model)
        h = under(batch.images)
        name, loss, goal = self._main_loss(upper(h), batch)
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
            average=None if self.average is None else self.average.teacher,
        )
        # Supervised ones first: they start from the masks of the labelled pass, which a target made later replaces.
        pairs = sorted(zip(self.terms, self.regularizers, strict=True), key=lambda pair: not pair[0].supervised)
        for term, regularizer in pairs:
            value = term.value(cast(Regularizer, regularizer), given)
            values[term.kind] = value.detach()
            weight = term.weight * (ramp if term.ramp else 1.0)
            # A scalar does not raise the precision of what it multiplies; a tensor would.
            loss = loss + (weight.to(value.dtype) if isinstance(weight, Tensor) else weight) * value
        return loss, values

    def _main_loss(self, output: Tensor, batch: Batch) -> tuple[str, Tensor, Tensor]:
        """The loss without the terms: its name, its value, and the target of the terms on the same images."""
        if self.task == "images":
            images = batch.images.flatten(1)
            return "se", reconstruction_error(images, output).mean(), images
        return "ce", F.cross_entropy(output, batch.labels), output


Step = Callable[[Batch, float], dict[str, Tensor]]
"""Trains on a batch, given the factor of the weights that rise; returns detached values: "loss", and of each term."""


def eager_step(
    objective: nn.Module, optimizer: torch.optim.Optimizer, backward: Callable[[Tensor], None] = Tensor.backward
) -> Step:
    """A step that runs operation by operation; ``backward`` computes the gradients of the loss."""

    def step(batch: Batch, ramp: float) -> dict[str, Tensor]:
        loss, values = objective(batch, ramp)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        return {"loss": loss.detach(), **values}

    return step


_GIB = 2**30
_NOT_COUNTED = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of errors that mean a lack of memory and that Accelerate does not count."""


class GpuMemoryError(AdversarialDropoutError, MemoryError):
    """A step does not fit into the memory of the GPU."""


def explaining(step: Step) -> Step:
    """``step``, which raises :class:`GpuMemoryError` with advice if it does not fit into the memory of the GPU."""

    def explained(batch: Batch, ramp: float) -> dict[str, Tensor]:
        try:
            return step(batch, ramp)
        except RuntimeError as error:
            from accelerate.utils.memory import should_reduce_batch_size  # Here, because this import takes long.

            if should_reduce_batch_size(error) or any(sign in str(error) for sign in _NOT_COUNTED):
                raise GpuMemoryError(_explanation(batch, str(error))) from error
            raise

    return explained


def _explanation(batch: Batch, message: str) -> str:
    size, options = f"{len(batch.images)} images", "--training.batch-labelled"
    if batch.unlabelled is not None:
        size = f"{len(batch.images)} labelled and {len(batch.unlabelled)} unlabelled images"
        options += " and --training.batch-unlabelled"
    cause = ". ".join(message.splitlines()[0].split(". ")[:2]).rstrip(".")
    free, total = torch.cuda.mem_get_info(batch.images.device)
    used = torch.cuda.memory_allocated(batch.images.device)
    return (
        f"out of memory at a step with {size} in this process ({total / _GIB:.1f} GiB, of which {free / _GIB:.1f} are "
        f"free and {used / _GIB:.1f} used by this run): {cause}. Lower {options}, for example to half, with another "
        f"--out, or start more processes. The checkpoint of the epoch before is unchanged"
    )

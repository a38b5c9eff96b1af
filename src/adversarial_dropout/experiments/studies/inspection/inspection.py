"""What the search finds in one trained network: which units, for which classes, with what effect on predictions."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.divergences import cross_entropy
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.autoencoders.features import evaluation_images
from adversarial_dropout.experiments.studies.inspection.masks_at_work import MasksAtWork, observe
from adversarial_dropout.experiments.studies.theory.equations import jacobian_at
from adversarial_dropout.experiments.trained.evaluation import outputs
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.layers import AdversarialDropout, adversarial_layers
from adversarial_dropout.masks import flip_budget


@dataclass(frozen=True, eq=False)
class Inspection:
    """A search on N images of one network.

    It attacks the probability of the class that is most probable under the base mask, or, of an autoencoder, the
    reconstruction error. Importance is the mean of |J| at ε = 1 over the images: how fast the loss of the network in
    evaluation changes with a unit. The target of this loss is the most probable class, or the image.
    """

    trained: Trained
    stored: Tensor  # The images, uint8, shape (N, C, H, W).
    labels: Tensor  # Their classes, int64, shape (N,).
    work: MasksAtWork
    budget: int  # Number of flips that the search may make for each image.
    importance: Tensor  # Of each unit, shape (H,).
    before: Tensor  # What the search attacks, shape (N,).
    after: Tensor  # The same after the flips of the search.
    after_random: Tensor  # The same after as many random flips, shape (RANDOM_MASKS, N).

    @property
    def reconstructs(self) -> bool:
        """Whether the network is an autoencoder."""
        return self.trained.task == "images"

    @property
    def scored(self) -> str:
        """What ``before`` and ``after`` are, in words."""
        return "reconstruction error" if self.reconstructs else "probability of the class predicted before"

    @property
    def fragile(self) -> Tensor:
        """Indices of the images, those that the search damages most first; shape (N,)."""
        damage = self.after - self.before if self.reconstructs else self.before - self.after
        return damage.argsort(descending=True, stable=True)

    @property
    def flipped(self) -> Tensor:
        """Which units the search has flipped, bool, shape (N, H)."""
        return self.work.base != self.work.found

    @property
    def dropped(self) -> Tensor:
        """Which units the search has dropped, bool, shape (N, H); the other flips revive units."""
        return self.flipped & self.work.base

    @property
    def often(self) -> Tensor:
        """Share of the images for which each unit is flipped, shape (H,)."""
        return self.flipped.double().mean(dim=0)

    @property
    def units(self) -> Tensor:
        """Indices of the units, those that are flipped most often first; shape (H,)."""
        return self.often.argsort(descending=True, stable=True)

    @property
    def flipped_by_class(self) -> Tensor:
        """Share of the images of each class for which a unit is flipped, shape (classes, H); NaN without images."""
        return torch.stack(
            [self.flipped[self.labels == label].double().mean(dim=0) for label in range(len(self.trained.classes))]
        )

    @property
    def changed(self) -> tuple[float, float]:
        """Share of the images with another most probable class after the flips of the search, and after random ones."""
        classes = self.work.before.argmax(dim=1)
        by_search = self.work.after.argmax(dim=1) != classes
        at_random = self.work.after_random.argmax(dim=2) != classes
        return float(by_search.double().mean()), float(at_random.double().mean())

    @property
    def by_class(self) -> Table:
        """The effect on all images, and on those of each class."""
        members = [("all", torch.ones_like(self.labels, dtype=torch.bool))]
        members += [(name, self.labels == label) for label, name in enumerate(self.trained.classes)]
        return Table(
            ("class", "n", "flips", "before", "after random flips", "after the search", "units flipped most often"),
            [self._row(name, images) for name, images in members if images.any()],
            f"Means over the images of each class: flips per image, and the {self.scored}",
        )

    def _row(self, name: str, images: Tensor) -> tuple[object, ...]:
        flipped = self.flipped[images].double()
        often = flipped.mean(dim=0)
        most = often.argsort(descending=True, stable=True)[:3].tolist()
        scores = (self.before[images], self.after_random[:, images], self.after[images])
        return (
            name,
            len(flipped),
            f"{flipped.sum(dim=1).mean():.1f}",
            *(f"{values.mean():.4f}" for values in scores),
            ", ".join(f"{unit} ({100 * often[unit]:.0f} %)" for unit in most),
        )

    @property
    def by_unit(self) -> Table:
        """Importance of each unit, and how often it is flipped: in all, dropped, revived, and for each class."""
        columns = (
            self.importance,
            self.often,
            self.dropped.double().mean(dim=0),
            (self.flipped & ~self.dropped).double().mean(dim=0),
            *self.flipped_by_class,
        )
        return Table(
            ("unit", "importance", "flipped", "dropped", "revived", *self.trained.classes),
            list(zip(range(len(self.importance)), *(column.tolist() for column in columns), strict=True)),
        )


def inspect(
    trained: Trained,
    *,
    images: int | None = None,
    flips: int | None = None,
    location: DataLocation | None = None,
    seed: int = 0,
) -> Inspection:
    """Search for the most harmful flips on images of a run's evaluation part; see :func:`~.masks_at_work.observe`.

    The images are :func:`~..autoencoders.features.evaluation_images`. ``flips`` is the budget per image; by default it
    is that of the run, or 5 % of the units if no term of the run searched.

    Raises:
        InvalidValueError: there are fewer images, the layer has fewer units than flips, no flip is allowed or changes
            anything, the network has no AdversarialDropout layer, or the data are not those of the run.
    """
    model, folder = trained.model, trained.record.folder
    layers = adversarial_layers(model)
    if not isinstance(model, CutNetwork) or len(layers) != 1:
        raise InvalidValueError(
            f"expected a network with one AdversarialDropout layer in {folder}, got {len(layers)}; train one with such "
            f"a layer in front of its last layers"
        )
    data, rows = evaluation_images(trained, images, location)
    stored = data.images[rows]
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # For the noise that the authors' presets have in evaluation.
        h = outputs(model.under, trained.pixels, stored).double()
    # In float64: the gradient of a very confident network would be 0 otherwise.
    upper = copy.deepcopy(model.upper).double().eval()
    budget = _set_budget(adversarial_layers(upper)[0], h, flips)
    target = trained.pixels(stored).flatten(1).double() if trained.task == "images" else None
    work = observe(upper, h, seed, against="class" if target is None else target)
    if torch.equal(work.base, work.found):
        reason = "its units are all 0" if not h.any() else "its output does not depend on any unit"
        raise InvalidValueError(
            f"expected a network in {folder} with a unit to flip, but {reason}; look at its training"
        )
    classes = work.before.argmax(dim=1, keepdim=True)
    jacobian = jacobian_at(
        torch.ones_like(h),
        h,
        upper=upper,
        target=upper(h).argmax(dim=1) if target is None else target,
        divergence=cross_entropy if target is None else reconstruction_error,
    )

    def score(output: Tensor) -> Tensor:
        return output.gather(1, classes).squeeze(1) if target is None else reconstruction_error(target, output)

    return Inspection(
        trained=trained,
        stored=stored,
        labels=data.labels[rows],
        work=work,
        budget=budget,
        importance=jacobian.abs().mean(dim=0),
        before=score(work.before),
        after=score(work.after),
        after_random=torch.stack([score(output) for output in work.after_random]),
    )


def _set_budget(layer: AdversarialDropout, h: Tensor, flips: int | None) -> int:
    """Let the search flip that many units of the layer, if given; return its budget."""
    units = math.prod(layer.mask_shape(h)[1:])
    if flips is not None:
        if not 0 < flips <= units:
            raise InvalidValueError(f"expected flips between 1 and the {units} units of the layer, got {flips}")
        layer.delta = flips / units
    budget = flip_budget(layer.delta, units)
    if not budget:
        raise InvalidValueError(
            f"expected a run whose search may flip a unit, got delta={layer.delta} of {units} units; give --flips 1 or "
            f"more"
        )
    return budget

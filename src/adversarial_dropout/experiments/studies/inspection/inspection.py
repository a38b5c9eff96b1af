"""What the search finds in one trained network: which units, for which classes, and what that does to predictions."""

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import cross_entropy
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.autoencoders.features import check_images
from adversarial_dropout.experiments.studies.inspection.masks_at_work import MasksAtWork, observe
from adversarial_dropout.experiments.studies.theory.linearisation import jacobian_at
from adversarial_dropout.experiments.trained.evaluation import outputs
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.layers import AdversarialDropout, adversarial_layers
from adversarial_dropout.masks import flip_budget

USUAL_IMAGES = 1000


@dataclass(frozen=True, eq=False)
class Inspection:
    """A search on N images of one network.

    Attributes:
        trained: The network.
        stored: The images, uint8, shape (N, C, H, W).
        labels: Their classes, int64, shape (N,).
        work: The search.
        budget: Flips that it was allowed for each image.
        importance: Of each unit, mean over images of |J| at ε = 1: how fast the loss of the network as it is used (of
            its own most probable class, or of the reconstruction) changes with the unit; shape (H,).
        before: Of each image, what the search attacks: the probability of the class that is most probable under the
            base mask; of an autoencoder, the reconstruction error. Shape (N,).
        after: The same after the flips of the search.
        after_random: After random flips, as many, shape (RANDOM_MASKS, N).
    """

    trained: Trained
    stored: Tensor
    labels: Tensor
    work: MasksAtWork
    budget: int
    importance: Tensor
    before: Tensor
    after: Tensor
    after_random: Tensor

    @property
    def layer(self) -> AdversarialDropout:
        """The layer whose masks are searched."""
        return adversarial_layers(self.trained.model)[0]

    @property
    def reconstructs(self) -> bool:
        """Whether the network is an autoencoder."""
        return self.trained.task == "images"

    @property
    def scored(self) -> str:
        """What ``before`` and ``after`` are."""
        return "reconstruction error" if self.reconstructs else "probability of the class predicted before"

    @property
    def damage(self) -> Tensor:
        """How much each image lost by the flips of the search, shape (N,): the fragile ones have the largest values."""
        return self.after - self.before if self.reconstructs else self.before - self.after

    @property
    def fragile(self) -> Tensor:
        """The images by :attr:`damage`, the most fragile first; shape (N,)."""
        return self.damage.argsort(descending=True, stable=True)

    @property
    def flipped(self) -> Tensor:
        """Where the search has flipped a unit, bool, shape (N, H)."""
        return self.work.base != self.work.found

    @property
    def dropped(self) -> Tensor:
        """Where it has dropped one, bool, shape (N, H); all other flips revive."""
        return self.flipped & self.work.base

    @property
    def often(self) -> Tensor:
        """Share of the images for which each unit is flipped, shape (H,)."""
        return self.flipped.double().mean(dim=0)

    @property
    def flipped_by_class(self) -> Tensor:
        """Share of the images of each class for which a unit is flipped, shape (classes, H); NaN without images."""
        return torch.stack(
            [self.flipped[self.labels == label].double().mean(dim=0) for label in range(len(self.trained.classes))]
        )

    @property
    def units(self) -> Tensor:
        """The units by how often they are flipped, the most frequent first; shape (H,)."""
        return self.often.argsort(descending=True, stable=True)

    @property
    def changed(self) -> tuple[float, float]:
        """Share of the images with another most probable class after the flips of the search, and after random ones."""
        classes = self.work.before.argmax(dim=1)
        found = self.work.after.argmax(dim=1) != classes
        random = self.work.after_random.argmax(dim=2) != classes
        return float(found.double().mean()), float(random.double().mean())

    @property
    def by_class(self) -> Table:
        """What happens to all images, and to those of each class."""
        rows = [self._row("all", torch.ones(len(self.labels), dtype=torch.bool))]
        for label, name in enumerate(self.trained.classes):
            own = self.labels == label
            if own.any():
                rows.append(self._row(name, own))
        return Table(
            ("class", "n", "flips", "before", "after random flips", "after the search", "units flipped most often"),
            rows,
            f"Means over the images of each class: flips per image, and the {self.scored}",
        )

    def _row(self, name: str, own: Tensor) -> tuple[object, ...]:
        often = self.flipped[own].double().mean(dim=0)
        most = [
            f"{unit} ({100 * often[unit]:.0f} %)" for unit in often.argsort(descending=True, stable=True)[:3].tolist()
        ]
        means = (self.before[own], self.after_random[:, own], self.after[own])
        flips = self.flipped[own].sum(dim=1).double().mean()
        return (name, int(own.sum()), f"{flips:.1f}", *(f"{float(m.mean()):.4f}" for m in means), ", ".join(most))

    @property
    def by_unit(self) -> Table:
        """Of each unit: importance, how often it is flipped, dropped where kept, revived where dropped, by class."""
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
    """Search on images of a run's evaluation part for the flips that hurt most; see :func:`~.masks_at_work.observe`.

    Of a classifier these are the flips that take most from the class that is most probable under the base mask, of an
    autoencoder those that raise the reconstruction error most.

    Args:
        trained: The network.
        images: How many, evenly spaced; ``None``: 1,000, or all if there are fewer.
        flips: Budget of the search per image, k ≥ 1; ``None``: that of the run, or, where no term
            searched, a share of 0.05, the usual one of the layer.
        location: Where the run's data lie, if not where they lay.
        seed: Of base masks and random flips.

    Raises:
        InvalidValueError: there are fewer images, the layer has fewer units than flips, no flip is allowed or none
            changes anything, the network has no AdversarialDropout layer, or the data are not those of the run.
        RecordError: a file of the run is missing or damaged.
    """
    model = trained.model
    layers = adversarial_layers(model)
    if not isinstance(model, CutNetwork) or len(layers) != 1:
        raise InvalidValueError(
            f"expected a network with one AdversarialDropout layer in {trained.record.folder}, got {len(layers)}; "
            f"train one with such a layer in front of its last layers"
        )
    rows = trained.split().evaluation
    if images is not None:
        check_images(images, len(rows))
    data = trained.data(location)
    rows = evenly_spaced(rows, images or USUAL_IMAGES)
    stored = data.images[rows]
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # Of noise in evaluation, which the authors' presets have.
        h = outputs(model.under, trained.pixels, stored).double()
    # In float64: the gradient of a very confident network would be 0 otherwise.
    upper = copy.deepcopy(model.upper).double()
    budget = _set_budget(adversarial_layers(upper)[0], h, flips)
    target = trained.pixels(stored).flatten(1).double() if trained.task == "images" else None
    work = observe(upper, h, seed, against="class" if target is None else target)
    if torch.equal(work.base, work.found):
        reason = "its units are all 0" if not h.any() else "its output does not depend on any unit"
        raise InvalidValueError(
            f"expected a network in {trained.record.folder} with a unit to flip, but {reason}; look at its training"
        )
    scores = partial(_scores, target=target, classes=work.before.argmax(dim=1))
    return Inspection(
        trained=trained,
        stored=stored,
        labels=data.labels[rows],
        work=work,
        budget=budget,
        importance=_importance(upper, h, target),
        before=scores(work.before),
        after=scores(work.after),
        after_random=torch.stack([scores(output) for output in work.after_random]),
    )


def _scores(output: Tensor, *, target: Tensor | None, classes: Tensor) -> Tensor:
    """Of each image, its reconstruction error, or the probability of one class."""
    if target is not None:
        return reconstruction_error(target, output)
    return output.gather(1, classes.unsqueeze(1)).squeeze(1)


def _set_budget(layer: AdversarialDropout, h: Tensor, flips: int | None) -> int:
    """Have the layer's search flip so many units; return how many that are."""
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


def _importance(upper: nn.Module, h: Tensor, target: Tensor | None) -> Tensor:
    """Mean over images of |J| at ε = 1, in evaluation; D is the loss of what the network itself says (eq. 11)."""
    upper.eval()
    divergence = cross_entropy if target is None else reconstruction_error
    if target is None:
        with torch.no_grad():
            target = upper(h).argmax(dim=1)
    jacobian = jacobian_at(torch.ones_like(h), h, upper=upper, target=target, divergence=divergence)
    return jacobian.abs().mean(dim=0)

"""What the hidden units of an autoencoder have learned: its filters and activations, and measures of them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, NonFiniteError
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.studies.autoencoders.spots import spots
from adversarial_dropout.experiments.trained.trained import Trained

_HIGH = 0.01
"""Dropout's own share of highly activated units, which sets the level."""
_DEAD = 0.01
"""A unit that is active on a smaller share of the images is dead."""


@dataclass(frozen=True, eq=False)
class Features:
    """The hidden units of one autoencoder.

    Attributes:
        record: Of its run.
        filters: Incoming weights of each unit as an image, shape (H, C, height, width).
        activations: On test images, shape (N, H), 0 or more.
        lit: Pixels that are above 0 on one of these images at least, bool, shape (height, width).
    """

    record: Record
    filters: Tensor
    activations: Tensor
    lit: Tensor


def look(record: Record, images: int, location: DataLocation | None = None) -> Features:
    """Show a trained autoencoder some images of its evaluation part, evenly spaced.

    Args:
        record: Of its run.
        images: How many.
        location: Where the data lie, if not where they lay.

    Raises:
        InvalidValueError: it is no autoencoder, there are fewer images, or an image activates no unit.
        RecordError: a file of the run is missing or damaged.
    """
    trained = Trained.load(record)
    if trained.task != "images":
        raise InvalidValueError(
            f"expected the run of an autoencoder, got {record.config.model.name} in {record.folder}"
        )
    rows = trained.split().evaluation
    check_images(images, len(rows))
    stored = trained.data(location).images[evenly_spaced(rows, images)]
    under = trained.model.get_submodule("under")
    weights = next(module.weight for module in under.modules() if isinstance(module, nn.Linear))
    pixels = trained.pixels(stored)
    with torch.no_grad():
        activations: Tensor = under(pixels)
    try:
        hoyer(activations)
    except InvalidValueError as error:
        raise InvalidValueError(f"{record.folder}: {error}") from error
    lit = (pixels > 0).flatten(0, 1).any(dim=0)
    return Features(record, weights.detach().view(-1, *trained.shape), activations, lit)


def check_images(images: int, there_are: int) -> None:
    """Raise :class:`InvalidValueError` unless there are so many images to look at."""
    if not 0 < images <= there_are:
        raise InvalidValueError(
            f"expected images between 1 and the {there_are} that runs are evaluated on, got {images}; give another "
            f"--images"
        )


def hoyer(activations: Tensor) -> Tensor:
    r"""Hoyer's sparsity :math:`(\sqrt H - \|a\|_1 / \|a\|_2) / (\sqrt H - 1)` of each example: 0 where all units are
    equal, 1 where one alone is active (Hoyer, JMLR 2004).

    Args:
        activations: Shape (N, H), floating, H ≥ 2.

    Returns:
        Values in [0, 1], float64, shape (N,).

    Raises:
        InvalidValueError, InvalidTypeError: another shape or dtype, NaN, or an example without any active unit, whose
            sparsity is not defined.
    """
    if not activations.is_floating_point():
        raise InvalidTypeError(f"expected floating activations, got {activations.dtype}")
    if activations.dim() != 2 or activations.shape[1] < 2:
        raise InvalidValueError(
            f"expected activations of shape (N, H) with 2 units or more, got {tuple(activations.shape)}"
        )
    if not activations.isfinite().all():
        raise NonFiniteError("expected finite activations, got NaN or infinite ones; look at the training")
    silent = (activations == 0).all(dim=1)
    if silent.any():
        raise InvalidValueError(
            f"expected an active unit for every example, got {int(silent.sum())} of {len(silent)} with none: all-zero "
            f"features have no sparsity; train for longer, or with a lower learning rate"
        )
    root = math.sqrt(activations.shape[1])
    sizes = activations.double().abs()
    sizes = sizes / sizes.amax(dim=1, keepdim=True)
    sparsity: Tensor = (root - sizes.sum(dim=1) / sizes.square().sum(dim=1).sqrt()) / (root - 1)
    return sparsity.clamp(0, 1)


def dead(activations: Tensor) -> Tensor:
    """Which units are dead: above 0 on fewer than 1 % of the examples. Of activations (N, H), bool, shape (H,)."""
    return (activations > 0).sum(dim=0) < _DEAD * len(activations)


MEASURES: dict[str, str] = {
    "reconstruction error in %": "share of the variance of all test images that is not explained",
    "dead filters": "units that are above 0 on fewer than 1 % of the images",
    "always 0": "units that are 0 on every image",
    "localised filters": "living filters with a quarter of their squared weight, or more, in the 5 × 5 pixels around "
    "the strongest",
    "spread of the rest": "of the living filters' rms weights outside these pixels: standard deviation over mean",
    "neighbourhood of spots": "mean size of the weights 3 to 5 pixels from the strongest, over that of all outside the "
    "5 × 5; mean over localised filters",
    "highly activated in %": "activations above the level that 1 % of dropout's exceed, same seed",
    "mean activation": "over units and images",
    "zero in %": "activations that are 0",
    "mean where active": "of the activations above 0",
    "Hoyer sparsity": "mean over images; 1: one active unit",
}
"""What is measured of each autoencoder, and how. A filter whose unit is not dead is living."""


def measure(features: Features, level: float) -> dict[str, float]:
    """The :data:`MEASURES` of one autoencoder; above ``level`` an activation is high. NaN: there is no such filter."""
    activations = features.activations
    living = ~dead(activations)
    found = spots(features.filters, features.lit)
    rest = found.rest[living]
    localised = found.localised & living
    values = (
        features.record.error,
        float((~living).sum()),
        float((activations <= 0).all(dim=0).sum()),
        float(localised.sum()),
        float(rest.std(correction=0) / rest.mean()),
        float(found.neighbourhood[localised].mean()),
        100 * float((activations > level).double().mean()),
        float(activations.double().mean()),
        100 * float((activations <= 0).double().mean()),
        float(activations[activations > 0].double().mean()),
        float(hoyer(activations).mean()),
    )
    return dict(zip(MEASURES, values, strict=True))


def high_level(dropout: Tensor) -> float:
    """The activation that 1 % of dropout's activations exceed."""
    return float(dropout.flatten().double().sort().values[math.ceil((1 - _HIGH) * dropout.numel()) - 1])

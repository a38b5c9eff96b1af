"""The filters and activations of the hidden units of an autoencoder, and measures of them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.trained.trained import Trained

USUAL_IMAGES = 1000
_HIGH = 0.01
"""Share of dropout's activations that count as high."""
_DEAD = 0.01
"""A unit that is active on a smaller share of the images is dead."""


@dataclass(frozen=True, eq=False)
class Features:
    """The hidden units of one autoencoder."""

    record: Record
    filters: Tensor  # Incoming weights of each unit as an image, shape (H, C, height, width).
    activations: Tensor  # On test images, shape (N, H), 0 or more.
    lit: Tensor  # Pixels that are above 0 on at least one of these images, bool, shape (height, width).


def look(record: Record, images: int, location: DataLocation | None = None) -> Features:
    """Show a trained autoencoder images of its evaluation part; see :func:`evaluation_images`.

    Raises:
        InvalidValueError: it is no autoencoder, there are fewer images, or an image activates no unit.
    """
    trained = Trained.load(record)
    if trained.task != "images":
        raise InvalidValueError(
            f"expected the run of an autoencoder, got {record.config.model.name} in {record.folder}"
        )
    data, rows = evaluation_images(trained, images, location)
    under = trained.model.get_submodule("under")
    weights = next(module.weight for module in under.modules() if isinstance(module, nn.Linear))
    pixels = trained.pixels(data.images[rows])
    with torch.no_grad():
        activations: Tensor = under(pixels)
    try:
        hoyer(activations)
    except InvalidValueError as error:
        raise InvalidValueError(f"{record.folder}: {error}") from error
    lit = (pixels > 0).flatten(0, 1).any(dim=0)
    return Features(record, weights.detach().view(-1, *trained.shape), activations, lit)


def evaluation_images(
    trained: Trained, images: int | None = None, location: DataLocation | None = None
) -> tuple[ImageData, Tensor]:
    """The data of a run, and the rows of evenly spaced images of its evaluation part, by default 1,000 or all.

    ``location`` says where the data are if they have moved.
    """
    rows = trained.split().evaluation
    if images is not None:
        check_images(images, len(rows))
    return trained.data(location), evenly_spaced(rows, images or USUAL_IMAGES)


def check_images(images: int, available: int) -> None:
    """Raise unless that number of images is available."""
    if not 0 < images <= available:
        raise InvalidValueError(
            f"expected images between 1 and the {available} that runs are evaluated on, got {images}; give another "
            f"--images"
        )


def hoyer(activations: Tensor) -> Tensor:
    r"""Hoyer's sparsity :math:`(\sqrt H - \|a\|_1 / \|a\|_2) / (\sqrt H - 1)` of each example: 0 where all units are
    equal, 1 where only one is active (Hoyer, JMLR 2004). Of floating activations (N, H), H ≥ 2; float64, shape (N,).

    Raises:
        InvalidValueError: another shape or dtype, NaN, or an example without an active unit.
    """
    if not activations.is_floating_point() or activations.dim() != 2 or activations.shape[1] < 2:
        raise InvalidValueError(
            f"expected floating activations of shape (N, H) with 2 units or more, got {activations.dtype} and "
            f"{tuple(activations.shape)}"
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
    """Which units are above 0 on fewer than 1 % of the examples. Of activations (N, H); bool, shape (H,)."""
    return (activations > 0).sum(dim=0) < _DEAD * len(activations)


MEASURES: dict[str, str] = json.loads(Path(__file__).with_name("measures.json").read_text(encoding="utf-8"))
"""What is measured of each autoencoder, and how. A filter is living if its unit is not dead."""


def measure(features: Features, level: float) -> dict[str, float]:
    """The :data:`MEASURES` of one autoencoder; NaN if there is no such filter. Activations above ``level`` are high."""
    activations = features.activations
    living = ~dead(activations)
    spot = spots(features.filters, features.lit)
    rest = spot.rest[living]
    localised = spot.localised & living
    values = (
        features.record.error,
        float((~living).sum()),
        float((activations <= 0).all(dim=0).sum()),
        float(localised.sum()),
        float(rest.std(correction=0) / rest.mean()),
        float(spot.neighbourhood[localised].mean()),
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


REACH = 2
"""Pixels from the strongest weight to the edge of its spot: the spot has 5 × 5 pixels."""
RING = 5
"""The same for its neighbourhood: 11 × 11 pixels without the spot."""
LOCALISED = 0.25
"""Share of the squared weight in the spot that makes a filter localised; noise has 0.03 on 28 × 28 pixels."""


@dataclass(frozen=True, eq=False)
class Spots:
    """The spot of each of H filters: the 5 × 5 pixels around its strongest weight, of whatever sign."""

    share: Tensor  # Share of the filter's squared weight in the spot, shape (H,).
    rest: Tensor  # Root mean square of the weights outside the spot, shape (H,).
    neighbourhood: Tensor  # Mean size of the weights in the ring around it, over that of all outside it, shape (H,).

    @property
    def localised(self) -> Tensor:
        """Which filters are localised, bool, shape (H,)."""
        return self.share >= LOCALISED


def spots(filters: Tensor, lit: Tensor) -> Spots:
    """Find the spots of filters of shape (H, C, height, width).

    Only the ``lit`` pixels count, bool, shape (height, width): the others keep their initial weights. The size of a
    pixel's weight is the root of its sum of squares over the channels.
    """
    if filters.dim() != 4 or lit.shape != filters.shape[2:] or not lit.any():
        raise InvalidValueError(
            f"expected filters of shape (H, C, height, width) and the pixels that count, one or more, of shape "
            f"(height, width), got {tuple(filters.shape)} and {int(lit.sum())} of {tuple(lit.shape)}"
        )
    height, width = lit.shape
    sizes = filters.double().square().sum(dim=1).sqrt() * lit
    peak = sizes.flatten(1).argmax(dim=1)
    rows = (torch.arange(height) - (peak // width)[:, None]).abs()
    columns = (torch.arange(width) - (peak % width)[:, None]).abs()
    distance = torch.maximum(rows[:, :, None], columns[:, None, :])
    inside, outside = lit & (distance <= REACH), lit & (distance > REACH)
    ring = outside & (distance <= RING)
    squares = sizes.square()
    whole = squares.sum(dim=(1, 2))
    return Spots(
        share=_over((squares * inside).sum(dim=(1, 2)), whole),
        rest=_mean(squares, outside).sqrt(),
        neighbourhood=_over(_mean(sizes, ring), _mean(sizes, outside)),
    )


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp(min=1)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, 0 where ``whole`` is 0."""
    return part / whole.where(whole > 0, torch.ones_like(whole))

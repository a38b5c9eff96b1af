"""A quick network with batch normalisation for small images of any kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_choice
from adversarial_dropout.experiments.models.network import CutNetwork, Network, Shape, he_initialised

_SMALLEST = 4
_SLOPE = 0.1
_INNER = 16  # Pixels after the first pooling, at most.

Place = Literal["units", "maps", "both"]
MapUnit = Literal["element", "channel"]


@dataclass(frozen=True, kw_only=True)
class SmallResnet(Network):
    """Three 3 × 3 convolutions of width, 2 · width and 4 · width channels, a residual one of 4 · width, global average
    pooling, and adversarial dropout on 4 · width units before the linear output. Each convolution is followed by max
    pooling (but the residual one), BatchNorm and LeakyReLU(0.1). The layer can also be on the maps in front of the
    residual convolution, or there can be one at both places. (On the maps behind it, to drop a channel would be to drop
    its unit, because the pooling is a mean.)

    The first pooling brings an image to 16 pixels or fewer; one that has no more is not pooled there. The others halve
    it. For images of 4 × 4 pixels or more.
    """

    name = "small-resnet"
    work = 1.0

    width: int = 32
    """Channels of the first convolution."""
    place: Place = "units"
    """Where adversarial dropout is: on the "units" behind the global pooling, on the "maps" in front of the residual
    convolution, or on "both"."""
    granularity: MapUnit = "element"
    """What a unit of the maps is: one activation ("element"), or one map ("channel")."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("model.width", self.width, 1)
        check_choice("model.place", self.place, get_args(Place))
        check_choice("model.granularity", self.granularity, get_args(MapUnit))

    def unused(self) -> Iterator[tuple[str, object, str]]:
        if self.place == "units":
            yield "model.granularity", "element", 'model.place is "units"'

    def build(self, shape: Shape, classes: int) -> CutNetwork:
        channels, height, width = shape
        if min(height, width) < _SMALLEST:
            raise InvalidValueError(
                f"expected images of {_SMALLEST} × {_SMALLEST} pixels or more for small-resnet, got {height} × "
                f"{width}; enlarge them with --data.resize {_SMALLEST}"
            )
        w, smaller = self.width, 1
        while min(height, width) > _INNER * smaller:
            smaller *= 2
        under = nn.Sequential(
            _block(channels, w, pool=smaller),
            _block(w, 2 * w, pool=2),
            _block(2 * w, 4 * w, pool=2),
        )
        rest = (_Residual(_block(4 * w, 4 * w)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        output = nn.Linear(4 * w, classes)
        if self.place == "units":
            return he_initialised(CutNetwork(nn.Sequential(*under, *rest), self.dropout(), output))
        second = (self.dropout(),) if self.place == "both" else ()
        head = nn.Sequential(*rest, *second, output)
        return he_initialised(CutNetwork(under, self.dropout(self.granularity), head))


def _block(inner: int, out: int, pool: int = 1) -> nn.Module:
    pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
    convolution = nn.Conv2d(inner, out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, *pooling, nn.BatchNorm2d(out), nn.LeakyReLU(_SLOPE))


class _Residual(nn.Module):
    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.change(x)
        return x + changed

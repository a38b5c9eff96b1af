"""A quick network with batch normalisation for small images of any kind."""

from dataclasses import dataclass

from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, check_at_least
from adversarial_dropout.experiments.models.network import CutNetwork, Network, Shape, he_initialised

_SMALLEST = 4
_SLOPE = 0.1
_INNER = 16  # Pixels after the first pooling, at most.


@dataclass(frozen=True, kw_only=True)
class SmallResnet(Network):
    """Three 3 × 3 convolutions of width, 2 · width and 4 · width channels, a residual one of 4 · width, global average
    pooling, and adversarial dropout on 4 · width units before the linear output. Each convolution is followed by max
    pooling (but the residual one), BatchNorm and LeakyReLU(0.1).

    The first pooling brings an image to 16 pixels or fewer; one that has no more is not pooled there. The others halve
    it. For images of 4 × 4 pixels or more.
    """

    name = "small-resnet"
    work = 1.0

    width: int = 32
    """Channels of the first convolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("model.width", self.width, 1)

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
            _Residual(_block(4 * w, 4 * w)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return he_initialised(CutNetwork(under, self.dropout(), nn.Linear(4 * w, classes)))


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

"""A pretrained network behind its preprocessing: pixels in, features out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.errors import InvalidValueError

Interpolation = Literal["nearest", "bilinear", "bicubic"]

CHUNK = 8
"""Images that a backbone sees at a time on a CPU, where more are slower: their activations leave the cache."""
CHUNK_ON_GPU = 64
_RGB = 3


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of images with values in [0, 1]: their size, and x ↦ (x - mean) / std.

    Attributes:
        size: Height and width in pixels.
        mean: Of each channel, on the scale from 0 to 1.
        std: Of each channel, on that scale.
        interpolation: How images of another size are resized.
        bgr: Whether the channels are blue, green, red; otherwise red, green, blue.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bilinear"
    bgr: bool = False


class Backbone(nn.Module):
    """Features, shape (N, D), of images with values in [0, 1], shape (N, C, H, W) with 1 or 3 channels.

    Images are resized to the size of ``preprocessing`` without keeping their proportions, grey ones are repeated to
    three channels, and pixels are normalised. The network is always in evaluation mode, also where it is trained: its
    BatchNorm keeps the running statistics, and its own dropout is off. Without gradients it sees a few images at a
    time, so that memory does not grow with the batch. Convolutions are channels-last, which computes the same faster.

    Args:
        network: Maps images (N, 3, size, size) to features (N, D).
        preprocessing: What it expects.
        source: Its name in messages.

    Raises:
        InvalidValueError: it cannot take images of that size, or its features have another form.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, source: str) -> None:
        super().__init__()
        self.network = network.eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preprocessing = preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1), persistent=False)
        self.width = self._tried(source)
        """Number of features, D."""

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return self._features(x)
        return torch.cat([self._features(part) for part in torch.split(x, self.chunk)])

    @property
    def chunk(self) -> int:
        """Images that it sees at a time without gradients."""
        return CHUNK_ON_GPU if self.mean.is_cuda else CHUNK

    def _features(self, x: Tensor) -> Tensor:
        wanted = self.preprocessing
        if x.shape[1] != _RGB:
            x = x.expand(-1, _RGB, -1, -1)
        if tuple(x.shape[2:]) != (wanted.size, wanted.size):
            size = (wanted.size, wanted.size)
            if wanted.interpolation == "nearest":
                x = F.interpolate(x, size, mode="nearest-exact")
            else:
                x = F.interpolate(x, size, mode=wanted.interpolation, antialias=True).clamp(0, 1)
        if wanted.bgr:
            x = x.flip(1)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network(x)
        return features

    def _tried(self, source: str) -> int:
        """Number of features, from two black images."""
        size = self.preprocessing.size
        try:
            with torch.no_grad():
                features = self(torch.zeros(2, _RGB, size, size))
        except Exception as error:  # Networks raise many kinds of errors.
            cause = str(error).strip().partition("\n")[0]
            raise InvalidValueError(
                f"expected model.source to take images of {size} × {size} pixels, but {source} raises "
                f"{type(error).__name__}: {cause}; leave --model.size out, give another, or another --model.source"
            ) from error
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != 2 or not features.shape[1]:
            form = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InvalidValueError(
                f"expected a vector of features for each image from model.source, got {form} for two images from "
                f"{source}; give another --model.source"
            )
        if not bool(features.isfinite().all()):
            raise InvalidValueError(
                f"expected finite features from model.source, got NaN or infinity from {source} for a black image; its "
                f"weights may be damaged"
            )
        return int(features.shape[1])

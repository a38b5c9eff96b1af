"""Turns stored pixels into the input of a network: scaling, whitening, augmentation."""

import math
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig

# Relative to the largest eigenvalue. Smaller ones are rounding errors, which whitening must not amplify.
_SMALLEST_EIGENVALUE = 1e-7
_BATCH = 2048

# Of an affine map of strength 1.
_ROTATION = math.radians(10)
_ZOOM = _SHEAR = 0.12
_SHIFT = 0.1  # Of the width and the height.


class Whitening(nn.Module):
    """ZCA: x ↦ (x - mean) · matrix, for images that are flattened meanwhile.

    Args:
        mean: Shape (D,), float32.
        matrix: U diag(1 / √s) Uᵀ of the covariance U diag(s) Uᵀ, shape (D, D), float32.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @classmethod
    def fit(cls, images: Tensor) -> "Whitening":
        """Fit to float images, shape (N, C, H, W); computed in float64."""
        size = images[0].numel()
        product = torch.zeros(size, size, dtype=torch.float64, device=images.device)
        mean = images.flatten(1).mean(dim=0, dtype=torch.float64)
        for part in torch.split(images, _BATCH):
            centred = part.flatten(1).double() - mean
            product += centred.T @ centred
        values, vectors = torch.linalg.eigh(product / len(images))
        values = values.clamp(min=max(float(values.max()) * _SMALLEST_EIGENVALUE, _SMALLEST_EIGENVALUE**2))
        matrix = (vectors / values.sqrt()) @ vectors.T
        return cls(mean.float(), matrix.float())

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        records.write_bytes(path, safetensors.torch.save(self.state_dict()))

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Read what :meth:`save` wrote."""
        return cls(**safetensors.torch.load_file(path))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) - self.mean) @ self.matrix).view_as(x)


class Pixels(nn.Module):
    """Turns stored images, uint8 (N, C, H, W), into the float32 images of that shape that a network sees in evaluation.

    Args:
        config: Uses ``centre``, ``translate``, ``flip``, ``affine`` and ``jitter``.
        brightest: The stored value that stands for 1.
        whitening: The whitening, if the config asks for it.
    """

    def __init__(self, config: DataConfig, brightest: int, whitening: Whitening | None = None) -> None:
        super().__init__()
        self.config = config
        self.brightest = brightest
        self.whitening = whitening

    def forward(self, stored: Tensor) -> Tensor:
        x = stored.float() / self.brightest
        if self.config.centre:
            x = x - 0.5
        return x if self.whitening is None else self.whitening(x)

    def view(self, stored: Tensor) -> Tensor:
        """A random view for training: each image is moved, flipped and lit at random, as the config says."""
        x: Tensor = self(stored)
        if self.config.affine:
            x = affinely_mapped(x, self.config.affine)
        if self.config.translate:
            x = translated(x, self.config.translate)
        if self.config.flip:
            flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(flipped, x.flip(3), x)
        if self.config.jitter:
            x = relit(x, self.config.jitter)
        return x


def affinely_mapped(x: Tensor, strength: float) -> Tensor:
    """Map each image of ``x`` (N, C, H, W) by its own random affine map; gaps have the colour of the border.

    At strength 1: rotation by at most 10°, zoom of each axis and shear by at most 12 %, a shift by at most 10 % of the
    width and the height; each uniform, and in proportion to the strength.
    """
    rotation, zoom_x, zoom_y, shear, *shift = (2 * torch.rand(6, len(x), device=x.device) - 1) * strength
    angle = rotation * _ROTATION
    zoom = 1 + _ZOOM * torch.stack((zoom_x, zoom_y))
    rows = (
        torch.stack((zoom[0] * angle.cos(), _SHEAR * shear - angle.sin(), 2 * _SHIFT * shift[0]), dim=1),
        torch.stack((angle.sin(), zoom[1] * angle.cos(), 2 * _SHIFT * shift[1]), dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def relit(x: Tensor, strength: float) -> Tensor:
    """Change the contrast of each image of ``x`` (N, C, H, W) by a random factor in 1 ± ``strength``, and add a random
    number in ± ``strength`` / 4 to each channel of it.
    """
    n, channels = x.shape[:2]
    factor = 2 * torch.rand(n, 1, 1, 1, device=x.device) - 1
    offset = 2 * torch.rand(n, channels, 1, 1, device=x.device) - 1
    return x * (1 + strength * factor) + strength / 4 * offset


def translated(x: Tensor, most: int) -> Tensor:
    """Shift each image of ``x`` (N, C, H, W) at random by at most ``most`` pixels in each direction; gaps are 0."""
    n, _, height, width = x.shape
    padded = F.pad(x, (most, most, most, most)).movedim(1, 3)
    corner = torch.randint(2 * most + 1, (2, n, 1), device=x.device)
    rows = corner[0] + torch.arange(height, device=x.device)
    columns = corner[1] + torch.arange(width, device=x.device)
    example = torch.arange(n, device=x.device).view(n, 1, 1)
    return padded[example, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(3, 1)

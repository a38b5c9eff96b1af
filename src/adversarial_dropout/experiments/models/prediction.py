"""What a network says of images, in batches."""

import torch
from torch import Tensor, nn

from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData

_AT_A_TIME = 500


def logits(model: nn.Module, pixels: Pixels, stored: Tensor) -> Tensor:
    """Logits (N, classes) of ``model`` in evaluation for stored images, uint8 (N, C, H, W); its mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(pixels(part)) for part in torch.split(stored, _AT_A_TIME)])
    finally:
        for module, training in modes:
            module.training = training


def error(model: nn.Module, pixels: Pixels, data: ImageData, rows: Tensor) -> float:
    """Share of ``rows`` that ``model`` classifies wrongly, in percent."""
    predictions = logits(model, pixels, data.images[rows]).argmax(dim=1)
    return 100 * int((predictions != data.labels[rows]).sum()) / len(rows)

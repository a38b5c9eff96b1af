"""What a network says of images, in batches, and how far off it is."""

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.models.network import Task

_AT_A_TIME = 500


def outputs(model: nn.Module, pixels: Pixels, stored: Tensor) -> Tensor:
    """Output of ``model`` in evaluation for stored images, uint8 (N, C, H, W); its mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(pixels(part)) for part in torch.split(stored, _AT_A_TIME)])
    finally:
        for module, training in modes:
            module.training = training


def errors(model: nn.Module, pixels: Pixels, data: ImageData, rows: Tensor, task: Task = "classes") -> Tensor:
    """Error of ``model`` on each of ``rows`` in percent, float64, shape (N,).

    Of a network that learns classes it is 0 or 100. Of one that gives images back it is its squared error over the mean
    squared distance of the images from their mean: the mean over rows is the share of the variance not explained.

    Raises:
        InvalidValueError: the images of an autoencoder are all the same.
    """
    found = outputs(model, pixels, data.images[rows])
    if task == "images":
        images = pixels(data.images[rows]).flatten(1)
        if bool((images == images[0]).all()):
            raise InvalidValueError(f"expected images that differ, got {len(rows)} that are all the same")
        spread = reconstruction_error(images, images.mean(dim=0).expand_as(images)).double().mean()
        return 100 * reconstruction_error(images, found).double() / spread
    return 100 * (found.argmax(dim=1) != data.labels[rows]).double()


def error(model: nn.Module, pixels: Pixels, data: ImageData, rows: Tensor, task: Task = "classes") -> float:
    """Mean of :func:`errors`: for a classifier, the share of ``rows`` that it gets wrong, in percent."""
    return float(errors(model, pixels, data, rows, task).sum()) / len(rows)

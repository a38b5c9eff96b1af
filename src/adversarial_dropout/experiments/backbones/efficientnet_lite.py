"""EfficientNet-Lite (Liu, 2020; after Tan & Le, ICML 2019) from the package efficientnet-lite-pytorch."""

import pickle

import torch
from torch import Tensor, nn

from adversarial_dropout.experiments.backbones.files import BackboneError, BackboneFiles


class EfficientNetLite(nn.Module):
    """The mean of the last convolution over all positions, shape (N, 1280)."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        whole._fc = nn.Identity()  # The classes of ImageNet are of no use here.
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.whole.extract_features(x)  # type: ignore[operator]
        return maps.mean(dim=(2, 3))


def network(found: BackboneFiles) -> nn.Module:
    """Build it and load its weights, a state dict: unpickled with ``weights_only=True``, which runs no code."""
    import efficientnet_lite_pytorch

    whole = efficientnet_lite_pytorch.EfficientNet.from_name(found.source)
    (path,) = found.weights
    try:
        whole.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise BackboneError(f"cannot read the weights {path}: {error}; install its package again") from error
    return EfficientNetLite(whole)

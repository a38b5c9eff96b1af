"""The form that all networks here have, so that regularisers know where to cut."""

import torch
from torch import Tensor, nn

from adversarial_dropout.layers import AdversarialDropout


class CutNetwork(nn.Module):
    """A network in two parts, ``forward(x) = upper(under(x))``, cut in front of its adversarial dropout layer.

    Args:
        under: From images (N, C, H, W) to units (N, D).
        dropout: The layer.
        head: From units to logits (N, classes).
    """

    def __init__(self, under: nn.Module, dropout: AdversarialDropout, head: nn.Module) -> None:
        super().__init__()
        self.under = under
        self.upper = nn.Sequential(dropout, head)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.upper(self.under(x))
        return logits


def he_initialised(network: nn.Module) -> nn.Module:
    """``network`` with weights from N(0, 2 / fan-in) and zero biases (He et al., ICCV 2015), convolutions stored
    channels-last, which computes the same faster.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network

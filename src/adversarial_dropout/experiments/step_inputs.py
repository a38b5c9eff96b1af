"""What the terms of a step can see."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class StepInputs:
    """What the terms of one step can see.

    Attributes:
        model: The network.
        upper: The part of it above the cut.
        hidden: Input of that part for the labelled images, shape (N, ...).
        images: Labelled images, shape (N, C, H, W).
        labels: Their labels, shape (N,).
        goal: What the labelled pass is compared with: its logits or, for a reconstruction, the images.
        first: The images that terms without labels see, shape (M, C, H, W).
        second: Another view of them; the same tensor if there is one view.
        target: What the pass on ``second`` should agree with, if it has been computed.
        labelled_alone: Whether all terms see the labelled images.
        average: The network with the moving average of the weights, if a term takes its targets from there.
    """

    model: nn.Module
    upper: nn.Module
    hidden: Tensor
    images: Tensor
    labels: Tensor
    goal: Tensor
    first: Tensor
    second: Tensor
    target: Tensor | None
    labelled_alone: bool
    average: nn.Module | None = None
    _target_of_average: Tensor | None = None

    def target_of_views(self) -> Tensor | None:
        """The target. If it is missing and there are two views, it is computed now, from the first one."""
        if self.target is None and self.second is not self.first:
            self.target = self.model(self.first)
        return self.target

    def target_of_average(self) -> Tensor:
        """The prediction of the averaged weights for the first view, without a graph; computed once."""
        assert self.average is not None
        if self._target_of_average is None:
            with torch.no_grad():
                self._target_of_average = self.average(self.first)
        return self._target_of_average

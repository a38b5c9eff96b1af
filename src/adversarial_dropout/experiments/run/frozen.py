"""What a run with a pretrained backbone does before its first step: the features of the images that it sees."""

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.features import Progress, features_of
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.models.pretrained import Pretrained, PretrainedNetwork

_ENOUGH = 1000
"""Images that the statistics of the features are fitted to if the backbone is trained."""


def prepared(
    config: ExperimentConfig,
    network: PretrainedNetwork,
    data: ImageData,
    rows: tuple[Tensor, Tensor],
    device: torch.device,
    *,
    digest: str | None = None,
    progress: Progress | None = None,
) -> tuple[ImageData, dict[str, Any]]:
    """Fit the statistics of the features, and describe the backbone for the record.

    With a frozen backbone, the images of the data returned are standardised features, shape (N, V, D); see
    :func:`~..data.features.features_of`. Their statistics are those of the training rows that the run sees, in all
    views. Otherwise the data stay as they are, and the statistics are those of up to 1,000 of these rows.

    ``rows`` are those for training and for evaluation.
    """
    model = config.model
    assert isinstance(model, Pretrained)
    found = model.files
    training, evaluation = rows
    if not model.frozen:
        training, evaluation = evenly_spaced(training, _ENOUGH), evaluation[:0]
    compute = partial(
        features_of, network.backbone, found, data, device=device, digest=digest or data.digest, progress=progress
    )
    features = compute(training, config.data)
    # Only training sees mirror images.
    features[evaluation, :1] = compute(evaluation, dataclasses.replace(config.data, flip=False))[evaluation]
    network.backbone.to("cpu")
    network.fit(features[training].flatten(0, 1))
    if model.frozen:
        used = torch.unique(torch.cat([training, evaluation]))
        features[used] = network.standardised(features[used])
        data = dataclasses.replace(data, images=features)
    return data, found.described

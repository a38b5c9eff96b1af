"""What the search finds in a trained network, compared with as many random flips."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import kl_divergence
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.studies.autoencoders.features import evaluation_images
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.regularizers.random_flips import random_flips
from adversarial_dropout.regularizers.search import Search

RANDOM_MASKS = 20


@dataclass(frozen=True, eq=False)
class MasksAtWork:
    """One search on N images, on a network with H units at the layer and C classes."""

    base: Tensor  # Base masks εˢ, bool, shape (N, H).
    found: Tensor  # Masks that the search found, same form.
    random: Tensor  # Masks with as many random flips per image, shape (RANDOM_MASKS, N, H).
    before: Tensor  # Class probabilities under εˢ, shape (N, C); of an autoencoder, the reconstruction, shape (N, D).
    after: Tensor  # The same under the masks found.
    after_random: Tensor  # The same under the random masks, shape (RANDOM_MASKS, N, ...).
    divergence: Tensor  # KL(before ‖ after) per image, shape (N,); of an autoencoder, their mean squared difference.
    divergence_random: Tensor  # The same under the random masks, shape (RANDOM_MASKS, N).

    @property
    def summary(self) -> dict[str, float]:
        """Mean flips per image; mean divergence in nats under the found, the worst random, and all random masks."""
        return {
            "flips": float((self.base != self.found).sum(dim=1).double().mean()),
            "mean": float(self.divergence.mean()),
            "mean_of_largest": float(self.divergence_random.amax(dim=0).mean()),
            "mean_random": float(self.divergence_random.mean()),
        }


def observe(
    model: nn.Module, x: Tensor, seed: int = 0, *, against: Literal["prediction", "class"] | Tensor = "prediction"
) -> MasksAtWork:
    """Search on a batch as in training, on a copy of the model with all but the dropout layer in evaluation mode.

    The search moves the output away from the prediction under εˢ, as in VAdD (which needs p > 0, or J is zero); from
    the most probable class under εˢ, as in SAdD with this class as the label; or from images.

    Raises:
        InvalidValueError: the model has not exactly one AdversarialDropout layer, or p = 0 where it must not be.
    """
    divergence = kl_divergence if isinstance(against, str) else reconstruction_error
    read: Callable[[Tensor], Tensor] = partial(torch.softmax, dim=1) if isinstance(against, str) else torch.clone
    model = copy.deepcopy(model).eval()
    layers = adversarial_layers(model)
    if len(layers) != 1 or (layers[0].p == 0 and isinstance(against, str) and against == "prediction"):
        raise InvalidValueError(
            f"expected a model with one AdversarialDropout layer with p > 0, got {layers if layers else 'none'}"
        )
    layers[0].train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        search = Search(model, x)
        h = search.under_pass(x)
        before = search.base_pass(h)
        targets = {"prediction": before, "class": before.argmax(dim=1)}
        search.find(h, targets[against] if isinstance(against, str) else against, divergence)
        after = search.adversarial_pass(h)
        masks = search.masks[0]
        base, found = (cast(Tensor, mask).flatten(1) for mask in (masks.base, masks.found))
        flips = (base != found).sum(dim=1)
        random = [base ^ random_flips(flips, base.shape[1]) for _ in range(RANDOM_MASKS)]
        outputs = [search.adversarial_pass(h, [mask.view_as(cast(Tensor, masks.base))]) for mask in random]
    return MasksAtWork(
        base=base,
        found=found,
        random=torch.stack(random),
        before=read(before),
        after=read(after),
        after_random=torch.stack([read(output) for output in outputs]),
        divergence=divergence(before, after),
        divergence_random=torch.stack([divergence(before, output) for output in outputs]),
    )


def observe_run(record: Record, seed: int = 0) -> tuple[MasksAtWork, ImageData, Tensor]:
    """Observe a run's saved model on up to 1,000 images of its evaluation part; see :func:`observe`.

    Returns the search, the data of the run, and the row in these data of each image.
    """
    trained = Trained.load(record)
    data, rows = evaluation_images(trained)
    return observe(trained.model, trained.pixels(data.images[rows]), seed), data, rows

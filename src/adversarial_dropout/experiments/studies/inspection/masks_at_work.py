"""What the search finds in a trained model, against random flips of the same size."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from adversarial_dropout.divergences import kl_divergence
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import evenly_spaced
from adversarial_dropout.experiments.models.autoencoder import reconstruction_error
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.regularizers.search import Search

RANDOM_MASKS = 20
_AT_MOST = 1000


@dataclass(frozen=True, eq=False)
class MasksAtWork:
    """One search on N images.

    Attributes:
        base: Base masks εˢ, bool, shape (N, H).
        found: Masks that the search found, same form.
        random: Masks with as many random flips per image, shape (RANDOM_MASKS, N, H).
        before: Class probabilities under εˢ, shape (N, C); of an autoencoder, the reconstruction, (N, D).
        after: Under the masks found, same form.
        after_random: Under the random masks, shape (RANDOM_MASKS, N, ...).
        divergence: KL(before ‖ after) per image, shape (N,); of an autoencoder, their mean squared difference.
        divergence_random: The same under the random masks, shape (RANDOM_MASKS, N).
    """

    base: Tensor
    found: Tensor
    random: Tensor
    before: Tensor
    after: Tensor
    after_random: Tensor
    divergence: Tensor
    divergence_random: Tensor

    def select(self, images: Tensor) -> "MasksAtWork":
        """The same for some of the images, by index."""
        along = {"random": 1, "after_random": 1, "divergence_random": 1}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return MasksAtWork(**{name: value.index_select(along.get(name, 0), images) for name, value in values.items()})

    @property
    def flips(self) -> float:
        """Mean number of flips per image."""
        return float((self.base != self.found).sum(dim=1).double().mean())

    @property
    def mean(self) -> float:
        """Mean divergence under the masks found, in nats."""
        return float(self.divergence.mean())

    @property
    def mean_of_largest(self) -> float:
        """Mean over images of the largest divergence among the random masks."""
        return float(self.divergence_random.amax(dim=0).mean())

    @property
    def mean_random(self) -> float:
        """Mean divergence under random masks."""
        return float(self.divergence_random.mean())


def observe(
    model: nn.Module, x: Tensor, seed: int = 0, *, against: Literal["prediction", "class"] | Tensor = "prediction"
) -> MasksAtWork:
    """Search on a batch as in training, with everything but the dropout layer in evaluation.

    The base mask εˢ is drawn as in training. The search moves the prediction away from that under εˢ, as VAdD does, or
    from the class that is most probable under εˢ, as SAdD does with that class as label; or it moves a reconstruction
    away from an image.

    Args:
        model: Trained model, or the upper part of one, with exactly one AdversarialDropout layer.
        x: Its input, shape (N, ...).
        seed: Of the base masks and random flips.
        against: What the search moves away from: ``"prediction"`` (which needs p > 0: without any noise J is zero for
            VAdD), ``"class"``, or images of the form of the model's output.

    Raises:
        InvalidValueError: the model has another number of such layers, or p = 0 where it must not be.
    """
    layers = adversarial_layers(model)
    if len(layers) != 1 or (layers[0].p == 0 and isinstance(against, str) and against == "prediction"):
        raise InvalidValueError(
            f"expected a model with one AdversarialDropout layer with p > 0, got {layers if layers else 'none'}"
        )
    divergence = reconstruction_error if isinstance(against, Tensor) else kl_divergence
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        layers[0].train()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            search = Search(model, x)
            h = search.under_pass(x)
            before = search.base_pass(h)
            targets = {"prediction": before, "class": before.argmax(dim=1)}
            search.find(h, against if isinstance(against, Tensor) else targets[against], divergence)
            after = search.adversarial_pass(h)
            (masks,) = search.masks
            base, found = (cast(Tensor, mask).flatten(1) for mask in (masks.base, masks.found))
            flips = (base != found).sum(dim=1)
            random = [base ^ _random_flips(flips, base.shape[1]) for _ in range(RANDOM_MASKS)]
            outputs = [search.adversarial_pass(h, [mask.view(cast(Tensor, masks.base).shape)]) for mask in random]
    finally:
        for module, training in modes:
            module.training = training
    read = torch.clone if isinstance(against, Tensor) else partial(torch.softmax, dim=1)
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
    """Look at a run's saved model on images of its evaluation part, 1,000 at the most; see :func:`observe`.

    Returns:
        The search, the run's data, and the row in them of each image.

    Raises:
        RecordError, InvalidValueError: the split or the weights of the run are missing or damaged.
    """
    trained = Trained.load(record)
    data = trained.data()
    rows = evenly_spaced(trained.split().evaluation, _AT_MOST)
    return observe(trained.model, trained.pixels(data.images[rows]), seed), data, rows


def _random_flips(flips: Tensor, units: int) -> Tensor:
    """For each example, that many of ``units`` chosen at random; bool, shape (N, units)."""
    ranks = torch.rand(len(flips), units, device=flips.device).argsort(dim=1).argsort(dim=1)
    return ranks < flips.unsqueeze(1)

"""Which rows a run trains on, which of them with labels, and on which it is judged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data.sources import ImageData


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices, int64.

    Attributes:
        labelled: Training rows whose labels are used.
        unlabelled: All training rows, the labelled ones among them, without their labels.
        evaluation: Rows on which errors are measured: the validation part if there is one, else the test part.
    """

    labelled: Tensor
    unlabelled: Tensor
    evaluation: Tensor

    def to_dict(self) -> dict[str, list[int]]:
        """The indices as plain lists, as JSON keeps them."""
        return {name: getattr(self, name).tolist() for name in ("labelled", "unlabelled", "evaluation")}


def make_split(data: ImageData, config: DataConfig, seed: int) -> Split:
    """Draw the split of a run. The test part does not depend on the seed; validation and labelled rows do.

    Raises:
        InvalidValueError: the labels do not divide among the classes, a class has too few rows, or too many rows are
            held out.
    """
    generator = torch.Generator().manual_seed(seed)
    is_test = torch.zeros(len(data.labels), dtype=torch.bool)
    is_test[data.test] = True
    pool = (~is_test).nonzero().squeeze(1)
    pool = pool[torch.randperm(len(pool), generator=generator)]
    if config.validation >= len(pool):
        raise InvalidValueError(
            f"expected data.validation below the {len(pool)} training examples of {config.name}, "
            f"got {config.validation}"
        )
    held_out, training = pool[: config.validation], pool[config.validation :]
    return Split(
        labelled=_balanced(data, training, config),
        unlabelled=training.sort().values,
        evaluation=held_out.sort().values if config.validation else data.test,
    )


def _balanced(data: ImageData, shuffled: Tensor, config: DataConfig) -> Tensor:
    classes = len(data.classes)
    if config.labelled % classes:
        raise InvalidValueError(
            f"expected data.labelled to be a multiple of the {classes} classes of {config.name}, got {config.labelled}"
        )
    each = config.labelled // classes
    labels = data.labels[shuffled]
    chosen = [shuffled[labels == c][:each] for c in range(classes)]
    shortest = min(range(classes), key=lambda c: len(chosen[c]))
    if len(chosen[shortest]) < each:
        raise InvalidValueError(
            f"expected {each} labelled examples of each class, but class {data.classes[shortest]!r} of {config.name} "
            f"has {len(chosen[shortest])} training examples; lower data.labelled"
        )
    return torch.cat(chosen).sort().values

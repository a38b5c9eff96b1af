"""Every experiment by name: a function from method and scale to its settings."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from adversarial_dropout.errors import check_choice
from adversarial_dropout.experiments.config import ExperimentConfig, Parts, Scale, Settings
from adversarial_dropout.experiments.models import find_network
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.presets import autoencoder, digits, images, paper


@dataclass(frozen=True)
class Preset:
    """A named experiment: a line on what it is, its methods (plain training first), its scales, and its settings."""

    name: str
    summary: str
    methods: tuple[str, ...]
    scales: tuple[Scale, ...]
    make: Callable[[str, Scale], Parts]


METHODS = {
    "plain": "cross-entropy on the labelled images alone",
    "at": "AT: right on images moved along the sign of their gradient",
    "pi": "Π-model: agreement of two passes with their own noise",
    "vat": "VAT: agreement with itself on the worst small move of an image",
    "sadd": "SAdD: right on the labelled images under the worst dropout mask",
    "vadd-kl": "VAdD: agreement with itself under the worst dropout mask, by KL divergence",
    "vadd-qe": "VAdD by quadratic error",
    "none": "an autoencoder's reconstruction error alone, without dropout",
    "dropout": "the same with dropout",
    "add": "to give the image back under the worst dropout mask too",
}
"""What each method asks of the network; "a+b" is the sum of two."""


def get(name: str, method: str, scale: Scale = "quick", seed: int = 0) -> ExperimentConfig:
    """The config of a preset.

    Raises:
        InvalidValueError: preset, method or scale do not exist; the message offers the nearest name.
    """
    return settings(name, method, scale, seed).used()


def settings(name: str, method: str, scale: Scale = "quick", seed: int = 0, *, network: str | None = None) -> Settings:
    """The settings of a preset, which are the same for its methods where they can be; see :func:`get`.

    With ``network`` they are for that network instead of the preset's: with all settings that fit it, those of "images"
    with a pretrained backbone, and otherwise the same with the settings of the network that both have.
    """
    preset = find(name)
    check_choice(f"the method of {name}", method, preset.methods)
    check_choice(f"the scale of {name}", scale, preset.scales)
    parts = preset.make(method, scale)
    if network is not None and network != parts["model"].name:
        if (name, network) == (OWN_IMAGES, Pretrained.name):
            parts = images.pretrained(method, scale)
        else:
            parts["model"] = _as(find_network(network), parts["model"])
    return Settings(preset=name, method=method, scale=scale, seed=seed, **parts)


def _as(kind: type[Network], usual: Network) -> Network:
    """Settings of another network, with those that both have, but for the width."""
    shared = {field.name for field in dataclasses.fields(kind)} & vars(usual).keys() - {"width"}
    return kind(**{name: getattr(usual, name) for name in shared})


def find(name: str) -> Preset:
    """Look a preset up by its name; see :func:`get`."""
    check_choice("the preset", name, tuple(PRESETS))
    return PRESETS[name]


OWN_IMAGES = "images"
"""The preset for the user's images."""

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "digits-100",
            "scikit-learn's 8 × 8 digits, 100 labels; minutes on a small machine",
            tuple(digits.METHODS),
            ("tiny", "quick"),
            digits.digits_100,
        ),
        *(
            Preset(column.preset, column.summary, paper.METHODS, paper.SCALES, partial(paper.make, column))
            for column in paper.COLUMNS
        ),
        Preset(
            autoencoder.NAME,
            "MNIST's images again from 256 hidden units: Figures 2 and 3",
            autoencoder.METHODS,
            ("tiny", "paper"),
            autoencoder.autoencoder,
        ),
        Preset(
            OWN_IMAGES,
            "your own images: train images METHOD --data FOLDER",
            paper.METHODS,
            ("tiny", "quick"),
            images.images,
        ),
    )
}

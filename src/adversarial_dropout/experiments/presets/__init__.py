"""Every experiment by name: a function from method, scale and seed to a complete config."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from adversarial_dropout.errors import InvalidValueError, did_you_mean
from adversarial_dropout.experiments.config import ExperimentConfig, Scale, Settings
from adversarial_dropout.experiments.presets import autoencoder, digits, images, paper


@dataclass(frozen=True)
class Preset:
    """A named experiment.

    Attributes:
        name: As the command line takes it.
        summary: What it is, in a line.
        methods: Names of its methods, plain training first.
        scales: Scales that it has.
        make: From method, scale and seed to the settings.
    """

    name: str
    summary: str
    methods: tuple[str, ...]
    scales: tuple[Scale, ...]
    make: Callable[[str, Scale, int], Settings]


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
    """Build the config of a preset.

    Raises:
        InvalidValueError: preset, method or scale do not exist; the nearest name is offered.
    """
    return settings(name, method, scale, seed).used()


def settings(name: str, method: str, scale: Scale = "quick", seed: int = 0) -> Settings:
    """The settings of a preset, which are the same for its methods where they can be; see :func:`get`."""
    preset = find(name)
    if method not in preset.methods:
        raise InvalidValueError(
            f"expected a method of {name}: {', '.join(preset.methods)}, got {method!r}"
            f"{did_you_mean(method, preset.methods)}"
        )
    if scale not in preset.scales:
        raise InvalidValueError(f"expected a scale of {name}: {', '.join(preset.scales)}, got {scale!r}")
    return preset.make(method, scale, seed)


def find(name: str) -> Preset:
    """Look a preset up by its name; see :func:`get`."""
    if name not in PRESETS:
        raise InvalidValueError(
            f"expected a preset of {', '.join(PRESETS)}, got {name!r}{did_you_mean(name, PRESETS)}; "
            f"`adversarial-dropout presets` lists them"
        )
    return PRESETS[name]


OWN_IMAGES = "images"
"""The preset whose data are the user's own."""

_PAPER_SCALES: tuple[Scale, ...] = ("tiny", "quick", "paper")

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="digits-100",
            summary="scikit-learn's 8 × 8 digits, 100 labels; minutes on a small machine",
            methods=tuple(digits.METHODS),
            scales=("tiny", "quick"),
            make=digits.digits_100,
        ),
        *(
            Preset(
                name=column.preset,
                summary=column.summary,
                methods=paper.METHODS,
                scales=_PAPER_SCALES,
                make=partial(paper.make, column),
            )
            for column in paper.COLUMNS
        ),
        Preset(
            name=autoencoder.NAME,
            summary="MNIST's images again from 256 hidden units: Figures 2 and 3",
            methods=tuple(autoencoder.METHODS),
            scales=("tiny", "paper"),
            make=autoencoder.autoencoder,
        ),
        Preset(
            name=OWN_IMAGES,
            summary="your own images: train images METHOD --data FOLDER",
            methods=paper.METHODS,
            scales=("tiny", "quick"),
            make=images.images,
        ),
    )
}

"""images: for a folder of images of one's own."""

import dataclasses

from adversarial_dropout.experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Scale,
    TermConfig,
    TrainingConfig,
)

# Sensible, not tuned: a conv-large of a quarter of the width, which learns small images on a CPU in minutes, and the
# weights of the paper.
_WIDTH = 32
_FLIPS = 3
_TERMS = {
    "at": TermConfig(kind="at", divergence="ce", eps=8 / 255, ramp=False),
    "vat": TermConfig(kind="vat", eps=2.0, ramp=False),
    "pi": TermConfig(kind="pi", weight=25.0, divergence="qe"),
    "sadd": TermConfig(kind="sadd", divergence="ce"),
    "vadd-kl": TermConfig(kind="vadd", divergence="kl"),
    "vadd-qe": TermConfig(kind="vadd", weight=25.0, divergence="qe"),
}


def images(method: str, scale: Scale, seed: int) -> ExperimentConfig:
    """All labelled images of a folder with their label, all images without."""
    training = TrainingConfig(
        epochs=25, steps_per_epoch=20, batch_labelled=16, batch_unlabelled=48, ramp_up=8, ramp_down=8
    )
    if scale == "tiny":
        training = dataclasses.replace(training, epochs=2, steps_per_epoch=1, ramp_up=1, ramp_down=1)
    return ExperimentConfig(
        preset="images",
        method=method,
        scale=scale,
        seed=seed,
        data=DataConfig(name="images", labelled=None, centre=True, translate=2),
        model=ModelConfig(name="conv-large", width=_WIDTH, p=0.5, delta=_FLIPS / _WIDTH),
        training=training,
        terms=tuple(_TERMS[name] for name in method.split("+") if name != "plain"),
    )

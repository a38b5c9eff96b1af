"""digits-100: the demo's experiment, on real images that come with scikit-learn."""

from adversarial_dropout.experiments.config import DataConfig, Parts, Scale, TrainingConfig
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.terms import Pi, Sadd, Term, Vadd, Vat, by_kind

# Chosen on a validation split with seeds that no reported run uses; docs/digits.md says how, and what did not work.
METHODS: dict[str, tuple[Term, ...]] = {
    "plain": (),
    "pi": (Pi(divergence="qe", weight=100.0),),
    "vat": (Vat(divergence="kl", weight=1.0, eps=0.5),),
    "sadd": (Sadd(divergence="ce", weight=3.0),),
    "vadd-kl": (Vadd(divergence="kl", weight=1.0),),
    "vadd-qe": (Vadd(divergence="qe", weight=30.0),),
    "vadd-qe+vat": (Vadd(divergence="qe", weight=10.0), Vat(divergence="kl", weight=1.0, eps=0.25)),
}
_UNITS = 256
_FLIPS = {"vadd-qe+vat": 12}
_USUAL_FLIPS = 6


def digits_100(method: str, scale: Scale) -> Parts:
    """1,297 handwritten digits of 8 × 8 pixels, 100 of them with a label; 500 more are for testing."""
    training = TrainingConfig(learning_rate=6e-3)
    if scale == "tiny":
        training = training.two_steps()
    return Parts(
        data=DataConfig(name="digits", labelled=100),
        model=SmallCnn(p=0.5, delta=_FLIPS.get(method, _USUAL_FLIPS) / _UNITS),
        training=training,
        terms=by_kind(*METHODS[method]),
    )

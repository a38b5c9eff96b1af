"""Presets: each builds, and each method has the terms that its name says."""

import pytest
import torch

from adversarial_dropout import flip_budget
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import ExperimentConfig, Scale
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.small_resnet import SmallResnet
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.step import Batch, Objective
from adversarial_dropout.experiments.terms import Vadd

EVERY = [
    (preset.name, method, scale)
    for preset in presets.PRESETS.values()
    for method in preset.methods
    for scale in preset.scales
]
# tests/experiments/studies/test_autoencoder.py looks at the one that is no classifier.
CLASSIFIERS = [name for name in presets.PRESETS if name != "paper/autoencoder"]
CELLS = [cell for cell in EVERY if cell[0] in CLASSIFIERS]
NAMED = {
    "at": ("at", None),
    "pi": ("pi", "qe"),
    "vat": ("vat", "kl"),
    "sadd": ("sadd", "ce"),
    "vadd-kl": ("vadd", "kl"),
    "vadd-qe": ("vadd", "qe"),
}


# What a method may have of its own, besides its terms. The authors' code normalises the logits for one of them alone.
OF_ITS_OWN = {"delta", "learning_rate", "norm_logits"}
# What these settings are where a method has no use for them.
UNUSED: dict[str, set[object]] = {
    "data.overlap": {True},
    "model.rescale": {"inverted"},
    "training.batch_unlabelled": {0},
    "training.ramp_up": {0},
}

# tests/experiments/run/test_paper_steps.py does this for the others.
OWN = [(name, method) for name in ("digits-100", "images") for method in presets.find(name).methods]


def data_of(name: str) -> ImageData:
    """The digits, or noise in place of one's own images: 200 of 10 classes."""
    if name == "digits":
        return sources.digits()
    images = torch.randint(256, (200, 3, 20, 24), dtype=torch.uint8)
    return ImageData(images, torch.arange(200) % 10, torch.arange(160, 200), 255, tuple("abcdefghij"))


def units(model: Network) -> int:
    """Units of the dropout layer."""
    if isinstance(model, SmallResnet):
        return 4 * model.width
    return model.width if isinstance(model, ConvLarge) else {"small-cnn": 256, "mnist-cnn": 2048}[model.name]


@pytest.mark.parametrize(("name", "method", "scale"), EVERY)
def test_every_preset_says_what_it_is(name: str, method: str, scale: Scale) -> None:
    config = presets.get(name, method, scale, seed=3)
    assert (config.preset, config.method, config.scale, config.seed, config.threads) == (name, method, scale, 3, 1)
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    tiny = presets.get(name, method, "tiny", seed=3)
    assert (config.model, config.terms) == (tiny.model, tiny.terms), "a scale changes how long, not what"


@pytest.mark.parametrize(("name", "method"), OWN)
def test_every_preset_builds_and_takes_a_step(name: str, method: str) -> None:
    config = presets.get(name, method, "tiny")
    data = data_of(config.data.name)
    split = make_split(data, config.data, config.seed)
    pixels = Pixels(config.data, data.brightest)
    model = config.model.build(data.shape, len(data.classes))
    objective = Objective(model, config.terms)
    order = torch.Generator().manual_seed(0)
    (step,) = batches(data, pixels, split, config.training, order, needs_unlabelled=objective.needs_unlabelled)
    loss, values = objective(step, 1.0)
    loss.backward()
    assert list(values) == ["ce", *config.terms]
    for parameter, gradient in ((key, value.grad) for key, value in model.named_parameters()):
        assert gradient is not None, parameter
        assert gradient.isfinite().all(), parameter
        assert gradient.abs().max() > 1e-6, parameter


@pytest.mark.parametrize(("name", "method", "scale"), CELLS)
def test_terms_are_what_the_name_says(name: str, method: str, scale: Scale) -> None:
    config = presets.get(name, method, scale)
    expected = [] if method == "plain" else [NAMED[part] for part in method.split("+")]
    if name in ("authors/svhn-1000", "authors/cifar10-4000") and method not in ("plain", "at", "sadd"):
        expected.append(("entmin", None))
    found = [(kind, getattr(term, "divergence", None)) for kind, term in config.terms.items()]
    assert found == expected
    rising = {"pi", "sadd", "vadd"}
    if name in ("digits-100", "images") or name.startswith("paper/mnist"):
        rising |= {"vat", "at"}
    for term in config.terms.values():
        assert term.weight > 0
        # Where nothing rises, there is no ramp-up that a term could be said not to follow.
        assert term.ramp == (term.kind in rising or config.training.ramp_up == 0)
    assert config.training.ramp_up > 0 or config.terms.keys().isdisjoint(rising)


def test_the_methods_of_digits() -> None:
    preset = presets.find("digits-100")
    assert set(preset.methods) >= {"plain", "pi", "vat", "sadd", "vadd-kl", "vadd-qe", "vadd-qe+vat"}
    assert preset.methods[0] == "plain"
    config = presets.get("digits-100", "plain")
    assert config.data.name == "digits"
    assert config.data.labelled == 100
    assert config.data.validation == 0, "reported runs are judged on the test part"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_methods_stand_on_equal_footing(name: str) -> None:
    preset = presets.PRESETS[name]
    assert preset.name == name
    assert preset.methods[0] == "plain"
    for scale in preset.scales:
        configs = [presets.get(name, method, scale) for method in preset.methods]
        for part in ("data", "model", "training"):
            parts = [config.to_dict()[part] for config in configs]
            for setting in parts[0].keys() - OF_ITS_OWN:
                values = {each[setting] for each in parts}
                assert len(values - UNUSED.get(f"{part}.{setting}", set())) <= 1, setting
                assert len(values) == 1 or f"{part}.{setting}" in UNUSED, setting
        alike = [config for config in configs if not {"pi", "vadd"}.isdisjoint(config.terms)]
        assert len({(config.data, config.training.batch_unlabelled, config.training.ramp_up) for config in alike}) == 1
        assert all(config.training.ramp_up for config in alike)
        assert len({config.model.rescale for config in configs if config.model.delta is not None}) == 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_tiny_is_two_steps(name: str) -> None:
    training = presets.get(name, "plain", "tiny").training
    assert training.epochs * (training.steps_per_epoch or 0) == 2


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_search_may_flip(name: str) -> None:
    for method in presets.find(name).methods:
        config = presets.get(name, method)
        delta = config.model.delta
        if "add" not in method:
            assert delta is None, "there is no search"
            continue
        assert delta is not None
        assert flip_budget(delta, units(config.model)) >= 1
        shared = any(isinstance(term, Vadd) and term.noise == "shared" for term in config.terms.values())
        assert config.model.p > 0 or not shared, "VAdD needs a base mask, or noise, to differ from"


@pytest.mark.parametrize(
    ("name", "method", "scale", "message"),
    [
        (
            "digits-10",
            "plain",
            "quick",
            "the preset to be one of digits-100, paper/mnist-1000, .*, got 'digits-10'; did you mean \"digits-100\"",
        ),
        ("xyz", "plain", "quick", "one of digits-100, .*, images, got 'xyz'"),
        (
            "digits-100",
            "vadd-q",
            "quick",
            'expected the method of digits-100 to be one of plain, .*; did you mean "vadd-qe"',
        ),
        ("digits-100", "VAT", "quick", "got 'VAT'"),
        ("digits-100", "plain", "paper", "expected the scale of digits-100 to be one of tiny, quick, got 'paper'"),
    ],
)
def test_unknown_names_offer_the_nearest(name: str, method: str, scale: Scale, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        presets.get(name, method, scale)


def test_the_step_above_is_repeatable() -> None:
    config = presets.get("digits-100", "vadd-qe+vat", "tiny")
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        model = config.model.build((1, 8, 8), 10)
        images = torch.rand(4, 1, 8, 8)
        loss, _ = Objective(model, config.terms)(Batch(images, torch.arange(4), images), 0.5)
        losses.append(loss)
    assert torch.equal(losses[0], losses[1])

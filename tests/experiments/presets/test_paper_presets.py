"""The paper's presets: each number is what the paper, or the authors' code, states."""

import dataclasses
import functools
import math

import pytest
import torch
from torch import nn

from adversarial_dropout import AdversarialDropout, flip_budget
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.models.network import Network, Shape
from adversarial_dropout.experiments.models.noise import Dropout, GaussianNoise
from adversarial_dropout.experiments.presets import paper
from adversarial_dropout.experiments.run import optimizers
from adversarial_dropout.experiments.run.batches import steps_of_an_epoch
from adversarial_dropout.experiments.terms import At, Entmin, Pi, Sadd, Term, Vadd, Vat

from .. import small_data

Facts = dict[str, object]

PAPER = (
    *("paper/mnist-1000", "paper/mnist-all", "paper/svhn-1000", "paper/svhn-all"),
    *("paper/cifar10-4000", "paper/cifar10-all"),
)
AUTHORS = ("authors/svhn-1000", "authors/svhn-all", "authors/cifar10-4000", "authors/cifar10-all")
NAMES = (*PAPER, *AUTHORS)
METHODS = ("plain", "at", "vat", "pi", "sadd", "vadd-kl", "vadd-qe", "vadd-kl+vat", "vadd-qe+vat")
EACH_PRESET = pytest.mark.parametrize("name", NAMES)

_MNIST: Facts = {
    "network": "mnist-cnn",
    "units": 2048,
    "delta": 0.005,
    "flips": 10,
    "p": 0.5,
    "dropout": [0.5, 0.5],
    "rescale": "inverted",
    "input noise": 0.0,
    "noise in evaluation": False,
    "normalisation": set(),
    "logits normalised": False,
    "pixels": (0.0, 1.0),
    "whitened": False,
    "translated by": 0,
    "flipped": False,
    "epochs": 100,
}
_SVHN: Facts = {
    **_MNIST,
    "network": "conv-large",
    "units": 128,
    "delta": 0.05,
    "flips": 6,
    "p": 0.0,
    "dropout": [0.5, 0.0],
    "input noise": 0.15,
    "normalisation": {("BatchNorm2d", 9, 0.001)},
    "pixels": (-0.5, 0.5),
    "translated by": 2,
    "epochs": 300,
}
_CIFAR: Facts = {**_SVHN, "normalisation": {("MeanOnlyBatchNorm", 9, 0.001)}, "flipped": True}
_AUTHORS_SVHN: Facts = {
    **_SVHN,
    "dropout": [0.5, 0.5],
    "rescale": "sum",
    "input noise": 0.0,
    "normalisation": {("BatchNorm2d", 9, 0.01)},
    "logits normalised": True,
}
_AUTHORS_CIFAR: Facts = {
    **_CIFAR,
    "dropout": [0.5, 0.5],
    "rescale": "sum",
    "noise in evaluation": True,
    "normalisation": {("MeanOnlyBatchNorm", 9, 0.01)},
    "whitened": True,
}
# Typed from Tables 3 and 4, B.1 and B.2, and from the commands and defaults of the authors' code. With all labels an
# epoch is a pass over the labelled images, on SVHN and CIFAR-10 one over the others; the authors' has 400 steps. With
# few labels B.1 says no more than "minibatch size of 128": 32 + 96, and as many steps as with all labels.
STATED: dict[str, Facts] = {
    "paper/mnist-1000": {**_MNIST, "labels": 1_000, "others": 59_000, "batch": (32, 96), "steps": 468},
    "paper/mnist-all": {**_MNIST, "labels": 60_000, "others": None, "batch": (128, 0), "steps": 468},
    "paper/svhn-1000": {**_SVHN, "labels": 1_000, "others": 72_257, "batch": (32, 128), "steps": 564},
    "paper/svhn-all": {**_SVHN, "labels": 73_257, "others": None, "batch": (100, 0), "steps": 732},
    "paper/cifar10-4000": {**_CIFAR, "labels": 4_000, "others": 46_000, "batch": (32, 128), "steps": 359},
    "paper/cifar10-all": {**_CIFAR, "labels": 50_000, "others": None, "batch": (100, 0), "steps": 500},
    "authors/svhn-1000": {**_AUTHORS_SVHN, "labels": 1_000, "others": 73_257, "batch": (32, 128), "steps": 400},
    "authors/svhn-all": {**_AUTHORS_SVHN, "labels": 73_257, "others": None, "batch": (100, 0), "steps": 732},
    "authors/cifar10-4000": {**_AUTHORS_CIFAR, "labels": 4_000, "others": 50_000, "batch": (32, 128), "steps": 400},
    "authors/cifar10-all": {**_AUTHORS_CIFAR, "labels": 50_000, "others": None, "batch": (100, 0), "steps": 500},
}
# Weights of VAdD by KL, VAdD by QE, and Π.
WEIGHTS = {
    "paper/mnist-1000": (1.0, 30.0, 30.0),
    "paper/mnist-all": (1.0, 30.0, 30.0),
    **dict.fromkeys((*PAPER[2:], *AUTHORS), (1.0, 25.0, 25.0)),
    "authors/svhn-all": (1.0, 10.0, 25.0),
}
# Lengths of VAT's move and its ξ; none: what suits the precision. The paper gives neither. On MNIST the length is ours,
# on SVHN that of the authors' code, on CIFAR-10 a quarter of theirs, because the images are not whitened.
VAT: dict[str, tuple[float, float | None]] = {
    **dict.fromkeys(PAPER[:2], (1.0, None)),
    **dict.fromkeys(PAPER[2:4], (3.5, None)),
    **dict.fromkeys(PAPER[4:], (2.0, None)),
    **dict.fromkeys(AUTHORS[:2], (3.5, 1e-6)),
    **dict.fromkeys(AUTHORS[2:], (8.0, 1e-6)),
}
# Epochs, steps an epoch, labelled and other images a step, ramp up, ramp down, learning rate, images evaluated.
QUICK = {
    "paper/mnist-1000": (10, 150, 32, 96, 3, 0, 0.001, None),
    "paper/mnist-all": (10, 240, 128, 0, 3, 0, 0.001, None),
    **dict.fromkeys(("paper/svhn-1000", "paper/cifar10-4000", *AUTHORS[0::2]), (5, 4, 4, 16, 1, 1, 0.0003, 200)),
    **dict.fromkeys(("paper/svhn-all", "paper/cifar10-all", *AUTHORS[1::2]), (5, 4, 12, 0, 1, 1, 0.0003, 200)),
}
IMAGES = {"mnist": (60_000, 10_000), "svhn": (73_257, 26_032), "cifar10": (50_000, 10_000)}


def source(name: str) -> str:
    return name.split("/")[1].split("-")[0]


@functools.cache
def full(name: str) -> ImageData:
    """Data with as many rows as the real ones; nobody looks at their pixels."""
    train, test = IMAGES[name]
    rows = torch.arange(train + test)
    return ImageData(
        torch.zeros(train + test, 1, 1, 1, dtype=torch.uint8), rows % 10, rows[train:], 255, tuple("0123456789")
    )


@functools.cache
def network(config: Network, shape: Shape) -> Facts:
    """What the built network says of itself."""
    model = config.build(shape, 10).eval()
    (dropout,) = (module for module in model.modules() if isinstance(module, AdversarialDropout))
    (noise,) = (module for module in model.modules() if isinstance(module, GaussianNoise))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | MeanOnlyBatchNorm)]
    units = model.get_submodule("under")(torch.zeros(1, *shape)).shape[1]
    return {
        "network": config.name,
        "units": units,
        "delta": config.delta,
        "flips": None if config.delta is None else flip_budget(dropout.delta, units),
        "p": dropout.p,
        "dropout": [module.p for module in model.modules() if isinstance(module, Dropout)],
        "rescale": dropout.rescale,
        "input noise": noise.sigma,
        "noise in evaluation": noise.in_evaluation,
        "normalisation": {(type(norm).__name__, len(norms), norm.momentum) for norm in norms},
        "logits normalised": any(isinstance(module, nn.BatchNorm1d) for module in model.modules()),
    }


def facts(config: ExperimentConfig) -> Facts:
    """The same facts as in the table above, from a config on data of full size."""
    data, training = config.data, config.training
    split = make_split(full(data.name), data, config.seed)
    ends = Pixels(data, 255)(torch.tensor([0, 255]).view(2, 1, 1, 1)).flatten().tolist()
    return {
        **network(config.model, small_data.SHAPES[data.name]),
        "pixels": tuple(ends),
        "whitened": data.whiten,
        "translated by": data.translate,
        "flipped": data.flip,
        "epochs": training.epochs,
        "labels": len(split.labelled),
        "others": len(split.unlabelled) if training.batch_unlabelled else None,
        "batch": (training.batch_labelled, training.batch_unlabelled),
        "steps": steps_of_an_epoch(training, len(split.labelled), len(split.unlabelled)),
    }


def test_the_table_has_every_preset() -> None:
    assert set(NAMES) == {column.preset for column in paper.COLUMNS} <= set(presets.PRESETS)
    for name in NAMES:
        assert presets.find(name).methods == METHODS
    labels = {column.preset: column.labels for column in paper.COLUMNS}
    assert labels == {name: STATED[name]["labels"] for name in NAMES}


SUPERVISED = ("plain", "at", "sadd")
FIXED_STEPS = ("paper/mnist-1000", "authors/svhn-1000", "authors/cifar10-4000")


def stated(name: str, method: str) -> Facts:
    """What is stated, without what the method has no use for: it cannot be given then."""
    found = dict(STATED[name])
    if "add" not in method:
        found |= {"delta": None, "flips": None}
        if found["p"] == 0:
            found["rescale"] = "inverted"
    if name in FIXED_STEPS and method in SUPERVISED:  # An epoch is no pass over the others, and nothing sees them.
        found |= {"others": None, "batch": (32, 0)}
    return found


@EACH_PRESET
def test_every_number_is_the_stated_one(name: str) -> None:
    for method in METHODS:
        expected = stated(name, method)
        # In the authors' commands, "top_bn" is given for VAT + VAdD alone.
        if name == "authors/cifar10-all":
            expected["logits normalised"] = method in ("vadd-kl+vat", "vadd-qe+vat")
        assert facts(presets.get(name, method, "paper", 5)) == expected, method
        assert presets.get(name, method, "paper").data.validation == 0
        assert presets.get(name, method, "paper").data.evaluated is None, "the whole test part"


@EACH_PRESET
def test_terms_and_their_weights(name: str) -> None:
    kl, qe, pi = WEIGHTS[name]
    # B.1 ramps the weights "in all training"; the authors' code, the only source on the others, does not ramp VAT's.
    mnist = source(name) == "mnist"
    # The text: two passes with noise of their own, ρ₁ and ρ₂.
    by_kl = Vadd(weight=kl, ramp=True, divergence="kl", noise="independent")
    by_qe = Vadd(weight=qe, ramp=True, divergence="qe", noise="independent")
    eps, xi = VAT[name]
    vat = Vat(weight=1.0, ramp=mnist, divergence="kl", eps=eps, xi=xi)
    expected: dict[str, list[Term]] = {
        "plain": [],
        "at": [At(weight=1.0, ramp=mnist, eps=0.1 if mnist else 8 / 255)],
        "vat": [vat],
        "pi": [Pi(weight=pi, ramp=True, divergence="qe")],
        "sadd": [Sadd(weight=1.0, ramp=True, divergence="ce")],
        "vadd-kl": [by_kl],
        "vadd-qe": [by_qe],
        "vadd-kl+vat": [by_kl, vat],
        "vadd-qe+vat": [by_qe, vat],
    }
    if name in ("authors/svhn-1000", "authors/cifar10-4000"):
        for method in ("vat", "pi", "vadd-kl", "vadd-qe", "vadd-kl+vat", "vadd-qe+vat"):
            expected[method].append(Entmin(weight=1.0, ramp=False))
    for method in METHODS:
        config = presets.get(name, method, "paper")
        assert list(config.terms.values()) == expected[method], method
        # Nothing else searches; B.1 and B.2 give one δ for all methods.
        assert (config.model.delta is None) == ("add" not in method), method


@EACH_PRESET
def test_the_schedule(name: str) -> None:
    training = presets.get(name, "vadd-kl", "paper").training
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=training.learning_rate)

    def at(epoch: int) -> tuple[float, float, float]:
        """Factor of the weights, learning rate, β₁."""
        factor = optimizers.follow_schedule(training, epoch, optimizer)
        assert optimizer.param_groups[0]["betas"][1] == 0.999
        return (factor, optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0])

    half = math.exp(-5 / 4)
    if source(name) == "mnist":  # B.1: a learning rate of 0.001 and momentum parameters of 0.9 and 0.999, no more.
        assert [at(epoch)[1:] for epoch in range(100)] == [(0.001, 0.9)] * 100
        assert [at(epoch)[0] for epoch in (0, 15, 30, 99)] == pytest.approx([math.exp(-5), half, 1.0, 1.0])
        assert at(29)[0] < 1
        return
    epochs, rise = 300, 80
    assert at(0) == pytest.approx((math.exp(-5), 0.003 * math.exp(-5), 0.9))
    assert at(rise // 2) == pytest.approx((half, 0.003 * half, 0.9))
    assert at(rise - 1)[0] < 1
    assert at(rise) == pytest.approx((1.0, 0.003, 0.9))
    assert at(epochs - 50) == pytest.approx((1.0, 0.003, 0.9))
    assert at(epochs - 49)[1] < 0.003
    # The authors' exp(-(e / 2)² / 50), e epochs into the last 50.
    for into in (25, 49):
        fall = math.exp(-((into / 2) ** 2) / 50)
        assert at(epochs - 50 + into) == pytest.approx((1.0, 0.003 * fall, 0.9 * fall + 0.5 * (1 - fall)))
    assert at(epochs - 1)[2] == pytest.approx(0.5, abs=1e-4)


@EACH_PRESET
def test_quick_is_the_same_with_fewer_steps(name: str) -> None:
    epochs, steps, labelled, others, up, down, rate, evaluated = QUICK[name]
    assert epochs * steps == {"paper/mnist-1000": 1500, "paper/mnist-all": 2400}.get(name, 20)
    for method in METHODS:
        whole, quick = presets.get(name, method, "paper", 4), presets.get(name, method, "quick", 4)
        expected = whole.changed(
            scale="quick",
            data=dataclasses.replace(whole.data, evaluated=evaluated),
            training=dataclasses.replace(
                whole.training,
                epochs=epochs,
                steps_per_epoch=steps,
                batch_labelled=labelled,
                batch_unlabelled=others,
                ramp_up=up,
                ramp_down=down,
                learning_rate=quick.training.learning_rate,
            ),
        )
        assert quick == expected, method
        assert quick.training.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("paper/mnist-100", "plain", 'did you mean "paper/mnist-1000"'),
        ("Paper/SVHN-all", "plain", 'did you mean "paper/svhn-all"'),
        ("author/cifar10-4000", "plain", 'did you mean "authors/cifar10-4000"'),
        ("authors/mnist-1000", "plain", "expected the preset to be one of .*, got 'authors/mnist-1000'; did you mean"),
        (
            "paper/mnist-all",
            "vadd-lk",
            'expected the method of paper/mnist-all to be one of plain, .*; did you mean "vadd-kl"',
        ),
        ("paper/mnist-all", "vadd-kl-vat", 'did you mean "vadd-kl\\+vat"'),
    ],
)
def test_a_wrong_name_offers_the_nearest(name: str, method: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        presets.get(name, method, "paper")

"""No setting of a run is without effect: another value gives another run, or it is refused."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.models import NETWORKS
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.terms import TERMS

from . import tiny_backbones
from .small_data import image_folder

OTHER: dict[str, Any] = {
    "labelled": 30,
    "unlabelled": 20,
    "overlap": False,
    "validation": 20,
    "evaluated": 5,
    "resize": 16,
    "centre": True,
    "whiten": True,
    "translate": 2,
    "flip": True,
    "affine": 0.5,
    "jitter": 0.5,
    "choosing": 0.5,
    "epochs": 3,
    "steps_per_epoch": 3,
    "least_steps": 3,
    "most_steps": 1,
    "weight_decay": 0.3,
    "batch_labelled": 12,
    "batch_unlabelled": 20,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "ramp_up": 1,
    "ramp_up_learning_rate": True,
    "ramp_down": 0,
    "beta1": 0.7,
    "beta1_end": 0.3,
    "precision": "bf16",
    "p": 0.25,
    "delta": 0.4,
    "rescale": "sum",
    "input_noise": 0.4,
    "noise_in_evaluation": True,
    "kernel_size": 5,
    "width": 12,
    "norm": "mean-only",
    "norm_momentum": 0.5,
    "norm_logits": True,
    "dropout1": 0.2,
    "dropout2": 0.2,
    "initialization": "normal",
    "source": "another",
    "frozen": False,
    "head": "mlp",
    "units": 20,
    "feature_dropout": 0.4,
    "size": 16,
    "backbone_rate": 0.5,
    "pickle": True,
    "weight": 3.0,
    "ramp": False,
    "divergence": "qe",
    "eps": 0.7,
    "xi": 0.5,
    "per_value": True,
    "noise": "shared",
    "target_decay": 0.5,
    "ramp_delta": True,
    "place": "maps",
    "granularity": "channel",
    "views": 1,
    "flips": "random",
    "target": "average",
    "alpha": 0.3,
}
"""Another value of each setting; where that is the usual one, see :func:`other`."""


DATA = "images"


def config(
    network: type[Network],
    kind: str | None,
    *,
    unlabelled: int = 16,
    translate: int = 0,
    term: dict[str, Any] | None = None,
    **given: Any,
) -> ExperimentConfig:
    """A run of four steps on small images, with everything that can be there: noise, ramps up and down."""
    terms = {kind: TERMS[kind](**(term or {}))} if kind is not None else {}
    settings: dict[str, Any] = {"delta": 0.3, **given}
    if network is Pretrained:
        settings["source"] = "backbone"  # In the folder in which the test runs.
    if any(field.name == "width" for field in dataclasses.fields(network)):
        settings["width"] = 8
    return ExperimentConfig.of(
        preset="every-setting",
        method=kind or "plain",
        scale="tiny",
        data=DataConfig(name=DATA, labelled=45, translate=translate),
        model=network(**settings),
        training=TrainingConfig(
            epochs=2,
            steps_per_epoch=2,
            batch_labelled=16,
            batch_unlabelled=0 if network.task == "images" else unlabelled,
            ramp_up=2,
            ramp_down=2,
        ),
        terms=terms,
    )


def other(name: str, value: object) -> object:
    """Another value of a setting."""
    found = OTHER[name]
    if name == "divergence" and value == "qe":
        return "ce"
    if name == "head" and value == "mlp":
        return "linear"
    if isinstance(value, bool):
        return not value
    if found == value:
        return {"target": "own", "place": "both"}[name]
    return found


def changes(base: ExperimentConfig) -> Iterator[tuple[str, Callable[[], ExperimentConfig]]]:
    """Each setting, and what makes the config with another value of it."""
    holders: dict[str, Any] = {name: getattr(base, name) for name in ("data", "model", "training")}
    holders |= {f"terms.{kind}": term for kind, term in base.terms.items()}
    for section, holder in holders.items():
        for field in dataclasses.fields(holder):
            if (section, field.name) != ("data", "name"):
                yield f"{section}.{field.name}", partial(changed, base, section, holder, field.name)


def changed(base: ExperimentConfig, location: str, holder: Any, field: str) -> ExperimentConfig:
    new = dataclasses.replace(holder, **{field: other(field, getattr(holder, field))})
    part, _, kind = location.partition(".")
    parts: dict[str, Any] = {part: {**base.terms, kind: new} if kind else new}
    return dataclasses.replace(base, **parts)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"), each=30, unlabelled=12, shape=(1, 12, 12))


def outcome(run: ExperimentConfig, folder: Path, images: Path) -> tuple[bytes, Any, Any]:
    """What a run leaves: weights, metrics, and on how many images it was judged."""
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, name=str(images)))
    record = loop.run(run, folder, location=DataLocation(images))
    return (folder / records.WEIGHTS).read_bytes(), record.metrics, record.final["examples"]


CASES = {
    **{f"{name}, plain": config(network, None) for name, network in NETWORKS.items()},
    **{f"small-cnn, {kind}": config(NETWORKS["small-cnn"], kind) for kind in TERMS if kind != "add"},
    "mnist-cnn, vadd": config(NETWORKS["mnist-cnn"], "vadd"),
    "conv-large, vadd, labelled alone": config(NETWORKS["conv-large"], "vadd", unlabelled=0),
    "autoencoder, add": config(NETWORKS["autoencoder"], "add"),
    "small-resnet, vadd, maps": config(NETWORKS["small-resnet"], "vadd", place="maps"),
    **{
        f"small-cnn, {kind}, views, average": config(
            NETWORKS["small-cnn"], kind, translate=1, term={"target": "average"}
        )
        for kind in ("pi", "vadd")
    },
    "pretrained, mlp, vadd": config(Pretrained, "vadd", head="mlp"),
    "pretrained, fine-tuned": config(Pretrained, None, frozen=False),
}


@pytest.fixture(scope="module")
def two_backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    tiny_backbones.write(folder / "backbone", size=12)
    return tiny_backbones.write(folder / "another", seed=1, size=12).parent


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::adversarial_dropout.AdversarialDropoutWarning")
def test_every_setting_counts_or_is_refused(
    case: str, images: Path, two_backbones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_backbones)
    base = CASES[case]
    usual = outcome(base, tmp_path / "usual", images)
    without_effect, refused = [], []
    for name, make in changes(base):
        try:
            found = outcome(make(), tmp_path / name, images)
        except InvalidValueError:
            refused.append(name)
            continue
        if found == usual:
            without_effect.append(name)
    assert not without_effect
    # What is refused is what the run has no use for, and nothing else.
    allowed = {"model.delta", "training.batch_unlabelled", "data.overlap", "data.unlabelled", "training.beta1_end"}
    allowed |= {"training.least_steps", "training.most_steps"}  # Its epochs have a given number of steps.
    allowed |= {"training.ramp_up", "training.ramp_up_learning_rate", *(f"terms.{kind}.ramp" for kind in base.terms)}
    if not any(getattr(term, "target", "own") == "average" for term in base.terms.values()):
        allowed.add("training.target_decay")
    if not any(term.searches for term in base.terms.values()):
        allowed.add("training.ramp_delta")
    if getattr(base.model, "place", "units") == "units":
        allowed.add("model.granularity")
    allowed |= {f"terms.{kind}.{'noise' if base.data.augmented else 'views'}" for kind in base.terms}
    if base.model.task == "images":  # It sees every image alike.
        allowed |= {"data.centre", "data.whiten", "data.translate", "data.flip", "data.affine", "data.jitter"}
    if isinstance(base.model, Pretrained):
        allowed |= {"data.centre", "data.whiten", "model.pickle"}
        if base.model.frozen:
            allowed |= {"data.translate", "data.affine", "data.jitter", "model.backbone_rate"}
        if base.model.head == "linear":
            allowed |= {"model.units", "model.feature_dropout"}
    assert set(refused) <= allowed


def test_each_setting_has_another_value() -> None:
    parts = [DataConfig, TrainingConfig, *NETWORKS.values(), *TERMS.values()]
    named = {field.name for part in parts for field in dataclasses.fields(part)} - {"name"}
    assert named == set(OTHER)

"""Configs: frozen, checked, and the same after a round trip through JSON."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adversarial_dropout.errors import AdversarialDropoutError, InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    TermConfig,
    TrainingConfig,
    differences,
)

SHARES = st.floats(0, 1)
COUNTS = st.integers(1, 10**6)

TERMS = st.builds(
    TermConfig,
    kind=st.sampled_from(["at", "vat", "pi", "sadd", "vadd", "entmin"]),
    weight=st.floats(0, 1e6),
    divergence=st.sampled_from(["ce", "kl", "qe"]),
    eps=st.floats(1e-6, 1e3),
    xi=st.none() | st.floats(1e-9, 1),
    noise=st.sampled_from(["independent", "shared"]),
    ramp=st.booleans(),
)


def fitting(data: DataConfig, terms: tuple[TermConfig, ...], **other: Any) -> ExperimentConfig:
    """A config whose data have one view if a term shares its noise."""
    if any(term.noise == "shared" for term in terms):
        data = dataclasses.replace(data, translate=0, flip=False)
    return ExperimentConfig(data=data, terms=terms, **other)


CONFIGS = st.builds(
    fitting,
    preset=st.text(),
    method=st.text(),
    scale=st.sampled_from(["tiny", "quick", "paper"]),
    seed=st.integers(0, 10**9),
    threads=COUNTS,
    data=st.builds(
        DataConfig,
        name=st.text(),
        labelled=st.none() | COUNTS,
        overlap=st.booleans(),
        validation=st.integers(0, 10**6),
        evaluated=st.none() | COUNTS,
        resize=st.none() | COUNTS,
        centre=st.booleans(),
        whiten=st.booleans(),
        translate=st.integers(0, 10),
        flip=st.booleans(),
    ),
    model=st.builds(
        ModelConfig,
        name=st.text(),
        kernel_size=COUNTS.map(lambda count: 2 * count + 1),
        width=COUNTS,
        norm=st.sampled_from(["batch", "mean-only"]),
        norm_momentum=SHARES,
        norm_logits=st.booleans(),
        input_noise=st.floats(0, 10),
        noise_in_evaluation=st.booleans(),
        p=SHARES,
        delta=SHARES,
        granularity=st.sampled_from(["element", "channel", "feature"]),
        rescale=st.sampled_from(["inverted", "sum", "none"]),
        initialization=st.sampled_from(["he", "normal"]),
    ),
    training=st.builds(
        TrainingConfig,
        epochs=COUNTS,
        steps_per_epoch=st.none() | COUNTS,
        batch_labelled=COUNTS,
        batch_unlabelled=st.integers(0, 10**6),
        optimizer=st.sampled_from(["adam", "sgd"]),
        learning_rate=st.floats(1e-9, 1e3),
        ramp_up=st.integers(0, 100),
        ramp_up_learning_rate=st.booleans(),
        ramp_down=st.integers(0, 100),
        beta1=st.floats(0, 1, exclude_max=True),
        beta1_end=st.floats(0, 1, exclude_max=True),
    ),
    terms=st.lists(TERMS, max_size=3, unique_by=lambda term: term.kind).map(tuple),
)


def config(**changes: Any) -> ExperimentConfig:
    return ExperimentConfig(**{"preset": "digits-100", "method": "plain", "scale": "quick", **changes})


@given(CONFIGS)
def test_round_trip_through_json(original: ExperimentConfig) -> None:
    plain = original.to_dict()
    read = json.loads(json.dumps(plain))
    assert read == plain
    assert ExperimentConfig.from_dict(read) == original
    assert differences(read, plain) == []


def test_to_dict_shares_nothing_with_the_config() -> None:
    original = config(terms=(TermConfig(kind="pi"),))
    plain = original.to_dict()
    plain["data"]["labelled"] = 7
    plain["terms"][0]["weight"] = 7.0
    assert original == config(terms=(TermConfig(kind="pi"),))


def test_a_record_from_before_optimizer_and_initialization_could_be_chosen() -> None:
    plain = config().to_dict()
    del plain["training"]["optimizer"], plain["model"]["initialization"]
    assert ExperimentConfig.from_dict(plain) == config()
    assert config().training.optimizer == "adam"
    assert config().model.initialization == "he"


@pytest.mark.parametrize(
    ("frozen", "field"),
    [
        (DataConfig(), "labelled"),
        (ModelConfig(), "p"),
        (TermConfig(kind="pi"), "weight"),
        (TrainingConfig(), "epochs"),
        (config(), "seed"),
    ],
)
def test_frozen(frozen: object, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(frozen, field, 3)


@pytest.mark.parametrize(
    "made", [DataConfig, ModelConfig, TrainingConfig, TermConfig, ExperimentConfig], ids=lambda made: made.__name__
)
def test_fields_are_given_by_name(made: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        made("digits")


@pytest.mark.parametrize(
    ("made", "values", "message"),
    [
        (DataConfig, {"labelled": 0}, "expected data.labelled to be a whole number, 1 or more, got 0"),
        (DataConfig, {"labelled": 2.5}, "data.labelled to be a whole number, 1 or more, got 2.5"),
        (DataConfig, {"labelled": True}, "data.labelled to be a whole number, 1 or more, got True"),
        (DataConfig, {"validation": -1}, "data.validation to be a whole number, 0 or more, got -1"),
        (DataConfig, {"evaluated": 0}, "data.evaluated to be a whole number, 1 or more, got 0"),
        (DataConfig, {"resize": 0}, "data.resize to be a whole number, 1 or more, got 0"),
        (DataConfig, {"translate": -1}, "data.translate to be a whole number, 0 or more, got -1"),
        (ModelConfig, {"p": 1.5}, r"expected model.p to be in \[0, 1\], got 1.5"),
        (ModelConfig, {"p": -0.1}, r"expected model.p to be in \[0, 1\], got -0.1"),
        (ModelConfig, {"p": float("nan")}, r"expected model.p to be in \[0, 1\], got nan"),
        (ModelConfig, {"delta": 5}, r"model.delta to be in \[0, 1\], got 5; model.delta is a fraction"),
        (ModelConfig, {"dropout1": 1.5}, r"expected model.dropout1 to be in \[0, 1\], got 1.5"),
        (ModelConfig, {"dropout2": -0.5}, r"expected model.dropout2 to be in \[0, 1\], got -0.5"),
        (ModelConfig, {"kernel_size": 0}, "model.kernel_size to be a whole number, 1 or more, got 0"),
        (ModelConfig, {"kernel_size": 2.0}, "model.kernel_size to be a whole number, 1 or more, got 2.0"),
        (ModelConfig, {"width": 0}, "model.width to be a whole number, 1 or more, got 0"),
        (ModelConfig, {"norm_momentum": 1.1}, r"model.norm_momentum to be in \[0, 1\], got 1.1"),
        (ModelConfig, {"norm": "mean_only"}, 'model.norm to be one of batch, mean-only, .*; did you mean "mean-only"'),
        (ModelConfig, {"initialization": "xavier"}, "model.initialization to be one of he, normal, got 'xavier'"),
        (TermConfig, {"kind": "vat", "weight": -1.0}, "finite weight of vat, 0 or more, got -1.0"),
        (TermConfig, {"kind": "pi", "weight": float("nan")}, "finite weight of pi, 0 or more, got nan"),
        (TermConfig, {"kind": "pi", "weight": float("inf")}, "finite weight of pi, 0 or more, got inf"),
        (TrainingConfig, {"epochs": 0}, "training.epochs to be a whole number, 1 or more, got 0"),
        (TrainingConfig, {"steps_per_epoch": 0}, "training.steps_per_epoch to be a whole number, 1 or more, got 0"),
        (TrainingConfig, {"batch_labelled": 0}, "training.batch_labelled to be a whole number, 1 or more"),
        (TrainingConfig, {"batch_unlabelled": -1}, "training.batch_unlabelled to be a whole number, 0 or more"),
        (TrainingConfig, {"beta1": 1.5}, r"training.beta1 to be in \[0, 1\], got 1.5"),
        (TrainingConfig, {"beta1_end": -0.5}, r"training.beta1_end to be in \[0, 1\], got -0.5"),
        (TrainingConfig, {"optimizer": "adams"}, 'training.optimizer to be one of adam, sgd, .*; did you mean "adam"'),
        (TrainingConfig, {"ramp_up": -1}, "training.ramp_up to be a whole number, 0 or more, got -1"),
        (TrainingConfig, {"ramp_down": -1}, "training.ramp_down to be a whole number, 0 or more, got -1"),
        (TrainingConfig, {"learning_rate": 0.0}, "training.learning_rate to be above 0, got 0.0"),
        (TrainingConfig, {"learning_rate": float("nan")}, "training.learning_rate to be above 0, got nan"),
        (TrainingConfig, {"learning_rate": float("inf")}, "training.learning_rate to be above 0, got inf"),
        (config, {"seed": -1}, "expected seed to be a whole number, 0 or more, got -1"),
        (config, {"threads": 0}, "expected threads to be a whole number, 1 or more, got 0"),
    ],
)
def test_values_out_of_range(made: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        made(**values)


@pytest.mark.parametrize("data", [{"translate": 1}, {"flip": True}])
def test_two_views_and_shared_noise_exclude_each_other(data: dict[str, Any]) -> None:
    shared = TermConfig(kind="vadd", noise="shared")
    assert DataConfig(**data).augmented
    assert not DataConfig(centre=True, whiten=True).augmented
    with pytest.raises(InvalidValueError, match=r'terms.vadd.noise="independent" with data.translate or data.flip'):
        config(data=DataConfig(**data), terms=(TermConfig(kind="vat"), shared))
    config(terms=(shared,))
    config(data=DataConfig(**data), terms=(TermConfig(kind="vadd"), TermConfig(kind="pi", noise="shared")))


def test_a_share_that_is_no_number() -> None:
    with pytest.raises(InvalidTypeError, match=r"expected model.p to be a number in \[0, 1\], got '0.5' \(str\)"):
        ModelConfig(p="0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"learning": 1}, id="unknown field"),
        pytest.param({"data": {"name": "digits", "labels": 3}}, id="unknown field of a part"),
        pytest.param({"model": ["small-cnn"]}, id="part of another form"),
        pytest.param({"terms": [{"weight": 1.0}]}, id="term without its kind"),
        pytest.param({"seed": -1}, id="value out of range"),
    ],
)
def test_a_record_of_another_version(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        ExperimentConfig.from_dict({**config().to_dict(), **change})


@pytest.mark.parametrize(("name", "rates"), [("mnist-cnn", (0.0, 0.0)), ("conv-large", (0.5, 0.5))])
def test_a_record_from_before_drop1_and_drop2(name: str, rates: tuple[float, float]) -> None:
    """mnist-cnn had no such layers then, conv-large always had both."""
    plain = config(model=ModelConfig(name=name, delta=0.2)).to_dict()
    del plain["model"]["dropout1"], plain["model"]["dropout2"]
    read = ExperimentConfig.from_dict(plain).model
    assert (read.dropout1, read.dropout2) == rates
    assert read == ModelConfig(name=name, delta=0.2, dropout1=rates[0], dropout2=rates[1])


@pytest.mark.parametrize("missing", ["preset", "data", "training", "terms"])
def test_a_record_without_a_field(missing: str) -> None:
    plain = config().to_dict()
    del plain[missing]
    with pytest.raises(InvalidValueError, match=f"config of this version.*{missing}.*repeat the run") as caught:
        ExperimentConfig.from_dict(plain)
    assert isinstance(caught.value, AdversarialDropoutError)


def test_differences_name_each_changed_field() -> None:
    old = config(seed=1, terms=(TermConfig(kind="pi", weight=30.0),)).to_dict()
    new = config(seed=2, model=ModelConfig(delta=0.1), training=TrainingConfig(epochs=7, steps_per_epoch=3)).to_dict()
    lines = differences(old, new)
    assert "model.delta: 0.05 → 0.1" in lines
    assert "seed: 1 → 2" in lines
    assert "training.epochs: 50 → 7" in lines
    assert "training.steps_per_epoch: None → 3" in lines
    assert len(lines) == 5
    assert "terms: pi → none" in lines
    new = config(seed=1, terms=(TermConfig(kind="pi", weight=3.0),)).to_dict()
    assert differences(old, new) == ["terms.pi.weight: 30.0 → 3.0"]


@pytest.mark.parametrize(
    ("old", "new", "line"), [({}, {"a": 1}, "a: None → 1"), ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b: 1 → 2")]
)
def test_differences_of_unlike_forms(old: dict[str, Any], new: dict[str, Any], line: str) -> None:
    (only,) = differences(old, new)
    assert only.startswith(line)


@pytest.mark.parametrize("name", ["beta1", "beta1_end"])
def test_a_momentum_of_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"training.{name} below 1"):
        TrainingConfig(**{name: 1.0})  # type: ignore[arg-type]


def test_even_kernels_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="kernel_size to be odd, got 2"):
        ModelConfig(kernel_size=2)

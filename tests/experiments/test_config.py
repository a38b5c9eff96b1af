"""Configs: frozen, checked, and the same after a round trip through JSON."""

import dataclasses
import json
import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adversarial_dropout.errors import AdversarialDropoutError, InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig, Scale, TrainingConfig, differences
from adversarial_dropout.experiments.earlier_config import upgraded_rows
from adversarial_dropout.experiments.models import NETWORKS
from adversarial_dropout.experiments.models.autoencoder import Autoencoder
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.terms import TERMS, Add, At, Entmin, Ict, Mixup, Pi, Sadd, Term, Vadd, Vat, by_kind

SHARES = st.floats(0, 1)
COUNTS = st.integers(1, 10**6)
LENGTHS = st.floats(1e-6, 1e3)
TARGETS = st.sampled_from(["own", "average"])
DIVERGENCES = st.sampled_from(["ce", "kl", "qe"])

COMMON: dict[str, Any] = {"weight": st.floats(0, 1e6), "ramp": st.booleans()}
TERMS_FOR_CLASSES = st.one_of(
    st.builds(At, eps=LENGTHS, **COMMON),
    st.builds(Vat, divergence=DIVERGENCES, eps=LENGTHS, xi=st.none() | st.floats(1e-9, 1), **COMMON),
    st.builds(Pi, divergence=DIVERGENCES, views=st.sampled_from([1, 2]), target=TARGETS, **COMMON),
    st.builds(Sadd, divergence=st.sampled_from(["ce", "qe"]), **COMMON),
    st.builds(
        Vadd,
        divergence=DIVERGENCES,
        noise=st.sampled_from(["independent", "shared"]),
        flips=st.sampled_from(["found", "random"]),
        **COMMON,
    ),
    st.builds(Vadd, divergence=DIVERGENCES, target=st.just("average"), **COMMON),
    st.builds(Ict, alpha=LENGTHS, target=TARGETS, **COMMON),
    st.builds(Mixup, alpha=LENGTHS, **COMMON),
    st.builds(Entmin, **COMMON),
)

LAYER: dict[str, Any] = {"p": SHARES, "delta": SHARES, "rescale": st.sampled_from(["inverted", "sum", "none"])}
NOISY: dict[str, Any] = {**LAYER, "input_noise": st.floats(0, 10), "noise_in_evaluation": st.booleans()}
TWO_DROPOUTS: dict[str, Any] = {"dropout1": SHARES, "dropout2": SHARES}
CLASSIFIERS = st.one_of(
    st.builds(SmallCnn, **NOISY),
    st.builds(MnistCnn, kernel_size=COUNTS.map(lambda count: 2 * count + 1), **NOISY, **TWO_DROPOUTS),
    st.builds(
        ConvLarge,
        width=COUNTS,
        norm=st.sampled_from(["batch", "mean-only"]),
        norm_momentum=SHARES,
        norm_logits=st.booleans(),
        **NOISY,
        **TWO_DROPOUTS,
    ),
)
AUTOENCODERS = st.builds(Autoencoder, width=COUNTS, initialization=st.sampled_from(["he", "normal"]), **LAYER)


def fitting(
    data: DataConfig, model: Network, training: TrainingConfig, terms: list[Term], **other: Any
) -> ExperimentConfig:
    """A config that can be run: an autoencoder sees every image alike, and so do passes that share their noise."""
    if model.task == "images":
        data = dataclasses.replace(data, centre=False, whiten=False)
        training = dataclasses.replace(training, batch_unlabelled=0)
    if model.task == "images" or any(isinstance(term, Vadd) and term.noise == "shared" for term in terms):
        data = dataclasses.replace(data, translate=0, flip=False)
    return ExperimentConfig.of(data=data, model=model, training=training, terms=by_kind(*terms), **other)


PARTS: dict[str, Any] = {
    "preset": st.text(),
    "method": st.text(),
    "scale": st.sampled_from(["tiny", "quick", "paper"]),
    "seed": st.integers(0, 10**9),
    "threads": COUNTS,
    "data": st.builds(
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
    "training": st.builds(
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
        beta1_end=st.none() | st.floats(0, 1, exclude_max=True),
        target_decay=SHARES,
        ramp_delta=st.booleans(),
        precision=st.sampled_from(["float32", "tf32", "bf16"]),
    ),
}
CONFIGS = st.one_of(
    st.builds(
        fitting,
        model=CLASSIFIERS,
        terms=st.lists(TERMS_FOR_CLASSES, max_size=3, unique_by=lambda term: term.kind),
        **PARTS,
    ),
    st.builds(fitting, model=AUTOENCODERS, terms=st.lists(st.builds(Add, **COMMON), max_size=1), **PARTS),
)


def config(**changes: Any) -> ExperimentConfig:
    """Plain training, in which nothing rises and nothing searches, with some parts replaced."""
    plain = {"preset": "digits-100", "method": "plain", "scale": "quick", "training": TrainingConfig(ramp_up=0)}
    return ExperimentConfig(**{**plain, **changes})


def risen(*terms: Term, **changes: Any) -> ExperimentConfig:
    """The same with terms that rise with the usual ramp-up."""
    return config(**{"training": TrainingConfig(), "terms": by_kind(*terms), **changes})


@given(CONFIGS)
def test_round_trip_through_json(original: ExperimentConfig) -> None:
    plain = original.to_dict()
    read = json.loads(json.dumps(plain))
    assert read == plain
    again = ExperimentConfig.from_dict(read)
    assert again == original
    assert list(again.terms) == list(original.terms), "their order is that of the sum"
    assert differences(read, plain) == []
    assert original.changed() == original


def test_a_record_says_the_settings_of_its_network_and_of_its_terms_alone() -> None:
    plain = risen(Vadd(weight=2.0), Entmin(), model=SmallCnn(delta=0.1)).to_dict()
    assert plain["model"] == {
        "name": "small-cnn",
        "p": 0.5,
        "delta": 0.1,
        "rescale": "inverted",
        "input_noise": 0.15,
        "noise_in_evaluation": False,
    }
    assert plain["terms"] == {
        "vadd": {
            "weight": 2.0,
            "ramp": True,
            "divergence": "kl",
            "noise": "independent",
            "views": 2,
            "flips": "found",
            "target": "own",
        },
        "entmin": {"weight": 1.0, "ramp": True},
    }


def test_to_dict_shares_nothing_with_the_config() -> None:
    original = risen(Pi())
    plain = original.to_dict()
    plain["data"]["labelled"] = 7
    plain["model"]["p"] = 0.25
    plain["terms"]["pi"]["weight"] = 7.0
    assert original == risen(Pi())


def test_networks_and_terms_by_name() -> None:
    assert list(NETWORKS) == ["small-cnn", "small-resnet", "mnist-cnn", "conv-large", "autoencoder", "pretrained"]
    assert list(TERMS) == ["at", "vat", "pi", "sadd", "vadd", "add", "entmin", "ict", "mixup"]
    assert [kind for kind, term in TERMS.items() if term.supervised] == ["at", "sadd", "mixup"]
    assert [kind for kind, term in TERMS.items() if term.searches] == ["sadd", "vadd", "add"]
    assert [kind for kind, term in TERMS.items() if term.task == "images"] == ["add"]
    assert [name for name, network in NETWORKS.items() if network.task == "images"] == ["autoencoder"]


@pytest.mark.parametrize(
    ("frozen", "field"),
    [
        (DataConfig(), "labelled"),
        (SmallCnn(), "p"),
        (Pi(), "weight"),
        (TrainingConfig(), "epochs"),
        (config(), "seed"),
    ],
)
def test_frozen(frozen: object, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(frozen, field, 3)


@pytest.mark.parametrize(
    "made",
    [DataConfig, TrainingConfig, ExperimentConfig, *NETWORKS.values(), *TERMS.values()],
    ids=lambda made: made.__name__,
)
def test_fields_are_given_by_name(made: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        made("digits")


@pytest.mark.parametrize(
    ("made", "field"),
    [
        *((network, "granularity") for name, network in NETWORKS.items() if name != "small-resnet"),
        (SmallCnn, "kernel_size"),
        (SmallCnn, "dropout1"),
        (MnistCnn, "width"),
        (MnistCnn, "norm"),
        (ConvLarge, "kernel_size"),
        (Autoencoder, "input_noise"),
        (Autoencoder, "dropout1"),
        (At, "divergence"),
        (Vat, "noise"),
        (Pi, "eps"),
        (Pi, "noise"),
        (Sadd, "noise"),
        (Vadd, "eps"),
        (Vadd, "xi"),
        (Add, "divergence"),
        (Add, "noise"),
        (Entmin, "divergence"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_each_has_its_own_settings_alone(made: type, field: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{field}'"):
        made(**{field: None})


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
        (SmallCnn, {"p": 1.5}, r"expected model.p to be in \[0, 1\], got 1.5"),
        (Autoencoder, {"p": -0.1}, r"expected model.p to be in \[0, 1\], got -0.1"),
        (MnistCnn, {"p": float("nan")}, r"expected model.p to be in \[0, 1\], got nan"),
        (ConvLarge, {"p": 2.0}, r"expected model.p to be in \[0, 1\], got 2.0"),
        (SmallCnn, {"rescale": "sums"}, 'model.rescale to be one of inverted, sum, none, .*; did you mean "sum"'),
        (SmallCnn, {"delta": 5}, r"model.delta to be in \[0, 1\], got 5; model.delta is a fraction"),
        (MnistCnn, {"dropout1": 1.5}, r"expected model.dropout1 to be in \[0, 1\], got 1.5"),
        (ConvLarge, {"dropout2": -0.5}, r"expected model.dropout2 to be in \[0, 1\], got -0.5"),
        (MnistCnn, {"kernel_size": 0}, "model.kernel_size to be a whole number, 1 or more, got 0"),
        (MnistCnn, {"kernel_size": 2.0}, "model.kernel_size to be a whole number, 1 or more, got 2.0"),
        (ConvLarge, {"width": 0}, "model.width to be a whole number, 1 or more, got 0"),
        (Autoencoder, {"width": 0}, "model.width to be a whole number, 1 or more, got 0"),
        (ConvLarge, {"norm_momentum": 1.1}, r"model.norm_momentum to be in \[0, 1\], got 1.1"),
        (ConvLarge, {"norm": "mean_only"}, 'model.norm to be one of batch, mean-only, .*; did you mean "mean-only"'),
        (Autoencoder, {"initialization": "xavier"}, "model.initialization to be one of he, normal, got 'xavier'"),
        (Vat, {"weight": -1.0}, "finite weight of vat, 0 or more, got -1.0"),
        (Pi, {"weight": float("nan")}, "finite weight of pi, 0 or more, got nan"),
        (Pi, {"weight": float("inf")}, "finite weight of pi, 0 or more, got inf"),
        (At, {"eps": 0.0}, "expected eps to be finite and above 0, got 0.0"),
        (Vadd, {"divergence": "se"}, "expected divergence to be .*, got 'se'"),
        (Vadd, {"noise": "common"}, "expected noise to be one of independent, shared, got 'common'"),
        (TrainingConfig, {"epochs": 0}, "training.epochs to be a whole number, 1 or more, got 0"),
        (TrainingConfig, {"steps_per_epoch": 0}, "training.steps_per_epoch to be a whole number, 1 or more, got 0"),
        (TrainingConfig, {"batch_labelled": 0}, "training.batch_labelled to be a whole number, 1 or more"),
        (TrainingConfig, {"batch_unlabelled": -1}, "training.batch_unlabelled to be a whole number, 0 or more"),
        (TrainingConfig, {"beta1": 1.5}, r"training.beta1 to be in \[0, 1\], got 1.5"),
        (TrainingConfig, {"beta1_end": -0.5}, r"training.beta1_end to be in \[0, 1\], got -0.5"),
        (TrainingConfig, {"optimizer": "adams"}, 'training.optimizer to be one of adam, sgd, .*; did you mean "adam"'),
        (TrainingConfig, {"ramp_up": -1}, "training.ramp_up to be a whole number, 0 or more, got -1"),
        (TrainingConfig, {"ramp_down": -1}, "training.ramp_down to be a whole number, 0 or more, got -1"),
        (TrainingConfig, {"learning_rate": 0.0}, "training.learning_rate to be finite and above 0, got 0.0"),
        (TrainingConfig, {"learning_rate": float("nan")}, "training.learning_rate to be finite and above 0, got nan"),
        (TrainingConfig, {"learning_rate": float("inf")}, "training.learning_rate to be finite and above 0, got inf"),
        (config, {"seed": -1}, "expected seed to be a whole number, 0 or more, got -1"),
        (config, {"threads": 0}, "expected threads to be a whole number, 1 or more, got 0"),
    ],
)
def test_values_out_of_range(made: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        made(**values)


@pytest.mark.parametrize("data", [{"translate": 1}, {"flip": True}])
def test_two_views_and_shared_noise_exclude_each_other(data: dict[str, Any]) -> None:
    shared, model = Vadd(noise="shared"), SmallCnn(delta=0.1)
    assert DataConfig(**data).augmented
    assert not DataConfig(centre=True, whiten=True).augmented
    with pytest.raises(InvalidValueError, match=r'noise="independent" with data.translate, data.flip, .*views=1'):
        risen(Vat(), shared, data=DataConfig(**data), model=model)
    risen(shared, model=model)
    risen(Vadd(), Pi(), data=DataConfig(**data), model=model)


def test_terms_are_given_by_their_kinds() -> None:
    assert by_kind(Vadd(), Vat()) == {"vadd": Vadd(), "vat": Vat()}
    with pytest.raises(InvalidValueError, match="expected terms by their kinds, got pi as 'vat'"):
        config(training=TrainingConfig(), terms={"vat": Pi()})


@pytest.mark.parametrize("term", [Sadd(), Vadd()], ids=lambda term: term.kind)
def test_a_search_needs_a_budget(term: Term) -> None:
    with pytest.raises(InvalidValueError, match=f"model.delta, the budget of the search of {term.kind}, got none"):
        risen(term)
    assert risen(term, model=SmallCnn(delta=0.0)).model.delta == 0.0


def test_the_search_of_an_autoencoder_needs_a_budget() -> None:
    training = TrainingConfig(batch_unlabelled=0)
    with pytest.raises(InvalidValueError, match=r"model\.delta, the budget of the search of add, got none"):
        risen(Add(), model=Autoencoder(), training=training)
    risen(Add(), model=Autoencoder(delta=0.3), training=training)


def test_a_term_is_for_what_the_network_learns() -> None:
    message = "for a network that learns classes, as small-cnn does, got add, which is for images"
    with pytest.raises(InvalidValueError, match=message):
        risen(Add(), model=SmallCnn(delta=0.1))
    for term in (At(), Vat(), Pi(), Sadd(), Vadd(), Entmin()):
        message = f"for a network that learns images, as autoencoder does, got {term.kind}, which is for classes"
        with pytest.raises(InvalidValueError, match=message):
            risen(term, model=Autoencoder(delta=0.1), training=TrainingConfig(batch_unlabelled=0))


QUIET = TrainingConfig(ramp_up=0)
RISING = TrainingConfig(ramp_up_learning_rate=True)


def quiet(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(QUIET, **changes)


@pytest.mark.parametrize(
    ("surplus", "without", "name", "why"),
    [
        pytest.param(
            {"data": DataConfig(overlap=False), "training": quiet(batch_unlabelled=0)},
            {"training": quiet(batch_unlabelled=0)},
            "data.overlap",
            "the run sees no unlabelled examples",
            id="overlap",
        ),
        pytest.param(
            {"training": quiet(steps_per_epoch=4, batch_unlabelled=64), "terms": by_kind(At())},
            {"training": quiet(steps_per_epoch=4, batch_unlabelled=0), "terms": by_kind(At())},
            "training.batch_unlabelled",
            "no term sees unlabelled examples",
            id="batch_unlabelled",
        ),
        pytest.param(
            {"training": quiet(ramp_down=1)},
            {"training": quiet(ramp_down=0)},
            "training.ramp_down",
            "the first epoch of a fall is at its height",
            id="ramp_down",
        ),
        pytest.param({"model": SmallCnn(delta=0.05)}, {}, "model.delta", "no term of the run searches", id="delta"),
        pytest.param(
            {"model": MnistCnn(delta=0.0), "training": RISING, "terms": by_kind(Vat())},
            {"model": MnistCnn(), "training": RISING, "terms": by_kind(Vat())},
            "model.delta",
            "no term of the run searches",
            id="delta of another term",
        ),
        pytest.param(
            {"model": SmallCnn(p=0.0, rescale="sum")},
            {"model": SmallCnn(p=0.0)},
            "model.rescale",
            "with model.p=0 no unit is dropped",
            id="rescale",
        ),
        pytest.param(
            {"model": ConvLarge(input_noise=0.0, noise_in_evaluation=True)},
            {"model": ConvLarge(input_noise=0.0)},
            "model.noise_in_evaluation",
            "model.input_noise is 0",
            id="noise_in_evaluation",
        ),
        pytest.param(
            {"training": quiet(ramp_up_learning_rate=True)},
            {},
            "training.ramp_up_learning_rate",
            "training.ramp_up is 0",
            id="ramp_up_learning_rate",
        ),
        pytest.param(
            {"terms": by_kind(Pi(), Vat(ramp=False))},
            {"terms": by_kind(Pi(), Vat())},
            "terms.vat.ramp",
            "training.ramp_up is 0",
            id="ramp of a term",
        ),
        pytest.param({"training": TrainingConfig()}, {}, "training.ramp_up", "nothing rises", id="ramp_up"),
        pytest.param(
            {"training": TrainingConfig(), "terms": by_kind(At(ramp=False))},
            {"terms": by_kind(At())},
            "training.ramp_up",
            "nothing rises",
            id="ramp_up of terms that do not rise",
        ),
        pytest.param(
            {"training": quiet(optimizer="sgd", beta1=0.5)},
            {"training": quiet(optimizer="sgd")},
            "training.beta1",
            "gradient descent has no β₁",
            id="beta1",
        ),
        pytest.param(
            {"training": quiet(optimizer="sgd", beta1_end=0.5)},
            {"training": quiet(optimizer="sgd")},
            "training.beta1_end",
            "gradient descent has no β₁",
            id="beta1_end of sgd",
        ),
        pytest.param(
            {"training": quiet(ramp_down=0, beta1_end=0.5)},
            {"training": quiet(ramp_down=0)},
            "training.beta1_end",
            "training.ramp_down is 0",
            id="beta1_end",
        ),
    ],
)
def test_a_setting_that_the_run_would_not_use_is_refused_or_dropped(
    surplus: dict[str, Any], without: dict[str, Any], name: str, why: str
) -> None:
    with pytest.raises(InvalidValueError, match=f"expected {name}=.*, because {why}, got"):
        config(**surplus)
    expected = config(**without)
    assert config().changed(**surplus) == expected
    parts: dict[str, Any] = {"data": DataConfig(), "model": SmallCnn(), "training": QUIET, "terms": {}}
    assert ExperimentConfig.of(preset="digits-100", method="plain", scale="quick", **{**parts, **surplus}) == expected


def test_the_same_settings_where_the_run_uses_them() -> None:
    both = by_kind(Vadd(), Vat(ramp=False))
    config(data=DataConfig(overlap=False))  # An epoch is a pass over the unlabelled examples.
    config(training=quiet(steps_per_epoch=4, batch_unlabelled=64), terms=by_kind(Pi()))
    config(training=quiet(ramp_down=2))
    config(model=SmallCnn(rescale="sum"))
    config(model=SmallCnn(noise_in_evaluation=True))
    config(training=RISING)
    config(training=quiet(beta1=0.5, beta1_end=0.25))
    assert config(training=TrainingConfig(), model=SmallCnn(p=0.0, delta=0.1, rescale="sum"), terms=both).terms == both
    assert config(training=TrainingConfig(ramp_up=5), terms=by_kind(Pi())).training.ramp_up == 5


def test_a_change_drops_what_is_then_of_no_use() -> None:
    """δ, the ramp-up that nothing follows, and how masks are rescaled."""
    searching = risen(Vadd(), Vat(ramp=False), model=SmallCnn(p=0.0, delta=0.1, rescale="sum"))
    assert searching.changed(terms={}) == config(model=SmallCnn(p=0.0))
    assert searching.changed(terms=by_kind(Vat(ramp=False))) == config(model=SmallCnn(p=0.0), terms=by_kind(Vat()))
    assert searching.changed(seed=4) == dataclasses.replace(searching, seed=4)
    with pytest.raises(InvalidValueError, match=r"model\.delta, the budget of the search of vadd"):
        config().changed(terms=by_kind(Vadd()))


@pytest.mark.parametrize(("end", "last"), [(None, 0.8), (0.5, 0.5)])
def test_beta1_at_the_end(end: float | None, last: float) -> None:
    assert TrainingConfig(beta1=0.8, beta1_end=end).last_beta1 == last


def test_a_share_that_is_no_number() -> None:
    with pytest.raises(InvalidTypeError, match=r"expected model.p to be a number in \[0, 1\], got '0.5' \(str\)"):
        SmallCnn(p="0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"learning": 1}, id="unknown field"),
        pytest.param({"data": {"name": "digits", "labels": 3}}, id="unknown field of a part"),
        pytest.param({"model": ["small-cnn"]}, id="part of another form"),
        pytest.param({"model": {"p": 0.5}}, id="model without its name"),
        pytest.param({"model": {"name": "large-cnn"}}, id="unknown network"),
        pytest.param({"model": {"name": "small-cnn", "width": 128}}, id="setting of another network"),
        pytest.param({"model": {"name": "small-cnn", "granularity": "element"}}, id="setting of an earlier version"),
        pytest.param({"model": {"name": "small-cnn", "delta": 0.05}}, id="setting without use"),
        pytest.param({"terms": [{"weight": 1.0}]}, id="earlier term without its kind"),
        pytest.param({"terms": [{"kind": "wad"}]}, id="unknown earlier term"),
        pytest.param({"terms": {"wad": {"weight": 1.0}}}, id="unknown term"),
        pytest.param({"terms": {"pi": {"eps": 1.0}}}, id="setting of another term"),
        pytest.param({"seed": -1}, id="value out of range"),
    ],
)
def test_a_record_of_another_version(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        ExperimentConfig.from_dict({**config().to_dict(), **change})


@pytest.mark.parametrize("missing", ["preset", "data", "model", "training", "terms"])
def test_a_record_without_a_field(missing: str) -> None:
    plain = config().to_dict()
    del plain[missing]
    with pytest.raises(InvalidValueError, match=f"config of this version.*{missing}.*repeat the run") as caught:
        ExperimentConfig.from_dict(plain)
    assert isinstance(caught.value, AdversarialDropoutError)


# Records of earlier versions: every network and every term had the same settings. They are written out by hand.


def earlier(
    preset: str = "digits-100",
    method: str = "plain",
    scale: str = "quick",
    *,
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    terms: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """A whole config of then; where nothing else is given, that of plain training on the digits."""
    return {
        "preset": preset,
        "method": method,
        "scale": scale,
        "seed": 3,
        "threads": 1,
        "data": {
            "name": "digits",
            "labelled": 100,
            "overlap": True,
            "validation": 0,
            "evaluated": None,
            "resize": None,
            "centre": False,
            "whiten": False,
            "translate": 0,
            "flip": False,
            **(data or {}),
        },
        "model": {
            "name": "small-cnn",
            "kernel_size": 3,
            "width": 128,
            "norm": "batch",
            "norm_momentum": 0.1,
            "norm_logits": False,
            "input_noise": 0.15,
            "noise_in_evaluation": False,
            "dropout1": 0.5,
            "dropout2": 0.5,
            "p": 0.5,
            "delta": 6 / 256,
            "granularity": "element",
            "rescale": "inverted",
            "initialization": "he",
            **(model or {}),
        },
        "training": {
            "epochs": 50,
            "steps_per_epoch": None,
            "batch_labelled": 32,
            "batch_unlabelled": 128,
            "optimizer": "adam",
            "learning_rate": 0.006,
            "ramp_up": 20,
            "ramp_up_learning_rate": False,
            "ramp_down": 15,
            "beta1": 0.9,
            "beta1_end": 0.9,
            "precision": "float32",
            **(training or {}),
        },
        "terms": [
            {
                "weight": 1.0,
                "divergence": "kl",
                "eps": 1.0,
                "xi": None,
                "noise": "independent",
                "ramp": True,
                **term,
            }
            for term in terms
        ],
    }


MNIST_CNN = {"name": "mnist-cnn", "input_noise": 0.0, "delta": 0.005}
SVHN_CNN = {"name": "conv-large", "norm_momentum": 0.001, "dropout2": 0.0, "p": 0.0, "delta": 0.05}
AUTHORS_SVHN_CNN = {
    **SVHN_CNN,
    "norm_momentum": 0.01,
    "dropout2": 0.5,
    "norm_logits": True,
    "input_noise": 0.0,
    "rescale": "sum",
}
AUTHORS_CIFAR_CNN = {
    **AUTHORS_SVHN_CNN,
    "norm": "mean-only",
    "norm_logits": False,
    "input_noise": 0.15,
    "noise_in_evaluation": True,
}
OWN_CNN = {"name": "conv-large", "width": 32, "delta": 3 / 32}
THE_AUTOENCODER = {"name": "autoencoder", "width": 256, "input_noise": 0.0, "delta": 0.3}
MNIST = {"name": "mnist", "labelled": None, "overlap": False}
SVHN = {**MNIST, "name": "svhn", "centre": True, "translate": 2}
AUTHORS_SVHN = {**SVHN, "overlap": True}
AUTHORS_CIFAR = {**AUTHORS_SVHN, "name": "cifar10", "labelled": 4000, "whiten": True, "flip": True}
OWN_IMAGES = {"name": "images", "labelled": None, "centre": True, "translate": 2}
B1 = {"epochs": 100, "learning_rate": 0.001, "ramp_up": 30, "ramp_down": 0}
B2 = {
    "epochs": 300,
    "learning_rate": 0.003,
    "ramp_up": 80,
    "ramp_up_learning_rate": True,
    "ramp_down": 50,
    "beta1_end": 0.5,
}
FIGURES = {
    "epochs": 20,
    "batch_labelled": 128,
    "batch_unlabelled": 0,
    "learning_rate": 0.001,
    "ramp_up": 0,
    "ramp_down": 0,
}
OWN = {
    "epochs": 25,
    "steps_per_epoch": 20,
    "batch_labelled": 16,
    "batch_unlabelled": 48,
    "learning_rate": 0.003,
    "ramp_up": 8,
    "ramp_down": 8,
}
TINY = {"epochs": 2, "steps_per_epoch": 1, "ramp_up": 1, "ramp_down": 1}
FEW = {"batch_unlabelled": 96, "steps_per_epoch": 468}
ALL = {"batch_labelled": 100, "batch_unlabelled": 0}


@pytest.mark.parametrize(
    ("preset", "method", "scale", "parts"),
    [
        ("digits-100", "plain", "quick", {}),  # A ramp-up that nothing follows, and a δ.
        ("digits-100", "plain", "tiny", {"training": TINY}),
        (
            "digits-100",
            "sadd",
            "quick",
            {"terms": ({"kind": "sadd", "weight": 3.0, "divergence": "ce"},)},
        ),
        (
            "digits-100",
            "vadd-qe+vat",
            "quick",
            {
                "model": {"delta": 12 / 256},
                "terms": ({"kind": "vadd", "weight": 10.0, "divergence": "qe"}, {"kind": "vat", "eps": 0.25}),
            },
        ),
        (
            "paper/mnist-1000",
            "at",
            "paper",
            {
                "data": {**MNIST, "labelled": 1000},
                "model": MNIST_CNN,
                "training": {**B1, **FEW},
                "terms": ({"kind": "at", "divergence": "ce", "eps": 0.1},),
            },
        ),
        (
            "paper/mnist-all",
            "vadd-qe",
            "quick",
            {
                "data": MNIST,
                "model": MNIST_CNN,
                "training": {
                    **{**B1, **ALL, "batch_labelled": 128},
                    **{"epochs": 10, "steps_per_epoch": 240, "ramp_up": 3},
                },
                "terms": ({"kind": "vadd", "weight": 30.0, "divergence": "qe"},),
            },
        ),
        (
            "paper/svhn-1000",
            "sadd",
            "paper",
            {
                "data": {**SVHN, "labelled": 1000},
                "model": SVHN_CNN,
                "training": B2,
                "terms": ({"kind": "sadd", "divergence": "ce"},),
            },
        ),
        # No unlabelled images that the labelled ones could be among, and no mask that could be rescaled.
        ("paper/svhn-all", "plain", "paper", {"data": SVHN, "model": SVHN_CNN, "training": {**B2, **ALL}}),
        (
            "authors/svhn-all",
            "pi",
            "paper",
            {
                "data": AUTHORS_SVHN,
                "model": AUTHORS_SVHN_CNN,
                "training": {**B2, **ALL},
                "terms": ({"kind": "pi", "weight": 25.0, "divergence": "qe"},),
            },
        ),
        (
            "authors/cifar10-4000",
            "vadd-kl+vat",
            "paper",
            {
                "data": AUTHORS_CIFAR,
                "model": AUTHORS_CIFAR_CNN,
                "training": {**B2, "steps_per_epoch": 400},
                "terms": (
                    {"kind": "vadd"},
                    {"kind": "vat", "eps": 8.0, "xi": 1e-6, "ramp": False},
                    {"kind": "entmin", "ramp": False},
                ),
            },
        ),
        (
            "paper/autoencoder",
            "none",
            "paper",
            {
                "data": {"name": "mnist", "labelled": None},
                "model": {**THE_AUTOENCODER, "p": 0.0},
                "training": FIGURES,
            },
        ),
        (
            "paper/autoencoder",
            "dropout+add",
            "paper",
            {
                "data": {"name": "mnist", "labelled": None},
                "model": THE_AUTOENCODER,
                "training": FIGURES,
                "terms": ({"kind": "vadd", "weight": 0.2, "divergence": "se", "noise": "shared", "ramp": False},),
            },
        ),
    ],
)
def test_earlier_records_of_the_presets(preset: str, method: str, scale: Scale, parts: dict[str, Any]) -> None:
    plain = earlier(preset, method, scale, **parts)
    kept = json.loads(json.dumps(plain))
    assert ExperimentConfig.from_dict(kept) == presets.get(preset, method, scale, 3)
    assert kept == plain, "it stays as it was"


@pytest.mark.parametrize(
    ("method", "term", "expected"),
    [
        # Nothing rises, although there is a term.
        ("at", {"kind": "at", "divergence": "ce", "eps": 8 / 255, "ramp": False}, At(eps=8 / 255, ramp=False)),
        ("vadd-kl", {"kind": "vadd"}, Vadd()),
    ],
)
def test_earlier_records_of_ones_own_images(method: str, term: dict[str, Any], expected: Term) -> None:
    """The preset has other settings since; the record keeps those of the run."""
    plain = earlier("images", method, "quick", data=OWN_IMAGES, model=OWN_CNN, training=OWN, terms=(term,))
    assert ExperimentConfig.from_dict(plain) == ExperimentConfig.of(
        preset="images",
        method=method,
        scale="quick",
        seed=3,
        data=DataConfig(**cast(dict[str, Any], OWN_IMAGES)),
        model=ConvLarge(width=32, delta=3 / 32),
        training=TrainingConfig(**cast(dict[str, Any], OWN)),
        terms=by_kind(expected),
    )


def test_the_settings_of_an_earlier_record_are_those_of_its_network_and_terms() -> None:
    """Each has another value than the default, where the network or the term has the setting."""
    model = {"p": 0.25, "delta": 0.2, "rescale": "sum"}
    noisy = {**model, "input_noise": 0.3, "noise_in_evaluation": True}
    rates = {"dropout1": 0.125, "dropout2": 0.75}
    terms = ({"kind": "vat", "weight": 2.0, "divergence": "qe", "eps": 0.5, "xi": 1e-3, "ramp": False},)
    shared = ({"kind": "vadd", "divergence": "ce", "noise": "shared"},)

    def read(model: dict[str, Any], *terms: dict[str, Any], **training: Any) -> ExperimentConfig:
        return ExperimentConfig.from_dict(earlier(model=model, training=training, terms=terms))

    found = read({"name": "mnist-cnn", "kernel_size": 5, **noisy, **rates}, *shared, *terms)
    assert found.model == MnistCnn(
        kernel_size=5,
        input_noise=0.3,
        noise_in_evaluation=True,
        p=0.25,
        delta=0.2,
        rescale="sum",
        dropout1=0.125,
        dropout2=0.75,
    )
    assert list(found.terms.values()) == [
        Vadd(divergence="ce", noise="shared"),
        Vat(weight=2.0, divergence="qe", eps=0.5, xi=1e-3, ramp=False),
    ]
    norm = {"width": 7, "norm": "mean-only", "norm_momentum": 0.5, "norm_logits": True}
    assert read({"name": "conv-large", **norm, **model, **rates}).model == ConvLarge(
        width=7,
        norm="mean-only",
        norm_momentum=0.5,
        norm_logits=True,
        p=0.25,
        rescale="sum",
        dropout1=0.125,
        dropout2=0.75,
    )
    normal = {"name": "autoencoder", "width": 7, "initialization": "normal", **model}
    assert read(normal, batch_unlabelled=0).model == Autoencoder(
        width=7, initialization="normal", p=0.25, rescale="sum"
    )
    assert read({}, {"kind": "pi", "divergence": "qe"}, beta1=0.5, beta1_end=0.25).training.last_beta1 == 0.25
    assert read({}, {"kind": "pi", "divergence": "qe"}, beta1=0.5, beta1_end=0.5).training.beta1_end is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"terms": ({"kind": "at", "divergence": "qe"},)}, "got divergence='qe' of terms.at"),
        ({"terms": ({"kind": "at", "linearize_at": "base"},)}, "got linearize_at='base' of terms.at"),
        ({"terms": ({"kind": "pi", "noise": "shared"},)}, "got noise='shared' of terms.pi"),
        ({"terms": ({"kind": "sadd", "divergence": "ce", "eps": 0.5},)}, "got eps=0.5 of terms.sadd"),
        ({"terms": ({"kind": "entmin", "xi": 1e-6},)}, "got xi=1e-06 of terms.entmin"),
        ({"model": {"name": "mnist-cnn", "norm_momentum": 0.5}}, "got norm_momentum=0.5 of mnist-cnn"),
        ({"model": {"name": "mnist-cnn", "width": 7}}, "got width=7 of mnist-cnn"),
        ({"model": {"name": "conv-large", "kernel_size": 5}}, "got kernel_size=5 of conv-large"),
        ({"model": {"dropout1": 0.25}}, "got dropout1=0.25 of small-cnn"),
        ({"model": {"initialization": "normal"}}, "got initialization='normal' of small-cnn"),
        ({"model": {"granularity": "channel"}}, "got granularity='channel' of small-cnn"),
        ({"model": {**THE_AUTOENCODER, "input_noise": 0.3}}, "got input_noise=0.3 of autoencoder"),
        ({"model": {"depth": 3}}, "got depth=3 of small-cnn"),
    ],
)
def test_an_earlier_record_that_says_what_no_run_has_done(parts: dict[str, Any], message: str) -> None:
    says = f"expected a config that says what its run did, {message}, which had no such setting; delete the run and"
    with pytest.raises(InvalidValueError, match=re.escape(says)):
        ExperimentConfig.from_dict(earlier(**parts))


@pytest.mark.parametrize(("kind", "divergence"), [("at", "kl"), ("at", "ce"), ("sadd", "kl"), ("sadd", "ce")])
def test_an_earlier_record_of_a_comparison_with_labels(kind: str, divergence: str) -> None:
    """KL to labels is the cross-entropy, and AT had no other."""
    read = ExperimentConfig.from_dict(earlier(terms=({"kind": kind, "divergence": divergence},)))
    assert read.terms == by_kind({"at": At(eps=1.0), "sadd": Sadd(divergence="ce")}[kind])


def test_an_earlier_record_with_the_only_point_of_linearisation() -> None:
    read = ExperimentConfig.from_dict(earlier(terms=({"kind": "vadd", "linearize_at": "ones"},)))
    assert read.terms == by_kind(Vadd())


def test_a_record_from_before_optimizer_and_initialization_could_be_chosen() -> None:
    for model in ({}, THE_AUTOENCODER):
        plain = earlier(model=model, training={"batch_unlabelled": 0})
        del plain["training"]["optimizer"], plain["training"]["precision"], plain["model"]["initialization"]
        read = ExperimentConfig.from_dict(plain)
        assert read == ExperimentConfig.from_dict(earlier(model=model, training={"batch_unlabelled": 0}))
        assert (read.training.optimizer, read.training.precision) == ("adam", "float32")
    assert isinstance(read.model, Autoencoder)
    assert read.model.initialization == "he"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small-cnn", SmallCnn()),
        ("mnist-cnn", MnistCnn(dropout1=0.0, dropout2=0.0)),
        ("conv-large", ConvLarge(dropout1=0.5, dropout2=0.5)),
    ],
)
def test_a_record_from_before_drop1_and_drop2(name: str, expected: Network) -> None:
    """mnist-cnn had no such layers then, conv-large always had both."""
    plain = earlier(model={"name": name})
    del plain["model"]["dropout1"], plain["model"]["dropout2"]
    assert ExperimentConfig.from_dict(plain).model == expected


def test_differences_name_each_changed_field() -> None:
    old = risen(Pi(weight=30.0), seed=1).to_dict()
    training = TrainingConfig(epochs=7, steps_per_epoch=3)
    new = risen(Vadd(weight=2.0), seed=2, model=SmallCnn(delta=0.1), training=training).to_dict()
    assert differences(old, new) == [
        "model.delta: None → 0.1",
        "seed: 1 → 2",
        "terms: pi → vadd",
        "training.epochs: 50 → 7",
        "training.steps_per_epoch: None → 3",
    ]
    assert differences(old, config(seed=1).to_dict()) == ["terms: pi → none", "training.ramp_up: 20 → 0"]
    assert differences(old, risen(Pi(weight=3.0), seed=1).to_dict()) == ["terms.pi.weight: 30.0 → 3.0"]


def test_differences_name_the_network() -> None:
    lines = differences(config().to_dict(), config(model=MnistCnn()).to_dict())
    assert "model.name: small-cnn → mnist-cnn" in lines
    assert "model.kernel_size: None → 3" in lines


def test_differences_from_an_earlier_record_that_cannot_be_read() -> None:
    old = earlier(terms=({"kind": "at", "divergence": "qe"},))
    lines = differences(old, risen(At(weight=2.0)).to_dict())
    assert "terms.at.divergence: qe → None" in lines
    assert "terms.at.weight: 1.0 → 2.0" in lines
    assert "terms: at → none" in differences(old, config().to_dict())


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
        MnistCnn(kernel_size=2)


def test_rows_of_an_earlier_version_have_the_names_of_today() -> None:
    rows = [{"epoch": 1.0, "se": 0.5, "vadd": 0.25}]
    assert upgraded_rows(rows, {"add": Add()}) == [{"epoch": 1.0, "se": 0.5, "add": 0.25}]
    assert upgraded_rows(rows, {"vadd": Vadd()}) == rows


def test_an_earlier_run_with_the_search_that_is_gone() -> None:
    with pytest.raises(InvalidValueError, match=r"terms\.vadd to be trained with today's search"):
        ExperimentConfig.from_dict(earlier(terms=({"kind": "vadd", "linearize_at": "base"},)))


def test_what_a_preset_gave_to_a_network_without_it_had_no_effect() -> None:
    model = {"name": "small-cnn", "width": 32, "norm": "mean-only", "norm_momentum": 0.001, "norm_logits": True}
    assert isinstance(ExperimentConfig.from_dict(earlier(model=model)).model, SmallCnn)

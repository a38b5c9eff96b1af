"""AdversarialDropoutClassifier: scikit-learn's own checks, each feature, learning from unlabelled rows."""

import pickle
import re
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_blobs, make_moons
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from adversarial_dropout import AdversarialDropout, MeanTeacher
from adversarial_dropout.integrations import semi_supervised
from adversarial_dropout.integrations.sklearn import EXPECTED_FAILED_CHECKS, AdversarialDropoutClassifier

Rows = tuple[Any, Any]


def small(**changed: Any) -> AdversarialDropoutClassifier:
    """A classifier that trains in a moment."""
    settings = {"hidden_layer_sizes": (40,), "max_iter": 5, "learning_rate": 1e-2, "random_state": 0}
    return AdversarialDropoutClassifier(**{**settings, **changed})


@pytest.fixture(scope="module")
def iris() -> Rows:
    x, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(x).astype(np.float32), y


@pytest.fixture
def few(iris: Rows) -> Rows:
    """Iris with a label for every fifth row."""
    x, y = iris
    return x, np.where(np.arange(len(y)) % 5 == 0, y, -1)


@pytest.mark.filterwarnings("ignore")  # Some of the checks warn on purpose.
def test_scikit_learns_checks() -> None:
    results = check_estimator(
        small(max_iter=8, learning_rate=3e-2), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_skip=None
    )
    assert {one["check_name"] for one in results if one["status"] == "xfail"} == set(EXPECTED_FAILED_CHECKS)
    assert len(results) > 40


def test_it_learns_iris_and_says_how(few: Rows, iris: Rows) -> None:
    model = small(max_iter=40).fit(*few)
    assert model.score(*iris) > 0.85
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.n_features_in_ == 4
    assert model.n_iter_ == len(model.loss_curve_) == 40
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.validation_scores_ is None
    probabilities = model.predict_proba(iris[0])
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(iris[0])).all()


def hidden_labels(x: Any, y: Any, shown: int) -> tuple[Rows, Rows, Rows]:
    """Half of the rows with ``shown`` labels of each class; these rows alone; the other half, to test."""
    n = len(y) // 2
    kept = np.concatenate([np.flatnonzero(y[:n] == label)[:shown] for label in np.unique(y)])
    known = np.where(np.isin(np.arange(n), kept), y[:n], -1)
    return (x[:n], known), (x[kept], y[kept]), (x[n:], y[n:])


@pytest.mark.parametrize("method", ["vadd-kl", "vadd-qe"])
def test_unlabelled_rows_help_adversarial_dropout(method: str) -> None:
    gains = []
    for seed in range(3):
        x, y = make_blobs(600, 100, centers=2, cluster_std=2.0, center_box=(-1, 1), random_state=seed)
        train, labelled, test = hidden_labels(x, y, shown=3)
        settings: dict[str, Any] = {"hidden_layer_sizes": (128,), "learning_rate": 3e-3, "max_iter": 60}
        adversarial = small(method=method, **settings).fit(*train).score(*test)
        plain = small(method="plain", **settings).fit(*train).score(*test)
        alone = small(method=method, **{**settings, "max_iter": 180}).fit(*labelled).score(*test)
        gains.append((adversarial - plain, adversarial - alone))
    assert np.min(gains) > 0.03
    assert np.mean(gains, axis=0).min() > 0.06


def test_unlabelled_rows_bend_the_boundary_between_two_moons() -> None:
    x, y = make_moons(500, noise=0.12, random_state=0)
    train, labelled, test = hidden_labels(StandardScaler().fit_transform(x), y, shown=4)
    settings: dict[str, Any] = {"eps": 0.3, "max_iter": 150, "hidden_layer_sizes": (128, 128)}
    vat = small(method="vat", **settings).fit(*train).score(*test)
    assert vat > small(method="plain", **settings).fit(*train).score(*test) + 0.08
    assert vat > small(method="vat", **settings).fit(*labelled).score(*test) + 0.08


@pytest.mark.parametrize("method", ["plain", *semi_supervised.METHODS, "vadd-kl+vat", "sadd+pi"])
def test_every_method_trains(method: str, few: Rows) -> None:
    model = small(method=method, max_iter=10, hidden_layer_sizes=(64,), eps=0.2).fit(*few)
    assert model.score(*few) > 0.7
    plain = small(method="plain", max_iter=10, hidden_layer_sizes=(64,)).fit(*few)
    assert (method == "plain") == (model.predict_proba(few[0]) == plain.predict_proba(few[0])).all()


def test_the_loss_is_the_likelihood_plus_the_weighted_terms(few: Rows) -> None:
    """Without ramp, dropout and learning, by hand."""
    x, y = torch.from_numpy(few[0]), torch.from_numpy(few[1])
    network = nn.Linear(4, 3)
    model = small(method="entmin", module=network, weight=3.0, ramp_up=0, learning_rate=1e-12, max_iter=1)
    model.set_params(batch_size=150, batch_size_unlabeled=150).fit(*few)
    log_p = network(x).log_softmax(dim=1)
    likelihood = -log_p[y >= 0, y[y >= 0]].mean()
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    assert model.loss_curve_[0] == pytest.approx((likelihood + 3 * entropy).item(), rel=1e-5)


def test_a_step_takes_its_rate_and_its_share_of_the_weight(few: Rows) -> None:
    x, y = torch.from_numpy(few[0]), torch.from_numpy(few[1])
    rows = torch.arange(0, 150, 5)
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    (term,) = semi_supervised.terms_of(["entmin"], model, 4.0, 1.0)
    log_p = model(x[rows]).log_softmax(dim=1)
    expected = -log_p.gather(1, y[rows, None]).mean() - 0.5 * 4 * (log_p.exp() * log_p).sum(dim=1).mean()
    expected.backward()
    drawn = semi_supervised.batches(rows, 30), semi_supervised.batches(rows, 30)
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    loss = semi_supervised.train_epoch(model, optimizer, [(0.1, 0.5)], x, y, *drawn, [term])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight, before - 0.1 * model.weight.grad)


def test_the_teacher_follows_the_network(few: Rows) -> None:
    x, y = torch.from_numpy(few[0]), torch.from_numpy(few[1])
    model = nn.Linear(4, 3)
    (term,) = semi_supervised.terms_of(["mean-teacher"], model, None, 1.0)
    before = model.weight.detach().clone()
    rows = torch.arange(0, 150, 5)
    drawn = semi_supervised.batches(rows, 30), semi_supervised.batches(rows, 30)
    semi_supervised.train_epoch(model, torch.optim.Adam(model.parameters()), [(0.1, 1.0)], x, y, *drawn, [term])
    assert isinstance(term.regularizer, MeanTeacher)
    torch.testing.assert_close(term.regularizer.teacher.get_parameter("weight"), (before + model.weight.detach()) / 2)


def test_weight_and_rate_follow_their_schedule() -> None:
    model = small(ramp_up=0.5, learning_rate=0.1)
    assert model._rate_and_share(0.0) == (0.1, 0.0)
    rate, share = model._rate_and_share(0.25)
    assert share == 0.5
    assert rate == pytest.approx(0.1 * (2 + 2**0.5) / 4)
    assert model._rate_and_share(0.75)[1] == 1
    assert small(early_stopping=True, ramp_up=0)._rate_and_share(0.75) == (0.01, 1.0)


def test_batches_take_turns() -> None:
    drawn = semi_supervised.batches(torch.arange(10, 17), 3)
    seen = torch.cat([next(drawn) for _ in range(7)])
    assert all(sorted(part.tolist()) == list(range(10, 17)) for part in torch.split(seen, 7))
    assert sorted(next(semi_supervised.batches(torch.arange(2), 5)).tolist()) == [0, 1]


NAMES = np.array(["setosa", "versicolor", "virginica"])


def with_gaps(labels: Any, gap: object) -> Any:
    return np.array([label if i % 5 == 0 else gap for i, label in enumerate(labels)], dtype=object)


@pytest.mark.parametrize(
    ("convert", "unlabeled", "classes"),
    [
        (lambda y: list(with_gaps(NAMES[y].tolist(), -1)), -1, NAMES),
        (lambda y: with_gaps(NAMES[y].tolist(), -1), -1, NAMES),
        (lambda y: with_gaps(NAMES[y].tolist(), "unknown").astype(str), "unknown", NAMES),
        (lambda y: with_gaps(NAMES[y].tolist(), None), None, NAMES),
        (lambda y: pd.Series(with_gaps(NAMES[y].tolist(), None)), None, NAMES),
        (lambda y: pd.Series(with_gaps(NAMES[y].tolist(), None), dtype="string"), None, NAMES),
        (lambda y: pd.Series(with_gaps(NAMES[y].tolist(), None), dtype="category"), np.nan, NAMES),
        (lambda y: with_gaps(y.tolist(), np.nan).astype(float), np.nan, [0.0, 1.0, 2.0]),
        (lambda y: with_gaps(y.tolist(), np.nan).astype(float), None, [0.0, 1.0, 2.0]),
        (lambda y: pd.Series(with_gaps(y.tolist(), pd.NA), dtype="Int64"), None, [0, 1, 2]),
        (lambda y: with_gaps((y - 2).tolist(), 99).astype(int), 99, [-2, -1, 0]),
        (lambda y: with_gaps(y.tolist(), -1).astype(np.int8), -1, [0, 1, 2]),
        (lambda y: with_gaps((y == 0).tolist(), None), None, [False, True]),
        (lambda y: with_gaps((y == 0).tolist(), -1).tolist(), -1, [0, 1]),
        (lambda y: y == 0, -1, [False, True]),
        (lambda y: y, -1, [0, 1, 2]),
    ],
)
def test_labels_of_any_dtype(convert: Callable[[Any], Any], unlabeled: object, classes: Any, iris: Rows) -> None:
    x, y = iris
    labels = convert(y)
    model = small(unlabeled=unlabeled, max_iter=20).fit(x, labels)
    assert model.classes_.tolist() == list(classes)
    assert set(model.predict(x)) <= set(classes)
    assert model.score(x, labels) > 0.8


def test_the_same_seed_gives_the_same_bits(few: Rows) -> None:
    x = few[0]
    first, again, other = (
        small(method="vadd-kl+vat", random_state=seed).fit(*few).predict_proba(x) for seed in (7, 7, 8)
    )
    assert (first == again).all()
    assert (first != other).any()
    state = np.random.RandomState(7)
    assert (small(method="vadd-kl+vat", random_state=state).fit(*few).predict_proba(x) == first).all()
    assert (
        small(random_state=None).fit(*few).predict_proba(x) != small(random_state=None).fit(*few).predict_proba(x)
    ).any()


def test_the_number_of_threads_does_not_matter_here(few: Rows) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(small().fit(*few).predict_proba(few[0]))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("seed", [None, 3])
def test_global_generators_are_left_alone(seed: int | None, few: Rows) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    model = small(method="vadd-kl+vat", random_state=seed, early_stopping=True, validation_fraction=0.5).fit(*few)
    model.predict(few[0])
    assert (torch.rand(3) == expected[0]).all()
    assert (np.random.rand(3) == expected[1]).all()
    torch.manual_seed(2)  # The user's seed does not matter either.
    assert seed is None or (
        small(random_state=seed).fit(*few).loss_curve_ == small(random_state=seed).fit(*few).loss_curve_
    )


def until(epochs: int, schedule: Callable[[float], tuple[float, float]]) -> Callable[[float], tuple[float, float]]:
    """A schedule that ends with ``StopIteration`` after some of 100 epochs."""

    def of(done: float) -> tuple[float, float]:
        if done > epochs / 100 - 1e-9:
            raise StopIteration
        return schedule(done)

    return of


def test_early_stopping_returns_to_the_best_epoch(few: Rows) -> None:
    model = small(early_stopping=True, validation_fraction=0.4, n_iter_no_change=3, max_iter=100).fit(*few)
    scores = model.validation_scores_
    assert scores is not None
    assert model.n_iter_ == len(scores) == len(model.loss_curve_) < 100
    assert scores.index(max(scores)) == len(scores) - 1 - 3
    ended = small(early_stopping=True, validation_fraction=0.4, max_iter=100)
    ended._rate_and_share = until(len(scores) - 3, ended._rate_and_share)  # type: ignore[assignment, method-assign]
    with pytest.raises(StopIteration):
        ended.fit(*few)
    assert (model.predict_proba(few[0]) == ended.predict_proba(few[0])).all()


def test_validation_rows_are_not_trained_on(few: Rows) -> None:
    x, y = few
    split = small(early_stopping=True, validation_fraction=0.4)
    rows = np.flatnonzero(y != -1)
    train, held = split._split(rows, y[rows], 3, seed=5)
    assert sorted([*train, *held]) == rows.tolist()
    assert np.bincount(y[held]).min() == 4
    changed = x.copy()
    _, held = split._split(rows, y[rows], 3, split._seeds()[1])
    changed[held] = 100.0
    assert split.fit(x, y).loss_curve_[:1] == split.fit(changed, y).loss_curve_[:1]


def test_warm_start_goes_on(few: Rows) -> None:
    model = small(warm_start=True).fit(*few)
    first = model.loss_curve_[:]
    module = model.module_
    model.fit(*few)
    assert model.module_ is module
    assert model.n_iter_ == 10
    assert model.loss_curve_[:5] == first
    assert model.loss_curve_[5] < first[0]
    cold = small().fit(*few)
    assert cold.fit(*few).n_iter_ == 5
    with pytest.raises(ValueError, match=r"expected the classes of the last fit, \[0, 1, 2\].* got \[0, 1\]"):
        model.fit(few[0][:100], few[1][:100])


def test_names_of_a_data_frame(few: Rows) -> None:
    frame = pd.DataFrame(few[0], columns=list("abcd"))
    model = small().fit(frame, few[1])
    assert model.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))
    assert (model.predict_proba(frame) == small().fit(*few).predict_proba(few[0])).all()


def test_pickle_joblib_and_clone(few: Rows, tmp_path: Any) -> None:
    model = small(warm_start=True).fit(*few)
    joblib.dump(model, tmp_path / "model.joblib")
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        assert (copied.predict_proba(few[0]) == model.predict_proba(few[0])).all()
        assert copied.fit(*few).n_iter_ == 10
    untrained = clone(model)
    assert not hasattr(untrained, "module_")
    assert untrained.get_params() == model.get_params()


def test_grid_search_and_pipeline(few: Rows, iris: Rows) -> None:
    pipeline = make_pipeline(StandardScaler(), small(max_iter=10))
    grid = {"adversarialdropoutclassifier__method": ["plain", "vadd-kl"]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(*few)
    assert search.best_score_ > 0.7
    assert search.score(*iris) > 0.75
    assert cross_val_score(small(max_iter=10), *few, cv=3, error_score="raise").min() > 0.6


def images() -> Rows:
    x, y = load_digits(return_X_y=True)
    return (x[:120].reshape(-1, 1, 8, 8) / 16).astype(np.float32), np.where(np.arange(120) < 60, y[:120], -1)


def test_images_go_through_convolutions() -> None:
    x, y = images()
    model = small(max_iter=30, hidden_layer_sizes=64).fit(x, y)
    assert any(isinstance(module, nn.Conv2d) for module in model.module_.modules())
    assert model.score(x, y) > 0.8
    assert model.n_features_in_ == 1
    with pytest.raises(ValueError, match=r"expected rows of shape \(1, 8, 8\), as in fit, got \(1, 8, 9\)"):
        model.predict(np.zeros((2, 1, 8, 9)))
    with pytest.raises(TypeError, match=r"expected floating pixels, got uint8 .* pass X / 255"):
        model.fit((255 * x).astype(np.uint8), y)


class Cnn(nn.Module):
    """A network of the user's."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(shape[0], 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.drop = AdversarialDropout(0.5, 0.05)
        self.head = nn.LazyLinear(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.drop(self.features(x)))
        return logits


def test_a_network_of_the_users() -> None:
    x, y = images()
    of_class = small(module=Cnn, max_iter=20).fit(x, y)
    assert isinstance(of_class.module_, Cnn)
    assert of_class.score(x, y) > 0.8
    given = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), AdversarialDropout(0.5, 0.05), nn.Linear(40, 10)).double()
    before = given.get_parameter("1.weight").clone()
    of_instance = small(module=given, max_iter=20).fit(x, y)
    assert torch.equal(given.get_parameter("1.weight"), before), "it trains a copy"
    assert of_instance.score(x, y) > 0.8
    assert len(clone(of_instance).module) == 4
    started = small(module=given, learning_rate=1e-12, max_iter=1).fit(x, y).module_
    assert torch.allclose(started.get_parameter("1.weight").double(), before), "from the given weights"


def test_it_says_what_it_does(few: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    small(verbose=True, max_iter=2, early_stopping=True, validation_fraction=0.3).fit(*few)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"epoch 1 of 2: loss \d\.\d{4}, validation accuracy [01]\.\d{4}", first)
    assert second.startswith("epoch 2 of 2: ")
    small(max_iter=2).fit(*few)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("hidden", [(), 30, (30, 40), np.array([30])])
def test_hidden_layers(hidden: Any, few: Rows) -> None:
    model = small(hidden_layer_sizes=hidden, delta=0.3).fit(*few)
    linear = [module.out_features for module in model.module_.modules() if isinstance(module, nn.Linear)]
    assert linear == [*np.atleast_1d(hidden), 3]


def test_score_leaves_out_rows_without_a_label(iris: Rows, few: Rows) -> None:
    model = small(max_iter=20).fit(*few)
    labelled = few[1] != -1
    right = model.predict(iris[0])[labelled] == few[1][labelled]
    assert model.score(*few) == right.mean()
    weights = np.arange(150)
    assert model.score(*few, sample_weight=weights) == pytest.approx(np.average(right, weights=weights[labelled]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(few: Rows) -> None:
    torch.cuda.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    model = small(device="cuda", max_iter=40).fit(*few)
    assert (torch.rand(3, device="cuda") == expected).all()
    assert next(model.module_.parameters()).is_cuda
    assert model.score(*few) > 0.85

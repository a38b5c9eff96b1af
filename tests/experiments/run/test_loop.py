"""One run: what it sees, what it writes, what it leaves alone, and how it resumes."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import models, records
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.records import Metrics
from adversarial_dropout.experiments.run import checkpoint, loop
from adversarial_dropout.experiments.run import run as under_way
from adversarial_dropout.experiments.run.step import Batch, Objective
from adversarial_dropout.experiments.trained.evaluation import error

from ..runs import StoppedError, interrupt, seen, small, trained


@dataclasses.dataclass
class Watch:
    """What the objective was given, step by step."""

    batches: list[Batch] = dataclasses.field(default_factory=list)
    ramps: list[float] = dataclasses.field(default_factory=list)
    initial: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    threads: set[int] = dataclasses.field(default_factory=set)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()

    class Watched(Objective):
        def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            assert self.model.training
            if not watch.batches:
                watch.initial = {name: value.clone() for name, value in self.model.state_dict().items()}
            watch.batches.append(batch)
            watch.ramps.append(float(ramp))
            watch.threads.add(torch.get_num_threads())
            return super().forward(batch, ramp)

    monkeypatch.setattr(under_way, "Objective", Watched)
    return watch


def test_what_a_step_sees(watch: Watch, tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=1, steps=11)
    loop.run(config, tmp_path)
    data = sources.digits()
    split = make_split(data, config.data, config.seed)

    def keys(images: Tensor) -> list[bytes]:
        return [image.numpy().tobytes() for image in images]

    label_of = dict(zip(keys(seen(data, split.labelled)), data.labels[split.labelled].tolist(), strict=True))
    unlabelled = keys(seen(data, split.unlabelled))
    assert len(watch.batches) == 11
    seen_labelled, seen_unlabelled = [], []
    for batch in watch.batches:
        assert batch.images.shape == (32, 1, 8, 8)
        assert batch.unlabelled is not None
        assert batch.unlabelled.shape == (128, 1, 8, 8)
        assert batch.second is None, "without augmentation there is one view"
        assert [label_of[image] for image in keys(batch.images)] == batch.labels.tolist()
        seen_labelled += keys(batch.images)
        seen_unlabelled += keys(batch.unlabelled)
    # One permutation after the other: each row once in every pass.
    for number in range(3):
        assert sorted(seen_labelled[100 * number : 100 * number + 100]) == sorted(label_of)
    assert sorted(seen_unlabelled[:1297]) == sorted(unlabelled)
    assert seen_labelled[:100] != seen_labelled[100:200], "each pass has an order of its own"


def test_an_epoch_is_one_pass_if_nothing_else_is_said(watch: Watch, tmp_path: Path) -> None:
    config = small("pi", epochs=1)
    loop.run(dataclasses.replace(config, training=dataclasses.replace(config.training, steps_per_epoch=None)), tmp_path)
    assert len(watch.batches) == 1297 // 128


@dataclasses.dataclass
class Settings:
    """Adam's learning rate and β₁ at each step."""

    rates: list[float] = dataclasses.field(default_factory=list)
    betas: list[tuple[float, float]] = dataclasses.field(default_factory=list)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    watched = Settings()
    real = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *arguments: Any) -> Any:
        (group,) = self.param_groups
        watched.rates.append(group["lr"])
        watched.betas.append(group["betas"])
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return watched


def scheduled(**training: Any) -> ExperimentConfig:
    """Six epochs of a step: four of ramp-up, three of ramp-down."""
    config = small("pi", epochs=6, steps=1, learning_rate=2e-3)
    return config.changed(training=dataclasses.replace(config.training, **{"ramp_up": 4, "ramp_down": 3, **training}))


# exp(-5 (1 - T)²) for T = 0, 1/4, 1/2, 3/4, and exp(-12.5 T²) for T = 1/3, 2/3.
UP = [0.006737946999085467, 0.060054667895307945, 0.2865047968601901, 0.7316156289466418, 1.0, 1.0]
DOWN = [1.0, 1.0, 1.0, 1.0, 0.24935220877729622, 0.003865920139472808]


@pytest.mark.parametrize("rises", [False, True])
@pytest.mark.parametrize(("beta1", "end"), [(0.9, 0.9), (0.9, 0.5), (0.0, 0.75)])
def test_schedules_are_followed(
    rises: bool, beta1: float, end: float, watch: Watch, settings: Settings, tmp_path: Path
) -> None:
    loop.run(scheduled(ramp_up_learning_rate=rises, beta1=beta1, beta1_end=end), tmp_path)
    assert watch.ramps == pytest.approx(UP, rel=1e-12)
    expected = [2e-3 * down * (up if rises else 1.0) for up, down in zip(UP, DOWN, strict=True)]
    assert settings.rates == pytest.approx(expected, rel=1e-12)
    assert [first for first, _ in settings.betas] == pytest.approx(
        [beta1 * down + end * (1 - down) for down in DOWN], rel=1e-12
    )
    assert {second for _, second in settings.betas} == {0.999}


def test_ramps_that_overlap_multiply(settings: Settings, tmp_path: Path) -> None:
    # Both take all six epochs, although ten are asked for: exp(-5 (1 - T)²) · exp(-12.5 T²) for T = 0, 1/6, ..., 5/6.
    loop.run(scheduled(ramp_up=10, ramp_down=10, ramp_up_learning_rate=True, beta1_end=0.5), tmp_path)
    expected = [2e-3 * math.exp(-5 * (1 - k / 6) ** 2 - 12.5 * (k / 6) ** 2) for k in range(6)]
    assert settings.rates == pytest.approx(expected, rel=1e-12)
    falling = [math.exp(-12.5 * (k / 6) ** 2) for k in range(6)]
    assert [first for first, _ in settings.betas] == pytest.approx([0.5 + 0.4 * value for value in falling], rel=1e-12)


def test_without_ramps_nothing_moves(settings: Settings, watch: Watch, tmp_path: Path) -> None:
    loop.run(scheduled(ramp_up=0, ramp_down=0, ramp_up_learning_rate=True, beta1_end=0.5), tmp_path)
    assert settings.rates == [2e-3] * 6
    assert settings.betas == [(0.9, 0.999)] * 6
    assert watch.ramps == [1.0] * 6


def test_every_step_of_an_epoch_has_the_same_settings(settings: Settings, tmp_path: Path) -> None:
    loop.run(scheduled(steps_per_epoch=2, ramp_up_learning_rate=True, beta1_end=0.5), tmp_path)
    assert settings.rates[::2] == settings.rates[1::2]
    assert settings.betas[::2] == settings.betas[1::2]
    assert len(set(settings.rates)) == 6


@pytest.mark.parametrize("after", [2, 5])
def test_an_interrupted_run_goes_on_with_its_schedule(after: int, settings: Settings, tmp_path: Path) -> None:
    config = scheduled(ramp_up_learning_rate=True, beta1_end=0.5)
    loop.run(config, tmp_path / "whole")
    whole = dataclasses.replace(settings, rates=list(settings.rates), betas=list(settings.betas))
    settings.rates.clear()
    settings.betas.clear()
    interrupt(config, tmp_path / "interrupted", after=after)
    loop.run(config, tmp_path / "interrupted")
    assert settings == whole
    weights = [(tmp_path / name / records.WEIGHTS).read_bytes() for name in ("whole", "interrupted")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("validation", [0, 300])
def test_the_error_is_that_of_the_weights_that_are_kept(validation: int, tmp_path: Path) -> None:
    config = small("vadd-qe", validation=validation, steps=4)
    record = loop.run(config, tmp_path)
    data = sources.digits()
    model = models.load(config.model, data.shape, 10, tmp_path / records.WEIGHTS)
    rows = make_split(data, config.data, config.seed).evaluation
    assert len(rows) == (validation or 500)
    with torch.no_grad():
        wrong = (model(seen(data, rows)).argmax(dim=1) != data.labels[rows]).sum()
    assert record.error == pytest.approx(100 * int(wrong) / len(rows), rel=1e-12)
    assert record.final["evaluated_on"] == ("validation" if validation else "test")


@pytest.mark.parametrize(
    ("values", "kept"), [((30.0, 10.0, 20.0, 40.0), 2), ((30.0, 20.0, 20.0, 40.0), 3), ((3.0, 2.0, 1.0, 0.0), 4)]
)
def test_the_epoch_that_held_out_labels_choose_is_kept(
    values: tuple[float, ...], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation errors are given; the epoch with the lowest one, the later of equal ones, must be kept."""
    config = small("plain", epochs=4)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, choosing=0.2))
    data, given, after = sources.digits(), iter(values), []
    choosing = make_split(data, config.data, config.seed).choosing

    def judged(model: torch.nn.Module, pixels: Pixels, data: ImageData, rows: Tensor, task: Any) -> float:
        if torch.equal(rows, choosing):
            after.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return next(given)
        return error(model, pixels, data, rows, task)

    monkeypatch.setattr(under_way, "error", judged)
    record = loop.run(config, tmp_path)
    assert record.epoch == kept
    assert record.error == record.metrics[kept - 1]["error"]
    assert [row["validation error"] for row in record.metrics] == list(values)
    weights = safetensors.torch.load_file(tmp_path / records.WEIGHTS)
    assert all(torch.equal(weights[name], tensor) for name, tensor in after[kept - 1].items())
    assert record.final["held_out"] == len(choosing) == 20
    assert records.read_record(tmp_path).epoch == kept


@pytest.mark.parametrize("validation", [0, 300])
def test_no_label_is_seen_that_should_not_be(validation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("vadd-qe+vat", validation=validation)
    data = sources.digits()
    expected = trained(config, tmp_path / "expected")[records.WEIGHTS]
    split = make_split(data, config.data, config.seed)
    images, labels = torch.full_like(data.images, 9), torch.full_like(data.labels, 9)
    images[split.unlabelled] = data.images[split.unlabelled]
    labels[split.labelled] = data.labels[split.labelled]
    # The rows are the same ones: the split depends on labels, so it is patched.
    monkeypatch.setattr(under_way, "make_split", lambda *arguments: split)
    spoilt = dataclasses.replace(data, images=images, labels=labels)
    monkeypatch.setattr(sources, "load", lambda *arguments, **options: spoilt)
    assert trained(config, tmp_path / "spoilt")[records.WEIGHTS] == expected


def test_a_split_does_not_depend_on_what_it_hides(tmp_path: Path) -> None:
    data = sources.digits()
    config = small().data
    labels = data.labels.clone()
    labels[data.test] = 0
    spoilt = ImageData(data.images, labels, data.test, data.brightest, data.classes)
    assert make_split(data, config, 3).to_dict() == make_split(spoilt, config, 3).to_dict()


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    config = small("vadd-qe+vat")
    first = trained(config, tmp_path / "first")
    torch.manual_seed(123)
    torch.rand(7)
    assert trained(config, tmp_path / "second") == first


def test_other_seeds_differ_in_initialisation_split_and_order(watch: Watch, tmp_path: Path) -> None:
    starts = []
    for seed in (0, 1):
        loop.run(small("pi", seed=seed, epochs=1), tmp_path / str(seed))
        starts.append((dict(watch.initial), watch.batches[0].unlabelled))
        watch.batches.clear()
    first, second = (json.loads((tmp_path / seed / records.SPLIT).read_text()) for seed in "01")
    assert first["labelled"] != second["labelled"]
    assert first["evaluation"] == second["evaluation"]
    assert first["unlabelled"] == second["unlabelled"], "so that what differs next is the order"
    (weights, order), (other_weights, other_order) = starts
    assert order is not None
    assert other_order is not None
    assert not torch.equal(order, other_order)
    for name, value in weights.items():
        assert not torch.equal(value, other_weights[name]), f"{name} starts from the same values"


@pytest.mark.parametrize("end", ["finished", "read", "stopped", "diverged"])
def test_the_callers_randomness_and_threads_are_left_alone(end: str, watch: Watch, tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=2, learning_rate=1e30 if end == "diverged" else 3e-3)
    if end == "read":
        loop.run(config, tmp_path)
    torch.manual_seed(5)
    torch.rand(3)
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        if end == "stopped":
            interrupt(config, tmp_path, after=1)
        elif end == "diverged":
            with pytest.raises(InvalidValueError):
                loop.run(config, tmp_path)
        else:
            loop.run(config, tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert watch.threads == {1}, "the number of threads is the config's"


def test_progress_is_told_each_epoch(tmp_path: Path) -> None:
    told: list[tuple[int, Metrics]] = []
    record = loop.run(small("vadd-qe"), tmp_path, lambda epoch, row: told.append((epoch, row)))
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert [row for _, row in told] == record.metrics
    for row in record.metrics:
        assert row["loss"] >= row["ce"]


def test_metrics_are_written_before_progress_is_told(tmp_path: Path) -> None:
    def check(epoch: int, row: Metrics) -> None:
        assert records.epochs_done(tmp_path) == epoch
        state = checkpoint.load(tmp_path)
        assert state is not None
        assert state["epoch"] == epoch
        if epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        loop.run(small(), tmp_path, check)


def test_weights_are_a_plain_file_of_tensors(tmp_path: Path) -> None:
    config = small(epochs=1)
    loop.run(config, tmp_path)
    weights = safetensors.torch.load_file(tmp_path / records.WEIGHTS)
    expected = config.model.build((1, 8, 8), 10).state_dict()
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in expected.items()}


@pytest.mark.parametrize("training", [True, False])
def test_measuring_the_error_leaves_the_mode(training: bool) -> None:
    data = sources.digits()
    model = SmallCnn().build(data.shape, 10).train(training)
    rows = torch.arange(50)
    before = torch.get_rng_state()
    measured = error(model, Pixels(DataConfig(), 16), data, rows)
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before), "evaluation draws nothing"
    model.eval()
    with torch.no_grad():
        right = sum(int(model(seen(data, row.view(1))).argmax()) == int(data.labels[row]) for row in rows)
    assert measured == pytest.approx(100 - 2 * right)

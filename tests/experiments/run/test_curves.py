"""``--log tensorboard``: the curves of a run, which change nothing of it."""

import importlib
import importlib.util
import math
import sys
from pathlib import Path

import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import TrainingConfig
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.run.curves import Curves, curves, learning_rate
from adversarial_dropout.experiments.run.optimizers import ramp_down

from ..calling import fails, printed_by
from ..runs import StoppedError, arguments, interrupt, result, small, trained

Points = dict[str, list[tuple[int, float]]]

# A writer with the part of TensorBoard's interface that Accelerate uses; its files have a line a point.
FAKE = """
import pathlib

class SummaryWriter:
    def __init__(self, logdir):
        folder = pathlib.Path(logdir)
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / f"events.out.tfevents.{len(list(folder.iterdir()))}").open("w")

    def add_scalar(self, name, value, global_step=None):
        print(name, global_step, repr(value), file=self.file)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()
"""


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is not installed, tensorboardX is."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "tensorboardX.py").write_text(FAKE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(importlib.util, "find_spec", _found)


_find_spec = importlib.util.find_spec


def _found(name: str, package: str | None = None) -> object:
    return None if name == "tensorboard" else _find_spec(name, package)


def points(run: Path) -> Points:
    """All points, in the order in which they were written, by the name of their curve."""
    found: Points = {}
    for path in sorted((run / "tensorboard").iterdir()):
        for line in path.read_text().splitlines():
            name, epoch, value = line.split()
            found.setdefault(name, []).append((int(epoch), float(value)))
    return found


def expected(run: Path) -> Points:
    """The record's metrics, and the learning rate of :func:`small`'s schedule."""
    record = records.read_record(run)
    training = record.config.training
    curve = {
        name: [(epoch, row[name]) for epoch, row in enumerate(record.metrics, 1)]
        for name in record.metrics[0]
        if name != "epoch"
    }
    length = min(training.ramp_down, training.epochs)
    rates = [
        (epoch + 1, training.learning_rate * ramp_down(epoch, length, training.epochs))
        for epoch in range(training.epochs)
    ]
    return {**curve, "learning_rate": rates}


@pytest.mark.usefixtures("fake")
def test_the_curves_are_the_metrics(tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=4)
    printed = printed_by(*arguments(config, tmp_path), "--log", "tensorboard")
    run = records.run_folder(tmp_path, config)
    assert points(run) == expected(run)
    assert {"loss", "error", "learning_rate", "vadd"} <= points(run).keys()
    assert f"curves: tensorboard --logdir {run / 'tensorboard'}" in " ".join(printed.split())
    assert result(run) == trained(config, tmp_path / "without"), "not a bit differs"


@pytest.mark.usefixtures("fake")
def test_a_stopped_run_continues_its_curves(tmp_path: Path) -> None:
    config = small(epochs=4)

    class Stopping(Curves):
        def __call__(self, epochs: int, metrics: records.Metrics) -> None:
            super().__call__(epochs, metrics)
            if epochs == 2:
                raise StoppedError

    stopping = Stopping(tmp_path, config.training)
    with pytest.raises(StoppedError):
        loop.run(config, tmp_path, stopping)
    stopping.close()
    assert [epoch for epoch, _ in points(tmp_path)["error"]] == [1, 2]
    with curves("tensorboard", tmp_path, config.training) as made:
        loop.run(config, tmp_path, made)
    assert points(tmp_path) == expected(tmp_path)


@pytest.mark.usefixtures("fake")
def test_a_run_that_was_begun_without_curves(tmp_path: Path) -> None:
    config = small(epochs=3)
    run = records.run_folder(tmp_path, config)
    interrupt(config, run, after=2)
    printed_by(*arguments(config, tmp_path), "--log", "tensorboard")
    assert points(run) == expected(run)
    assert "no new curves" in printed_by(*arguments(config, tmp_path), "--log", "tensorboard")
    assert points(run) == expected(run)


@pytest.mark.usefixtures("fake")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    config = small(epochs=1)
    tmp_path.joinpath("tensorboard").write_text("")
    with pytest.raises(records.RecordError, match=f"cannot write {tmp_path / 'tensorboard'}"):
        loop.run(config, tmp_path, Curves(tmp_path, config.training))


def test_without_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidValueError, match=r"pip install 'adversarial-dropout\[tensorboard\]'"):
        Curves(tmp_path, small().training)
    code, printed = fails(capsys, *arguments(small(), tmp_path / "runs"), "--log", "tensorboard")
    assert code == 2
    assert "expected the package tensorboard for --log tensorboard, got none; pip install" in printed
    assert not (tmp_path / "runs").exists(), "nothing is trained"


def test_no_curves(tmp_path: Path) -> None:
    with curves(None, tmp_path, small().training) as made:
        assert made is None


def test_the_learning_rate_is_that_of_the_schedule() -> None:
    training = TrainingConfig(epochs=30, learning_rate=0.25, ramp_down=15)
    assert [learning_rate(training, epoch) for epoch in (0, 15)] == [0.25, 0.25]
    assert learning_rate(training, 29) == pytest.approx(0.25 * math.exp(-12.5 * (14 / 15) ** 2))


def test_with_the_package_itself(tmp_path: Path) -> None:
    if _find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    event_accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    config = small(epochs=3)
    printed_by(*arguments(config, tmp_path), "--log", "tensorboard")
    run = records.run_folder(tmp_path, config)
    read = event_accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    for name, curve in expected(run).items():
        seen = [(event.step, event.value) for event in read.Scalars(name)]
        assert seen == [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in curve]

"""The study that tunes on MNIST: a method that is tuned on another day joins the record of the others."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tune_mnist

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig


def tune(record: Path, monkeypatch: pytest.MonkeyPatch, error: float, *methods: str) -> list[ExperimentConfig]:
    """Run the study, every run with this error, and return what it would have trained."""
    trained: list[ExperimentConfig] = []

    def run_grid(configs: Sequence[ExperimentConfig], *_: object, **__: object) -> list[Any]:
        trained.extend(configs)
        return [SimpleNamespace(error=error, config=config) for config in configs]

    monkeypatch.setattr(tune_mnist, "run_grid", run_grid)
    options = ["--data", "nowhere", "--record", str(record), "--methods", *methods]
    monkeypatch.setattr(sys, "argv", ["tune_mnist", *options])
    tune_mnist.main()
    return trained


def test_methods_tuned_later_join_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "tuning.json"
    tune(record, monkeypatch, 4.0, "vadd-kl", "at")
    before = records.read_json(record)["methods"]
    trained = tune(record, monkeypatch, 3.0, "vadd-kl")
    found = records.read_json(record)
    assert (found["preset"], found["validation"]) == ("paper/mnist-1000", 5000)
    assert list(found["methods"]) == ["at", "vadd-kl"]
    assert found["methods"]["at"] == before["at"]
    assert before["vadd-kl"]["errors"] == {"noise=independent": [4.0, 4.0], "noise=shared": [4.0, 4.0]}
    assert found["methods"]["vadd-kl"] == {
        "steps": 1500,
        "seeds": [100, 101],
        "errors": {"noise=independent": [3.0, 3.0], "noise=shared": [3.0, 3.0]},
        "environment": records.environment(),
    }
    assert [(config.method, config.seed) for config in trained] == [("vadd-kl", 100), ("vadd-kl", 101)] * 2


@pytest.mark.parametrize(("name", "other"), [("preset", "paper/mnist-all"), ("validation", 1000)])
def test_a_record_of_something_else_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    record = tmp_path / "tuning.json"
    tune(record, monkeypatch, 4.0, "at")
    records.write_json(record, {**records.read_json(record), name: other})
    before = record.read_text()
    monkeypatch.setattr(tune_mnist, "measured", lambda *_: pytest.fail("trained"))
    with pytest.raises(InvalidValueError, match=f"expected a record with {name} .*, got {other!r}"):
        tune(record, monkeypatch, 3.0, "vat")
    assert record.read_text() == before

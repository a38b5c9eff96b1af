"""The benchmarks measure what they say, tried small."""

import sys
from collections.abc import Callable
from pathlib import Path

import autoencoder_grid
import fast_paths
import mask_search
import measuring
import own_models
import pytest
import step_cost
import torch
from experiments import small_data
from torch import nn

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import differences
from adversarial_dropout.experiments.models.autoencoder import Autoencoder
from adversarial_dropout.experiments.studies.autoencoders.features import MEASURES

CPU = torch.device("cpu")


def test_flop_of_a_product_and_its_gradients() -> None:
    product = 2 * 7 * 40 * 30
    layer, x = nn.Linear(40, 30), torch.randn(7, 40)
    assert measuring.flop(lambda: layer(x)) == product
    assert measuring.flop(lambda: layer(x).sum().backward()) == 2 * product
    x.requires_grad_()
    assert measuring.flop(lambda: layer(x).sum().backward()) == 3 * product


def test_flop_of_a_convolution() -> None:
    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    assert measuring.flop(lambda: layer(x)) == 2 * 2 * 8 * 8 * 5 * 3 * 9


def test_peak_is_what_is_held_at_one_time() -> None:
    def run() -> None:
        for _ in range(3):
            a = torch.empty(1_000_000)
            b = torch.empty(500_000)
            del a, b

    assert measuring.peak_bytes(run, CPU) == pytest.approx(6_000_000, rel=0.01)


def test_ratios_are_taken_within_a_round() -> None:
    assert measuring.ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == [2.0, 2.0, 2.5]
    assert measuring.ratio([6.0], [2.0]) == [3.0] * 3
    order = []
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = measuring.interleaved(runs, CPU, warm_up=2, rounds=3)
    assert "".join(order) == "ab" * 5
    assert [len(times) for times in found.values()] == [3, 3]


def test_ways_to_search_agree() -> None:
    found = mask_search.measure(128, 6, CPU, rounds=2)
    assert set(found["ratios"]) >= {"adversarial_mask", "full sort", "adversarial_mask over loop"}
    assert found["memory_over_jacobian"]["adversarial_mask"] < found["memory_over_jacobian"]["full sort"]


def test_steps_are_counted_as_the_floors_say() -> None:
    """FLOP over plain on the Table 3 network, where U, the part above the layer, is 0.147 of a forward pass."""
    config, shape, _ = step_cost.NETWORKS["mnist-cnn"]
    steps = step_cost.steps_of(config, shape, 8)
    counted = {name: measuring.flop(step) for name, step in steps.items()}
    upper = 2 * 8 * (2048 * 625 + 625 * 10)
    plain = counted["plain"]
    assert counted["pi"] == 2 * plain
    assert counted["vadd shared"] == plain + 5 * upper
    assert counted["vadd independent"] == counted["sadd"] == 2 * plain + 2 * upper
    assert counted["vat"] == counted["vat, by hand"]
    assert counted["vadd shared"] / plain == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize("name", own_models.MODELS)
def test_steps_of_models_that_cannot_be_cut_cost_as_those_of_cut_ones(name: str) -> None:
    steps = own_models.steps_of(name, 2)
    counted = {method: measuring.flop(step) for method, step in steps.items()}
    plain, head = counted["plain"], 2 * 2 * 128 * 10
    assert counted["r-drop"] == counted["pi"] == 2 * plain
    assert counted["vadd shared"] == plain + 5 * head
    assert counted["vadd independent"] == 2 * plain + 2 * head
    assert counted["vadd shared, on an unlabelled batch"] == 2 * plain + 5 * head
    assert counted["vadd shared, run whole"] > 3.3 * plain


def test_the_network_with_pooling_last_is_the_same_function() -> None:
    model = fast_paths.network().eval()
    other = fast_paths.pooled_last(model).eval()
    x = torch.randn(3, 1, 28, 28)
    assert str(other) != str(model)
    torch.testing.assert_close(other(x), model(x))


def test_a_benchmark_writes_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "cost.json"
    options = ["--record", str(record), "--networks", "small-cnn", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["step_cost", *options])
    threads = torch.get_num_threads()
    try:
        step_cost.main()
    finally:
        torch.set_num_threads(threads)
    assert '"commit"' in record.read_text()


def test_the_grid_of_autoencoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data.hub_files(tmp_path / "mnist", "mnist")
    record, out = tmp_path / "grid.json", tmp_path / "runs"
    options = ["--data", data, "--out", out, "--record", record, "--scale", "tiny", "--images", "20"]
    options += ["--jobs", "1", "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", ["autoencoder_grid", *map(str, options)])
    autoencoder_grid.main()
    found = records.read_json(record)
    runs = records.find_records(out)
    assert len(runs) == 16
    assert {run.config.seed for run in runs} == {3}
    names = ("optimizer", "learning_rate", "initialization")
    assert [tuple(setting[name] for name in names) for setting in found["settings"]] == list(autoencoder_grid.SETTINGS)
    trained = set()
    for run in runs:
        model, training = run.config.model, run.config.training
        assert isinstance(model, Autoencoder)
        trained.add((training.optimizer, training.learning_rate, model.initialization))
    assert trained == set(autoencoder_grid.SETTINGS)
    for setting in found["settings"]:
        assert list(setting["values"]) == ["dropout", "dropout+add"]
        assert all(list(run) == list(MEASURES) for values in setting["values"].values() for run in values)
    errors = {run["reconstruction error in %"] for one in found["settings"] for run in one["values"]["dropout"]}
    assert errors == {run.error for run in runs if run.config.method == "dropout"}
    config = autoencoder_grid.config_of(autoencoder_grid.SETTINGS[0], "dropout", 0)
    preset = presets.get("paper/autoencoder", "dropout", "paper", 0)
    assert differences(preset.to_dict(), config.to_dict()) == [f"training.epochs: 20 → {autoencoder_grid.EPOCHS}"]


def test_what_is_compiled_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def compile_(module: nn.Module) -> None:
        real: Callable[..., object] = module._call_impl

        def counted(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            return real(*arguments, **named)

        module._compiled_call_impl = counted

    monkeypatch.setattr(nn.Module, "compile", compile_)
    step = fast_paths.step_of(fast_paths.network(), compiled=True)
    step()
    assert calls == 2

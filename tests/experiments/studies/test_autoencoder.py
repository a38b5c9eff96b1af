"""The autoencoder of Figures 2 and 3: its numbers, its loss written out, its error, its command."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, adversarial_mask, flip_budget
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.models.autoencoder import Autoencoder, Initialization, reconstruction_error
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.run.step import Batch, Objective
from adversarial_dropout.experiments.terms import Add, Vadd, Vat, by_kind
from adversarial_dropout.experiments.trained import evaluation
from adversarial_dropout.experiments.trained.evaluation import error
from adversarial_dropout.experiments.trained.export import export
from adversarial_dropout.experiments.trained.trained import Trained

from .. import small_data
from ..calling import fails, printed_by

PRESET = "paper/autoencoder"
METHODS = presets.find(PRESET).methods


def test_the_numbers_are_the_papers() -> None:
    assert METHODS == ("none", "dropout", "dropout+add")
    for method, p in zip(METHODS, (0.0, 0.5, 0.5), strict=True):
        config = presets.get(PRESET, method, "paper")
        searches = method == "dropout+add"
        assert config.model == Autoencoder(width=256, p=p, delta=0.3 if searches else None)
        assert (config.data.name, config.data.labelled, config.data.validation) == ("mnist", None, 0)
        assert (config.training.epochs, config.training.steps_per_epoch) == (20, None)
        assert config.terms == (by_kind(Add(weight=0.2)) if searches else {})
        assert config.training.ramp_up == 0, "the weight is there from the start"
        same = config.changed(method="", model=dataclasses.replace(config.model, p=0.0), terms={})
        assert same == dataclasses.replace(presets.get(PRESET, "none", "paper"), method="")
    tiny = presets.get(PRESET, "none", "tiny").training
    assert tiny.epochs * (tiny.steps_per_epoch or 0) == 2


def test_the_network() -> None:
    config = presets.get(PRESET, "dropout", "paper").model
    model = config.build((1, 28, 28), 10)
    assert isinstance(model, CutNetwork)
    assert config.task == "images"
    sizes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(784, 256), (256, 784)]
    assert sum(parameter.numel() for parameter in model.parameters()) == 402_448
    assert isinstance(model.upper[0], AdversarialDropout)
    h = model.under(torch.randn(5, 1, 28, 28))
    assert h.min() == 0
    out = model(torch.rand(5, 1, 28, 28))
    assert out.shape == (5, 784)
    assert 0 < out.min() < out.max() < 1


@pytest.mark.parametrize(("initialization", "variances"), [("he", (2 / 784, 2 / 256)), ("normal", (1e-4, 1e-4))])
def test_initialisations(initialization: Initialization, variances: tuple[float, float]) -> None:
    torch.manual_seed(0)
    network = presets.get(PRESET, "dropout", "paper").model
    assert isinstance(network, Autoencoder)
    config = dataclasses.replace(network, initialization=initialization)
    layers = [m for m in config.build((1, 28, 28), 10).modules() if isinstance(m, nn.Linear)]
    for layer, variance in zip(layers, variances, strict=True):
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)
        assert layer.weight.mean().abs() < 0.01 * variance**0.5
        assert not layer.bias.any()


def small_model(p: float = 0.5) -> CutNetwork:
    torch.manual_seed(3)
    return Autoencoder(width=12, p=p, delta=0.3).build((1, 4, 5), 10).double()


@pytest.mark.parametrize("weight", [0.0, 0.2, 3.0])
def test_the_loss_and_its_gradients_written_out(weight: float) -> None:
    """mean ‖x − x̂(εˢ)‖² / D + λ mean ‖x − x̂(ε_adv)‖² / D, the search started from the mask of the first pass."""
    model = small_model()
    x = torch.rand(7, 1, 4, 5, dtype=torch.float64)
    objective = Objective(model, by_kind(Add(weight=weight, ramp=False)), "images")
    torch.manual_seed(11)
    loss, values = objective(Batch(x, torch.zeros(7, dtype=torch.int64)), 0.25)
    gradients = torch.autograd.grad(loss, list(model.parameters()))

    torch.manual_seed(11)
    base = torch.empty(7, 12, dtype=torch.bool).bernoulli_(0.5)
    first, second = (m for m in model.modules() if isinstance(m, nn.Linear))
    images = x.flatten(1)
    h = torch.relu(images @ first.weight.T + first.bias)

    def decoded(factors: Tensor) -> Tensor:
        return torch.sigmoid((h * factors) @ second.weight.T + second.bias)

    ones = torch.ones(7, 12, dtype=torch.float64, requires_grad=True)
    (jacobian,) = torch.autograd.grad((images - decoded(ones)).square().mean(dim=1).sum(), ones, retain_graph=True)
    found = adversarial_mask(base, jacobian, max_flips=flip_budget(0.3, 12))
    assert not torch.equal(found, base)
    plain, adversarial = (F.mse_loss(decoded(mask / 0.5), images) for mask in (base, found))
    expected = plain + weight * adversarial
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert values["se"] == pytest.approx(plain.item(), rel=1e-12)
    assert values["add"] == pytest.approx(adversarial.item(), rel=1e-12)
    assert values["add"] > values["se"]
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-15)


def test_the_error_is_the_unexplained_variance() -> None:
    model = small_model(p=0.0).float()
    stored = torch.randint(256, (30, 1, 4, 5), dtype=torch.uint8)
    data = ImageData(stored, torch.arange(30) % 10, torch.arange(20, 30), 255, tuple("0123456789"))
    x = stored[20:].double().flatten(1) / 255
    found = model.double().eval()(x.view(-1, 1, 4, 5)).detach()
    expected = 100 * (x - found).square().sum() / (x - x.mean(dim=0)).square().sum()
    model.float()
    assert error(model, Pixels(DataConfig(), 255), data, data.test, "images") == pytest.approx(
        float(expected), rel=1e-5
    )
    alike = dataclasses.replace(data, images=stored[:1].expand_as(stored))
    with pytest.raises(InvalidValueError, match="expected images that differ, got 10 that are all the same"):
        error(model, Pixels(DataConfig(), 255), alike, data.test, "images")


def test_reconstruction_error_wants_equal_shapes() -> None:
    x = torch.rand(3, 1, 2, 2)
    assert reconstruction_error(x.flatten(1), torch.zeros(3, 4)).shape == (3,)
    with pytest.raises(InvalidValueError, match=r"expected a target of .* \(3, 4\), got \(3, 1, 2, 2\); flatten"):
        reconstruction_error(x, torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": by_kind(Vadd())}, "learns images, as autoencoder does, got vadd, which is for classes"),
        ({"terms": by_kind(Add(), Vat())}, "learns images, as autoencoder does, got vat, which is for classes"),
        ({"model": SmallCnn(delta=0.3)}, "learns classes, as small-cnn does, got add, which is for images"),
        ({"model": Autoencoder()}, "model.delta, the budget of the search of add, got none"),
        ({"data": DataConfig(name="mnist", labelled=None, flip=True)}, "none of data.translate, data.flip"),
        ({"data": DataConfig(name="mnist", labelled=None, centre=True)}, "as pixels from 0 to 1"),
    ],
)
def test_what_does_not_fit_an_autoencoder(changes: dict[str, object], message: str) -> None:
    config = presets.get(PRESET, "dropout+add", "tiny")
    with pytest.raises(InvalidValueError, match=message):
        dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"training.batch_unlabelled=0"):
        dataclasses.replace(config, training=dataclasses.replace(config.training, batch_unlabelled=2))


def test_trained_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_data.hub_files(tmp_path / "mnist", "mnist")
    printed = printed_by("train", PRESET, "dropout+add", "--scale", "tiny", "--data", data, "--out", tmp_path / "runs")
    said = re.search(r"test error ([\d.]+) % of 20 images after 2 epochs", printed)
    assert said
    run = tmp_path / "runs" / PRESET / "tiny" / "dropout+add" / "seed-0"
    assert f"error {said[1]} % of 20 images" in printed_by("evaluate", run)
    again = evaluation.evaluate(Trained.of(run))
    assert sum(share * n for share, n in again.classes.values()) / 20 == pytest.approx(again.error)
    assert "unexplained" in printed_by("report", tmp_path / "runs")
    assert fails(capsys, "predict", run, data) == (
        2,
        f"error: expected a run that predicts classes, got the autoencoder {run}; use `inspect` instead",
    )
    trained = Trained.of(run)
    assert [path.name for path in export(trained, tmp_path / "plain")] == ["model.safetensors", "config.json"]
    with pytest.raises(InvalidValueError, match="--onnx is for networks that predict classes, got an autoencoder"):
        export(trained, tmp_path / "onnx", onnx=True)
    code, message = fails(capsys, "train", PRESET, "plain", "--scale", "tiny", "--data", data)
    assert code == 2
    assert "expected the method of paper/autoencoder to be one of none, dropout, dropout+add, got 'plain'" in message

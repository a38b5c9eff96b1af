"""The network of the digits, by name and from its weights."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError
from adversarial_dropout.experiments import models
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.regularizers.passes import cut

CONFIG = SmallCnn(p=0.25, delta=0.1)
SHAPE = (1, 8, 8)


def network() -> CutNetwork:
    return CONFIG.build(SHAPE, 10)


@pytest.mark.parametrize("training", [True, False])
def test_forward_is_upper_of_under(training: bool) -> None:
    model = network().train(training)
    images = torch.rand(3, 1, 8, 8)
    torch.manual_seed(1)
    whole = model(images)
    torch.manual_seed(1)
    parts = model.upper(model.under(images))
    assert whole.shape == (3, 10)
    assert torch.equal(whole, parts)


def test_the_layer_sees_256_units_above_the_cut() -> None:
    model = network()
    seen: list[Tensor] = []
    model.upper[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = model.under(torch.rand(3, 1, 8, 8))
    assert seen == []
    assert features.shape == (3, 256)
    assert features.min() >= 0
    model.upper(features)
    assert len(seen) == 1
    assert torch.equal(seen[0], features)


def test_regularisers_cut_it_there() -> None:
    model = network().eval()
    images = torch.rand(2, 1, 8, 8)
    under, upper = cut(model)
    assert torch.equal(under(images), model.under(images))
    assert torch.equal(upper(under(images)), model(images))


def test_number_of_parameters() -> None:
    # Three 3 × 3 convolutions (1 → 16 → 32 → 64 maps) and 256 → 10, each with bias.
    expected = (9 * 1 + 1) * 16 + (9 * 16 + 1) * 32 + (9 * 32 + 1) * 64 + (256 + 1) * 10
    assert sum(parameter.numel() for parameter in network().parameters()) == expected == 25_866


@pytest.mark.parametrize("classes", [2, 7])
def test_number_of_classes(classes: int) -> None:
    assert CONFIG.build(SHAPE, classes)(torch.rand(1, 1, 8, 8)).shape == (1, classes)


def test_settings_reach_the_layer() -> None:
    config = SmallCnn(p=0.125, delta=0.75, rescale="sum", input_noise=0.3)
    model = config.build(SHAPE, 10)
    (layer,) = (module for module in model.modules() if isinstance(module, AdversarialDropout))
    assert (layer.p, layer.delta, layer.granularity, layer.rescale) == (0.125, 0.75, "element", "sum")
    (noise,) = (module for module in model.modules() if isinstance(module, GaussianNoise))
    assert noise.sigma == 0.3


def test_noise_on_the_input_in_training_alone() -> None:
    noise = GaussianNoise(0.5)
    x = torch.rand(400, 1, 8, 8)
    assert torch.equal(noise.eval()(x), x)
    added = noise.train()(x) - x
    # 25,600 draws: the standard errors of mean and deviation are 0.003 and 0.002.
    assert abs(float(added.mean())) < 0.015
    assert float(added.std()) == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(noise(x) - x, added)
    before = torch.get_rng_state()
    assert torch.equal(GaussianNoise(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_noise_out_of_range(sigma: float) -> None:
    with pytest.raises(InvalidValueError, match=r"expected .* to be finite, 0 or more, got"):
        SmallCnn(input_noise=sigma).build(SHAPE, 10)


def test_unknown_names_offer_the_nearest() -> None:
    message = 'one of small-cnn, small-resnet, mnist-cnn, .*, pretrained, got .smal_cnn.; did you mean "small-cnn"'
    with pytest.raises(InvalidValueError, match=message):
        models.find_network("smal_cnn")


def test_networks_are_found_by_their_names() -> None:
    for name, network in models.NETWORKS.items():
        assert models.find_network(name) is network
        assert network.name == name
    assert models.find_network("small-cnn") is SmallCnn


def test_the_layer_of_a_network_without_a_search() -> None:
    """It drops units all the same; nobody asks for its δ."""
    model = SmallCnn(p=0.125).build(SHAPE, 10).train()
    (layer,) = (module for module in model.modules() if isinstance(module, AdversarialDropout))
    assert layer.p == 0.125
    share = float((layer(torch.ones(100, 256)) == 0).double().mean())
    # 25,600 draws: the standard error is 0.002.
    assert share == pytest.approx(0.125, abs=0.01)


def test_loading_gives_the_same_network_in_evaluation(tmp_path: Path) -> None:
    model = network()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights")
    loaded = models.load(CONFIG, SHAPE, 10, tmp_path / "weights")
    assert not loaded.training
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("damage", ["empty", "truncated", "other network", "no weights at all"])
def test_weights_that_do_not_fit(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    whole = safetensors.torch.save(network().state_dict())
    contents = {
        "empty": b"",
        "truncated": whole[:-100],
        "other network": safetensors.torch.save({"weight": torch.zeros(3)}),
        "no weights at all": b"<html>",
    }
    path.write_bytes(contents[damage])
    with pytest.raises(InvalidValueError, match=f"(?s)cannot read the weights {path}.*delete its folder and repeat"):
        models.load(CONFIG, SHAPE, 10, path)


def test_weights_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises((AdversarialDropoutError, FileNotFoundError), match="absent"):
        models.load(CONFIG, SHAPE, 10, tmp_path / "absent")

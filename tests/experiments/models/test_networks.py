"""The paper's networks against transcriptions of its tables: activation before pooling, plain functions, float64."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import models
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.models.network import CutNetwork, Shape
from adversarial_dropout.experiments.models.noise import Dropout, GaussianNoise
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.regularizers.passes import cut

NAMES = ("small-cnn", "small-resnet", "mnist-cnn", "conv-large")
NOISY = pytest.mark.parametrize("name", ["small-cnn", "mnist-cnn", "conv-large"])
EACH_NETWORK = pytest.mark.parametrize("name", NAMES)
EACH_MODE = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


NARROW: dict[str, dict[str, Any]] = {
    "small-cnn": {},
    "small-resnet": {"width": 8},
    "mnist-cnn": {},
    "conv-large": {"width": 8},
}
"""Settings that make the networks small."""


def build(name: str, shape: Shape = (1, 28, 28), classes: int = 10, **settings: Any) -> CutNetwork:
    return models.find_network(name)(**{**NARROW[name], **settings}).build(shape, classes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def copies(model: nn.Module) -> list[Tensor]:
    """The parameters, in their order, as leaves of another graph."""
    return [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]


def spread(model: nn.Module) -> None:
    """Move every parameter and statistic away from 0 and 1, where a term that is missing would not show."""
    with torch.no_grad():
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
                if not name.endswith("var"):
                    tensor.sub_(0.25)


def check(logits: Tensor, model: nn.Module, expected: Tensor, leaves: list[Tensor]) -> None:
    """Values and all parameter gradients agree to float64 rounding."""
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(expected)
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad((logits * upstream).sum(), list(model.parameters()))
    by_hand = torch.autograd.grad((expected * upstream).sum(), leaves)
    torch.testing.assert_close(
        dict(zip(names, gradients, strict=True)), dict(zip(names, by_hand, strict=True)), rtol=1e-8, atol=1e-11
    )


# Table 3


def test_the_mnist_network_has_the_parameters_of_the_table() -> None:
    convolutions = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128
    dense = (4 * 4 * 128 + 1) * 625 + (625 + 1) * 10
    assert parameters(build("mnist-cnn")) == convolutions + dense == 1_379_557


@pytest.mark.parametrize(("kernel_size", "expected"), [(1, 1_297_381), (5, 1_543_909)])
def test_the_mnist_network_with_other_kernels(kernel_size: int, expected: int) -> None:
    k = kernel_size**2
    convolutions = (k * 1 + 1) * 32 + (k * 32 + 1) * 64 + (k * 64 + 1) * 128
    dense = (2048 + 1) * 625 + (625 + 1) * 10
    assert parameters(build("mnist-cnn", kernel_size=kernel_size)) == convolutions + dense == expected


@pytest.mark.parametrize(
    ("shape", "units"),
    [
        ((1, 28, 28), 4 * 4 * 128),
        ((3, 32, 32), 4 * 4 * 128),
        ((1, 20, 28), 3 * 4 * 128),
        ((2, 17, 9), 3 * 2 * 128),
        ((1, 1, 1), 128),
    ],
)
def test_units_of_the_mnist_network(shape: Shape, units: int) -> None:
    model = build("mnist-cnn", shape, classes=7).eval()
    seen: list[Tensor] = []
    model.upper[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert model(torch.rand(3, *shape)).shape == (3, 7)
    assert [tuple(units.shape) for units in seen] == [(3, units)]


def table_3(x: Tensor, weights: list[Tensor], factors: list[Tensor]) -> Tensor:
    """conv1, pool1, drop1, conv2, pool2, drop2, conv3, pool3, adt, dense1, dense2; ReLU after all but the last."""
    h = x
    for weight, bias, factor in zip(weights[0:6:2], weights[1:6:2], [*factors[:2], torch.ones(())], strict=True):
        h = F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)
        h = F.max_pool2d(h.clamp(min=0), 2, ceil_mode=True) * factor
    h = h.flatten(1) * factors[2]
    h = (h @ weights[6].T + weights[7]).clamp(min=0)
    return h @ weights[8].T + weights[9]


@EACH_MODE
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 20, 28), (2, 9, 7)])
def test_table_3(shape: Shape, kernel_size: int, training: bool) -> None:
    model = build("mnist-cnn", shape, kernel_size=kernel_size, input_noise=0.0, p=0.3).double().train(training)
    spread(model)
    x = torch.randn(3, *shape).double()
    leaves = copies(model)
    factors = factors_of(model)
    logits = model(x)
    check(logits, model, table_3(x, leaves, factors), leaves)


# The network of the digits


@EACH_MODE
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 11, 14)])
def test_small_cnn(shape: Shape, training: bool) -> None:
    model = build("small-cnn", shape, input_noise=0.0, p=0.3).double().train(training)
    x = torch.randn(3, *shape).double()
    leaves = copies(model)
    torch.manual_seed(4)
    logits = model(x)
    torch.manual_seed(4)
    h = F.conv2d(x, leaves[0], leaves[1], padding=1).clamp(min=0)
    for weight, bias in (leaves[2:4], leaves[4:6]):
        h = F.max_pool2d(F.conv2d(h, weight, bias, padding=1).clamp(min=0), 2)
    check(logits, model, F.dropout(h.flatten(1), 0.3, training) @ leaves[6].T + leaves[7], leaves)


# The network of one's own images


@EACH_MODE
@pytest.mark.parametrize(
    ("shape", "first"), [((1, 8, 8), 1), ((3, 16, 40), 1), ((1, 17, 28), 2), ((3, 33, 40), 4), ((2, 70, 64), 4)]
)
def test_small_resnet(shape: Shape, first: int, training: bool) -> None:
    model = build("small-resnet", shape, p=0.3, width=4).double()
    spread(model)
    model.train(training)
    running = {name: tensor.clone() for name, tensor in model.named_buffers() if name.endswith(("mean", "var"))}
    statistics = list(zip(*[iter(running.values())] * 2, strict=True))
    x = torch.randn(5, *shape).double()
    leaves = copies(model)
    logits = model(x)
    h, blocks = x, zip((first, 2, 2, 1), statistics, strict=True)
    for index, (pool, (mean, var)) in enumerate(blocks):
        weight, scale, shift = leaves[3 * index : 3 * index + 3]
        new = F.conv2d(h, weight, padding=1)
        new = F.max_pool2d(new, pool) if pool > 1 else new
        if training:
            mean, var = new.mean((0, 2, 3)), new.var((0, 2, 3), correction=0)
        new = (new - mean.view(1, -1, 1, 1)) / (var + 1e-5).sqrt().view(1, -1, 1, 1)
        new = F.leaky_relu(new * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1), 0.1)
        h = h + new if index == 3 else new
    (layer,) = adversarial_layers(model)
    mask = layer._last_mask
    assert (mask is not None) == training
    factors = 1.0 if mask is None else mask.double() / 0.7
    check(logits, model, (h.mean((2, 3)) * factors) @ leaves[12].T + leaves[13], leaves)


def test_a_larger_image_costs_no_more_after_the_first_pooling() -> None:
    sizes = []
    for size in (16, 32, 64, 128):
        model = build("small-resnet", (3, size, size))
        list(model.under.children())[1].register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
        model(torch.rand(2, 3, size, size))
    assert sizes == [(2, 8, 16, 16)] * 4


# Table 4


@pytest.mark.parametrize(
    ("settings", "shape", "classes", "expected"),
    [
        ({}, (3, 32, 32), 10, 3_121_802),
        ({"norm": "mean-only"}, (3, 32, 32), 10, 3_121_802),
        ({"norm_logits": True}, (3, 32, 32), 10, 3_121_822),
        ({}, (1, 12, 40), 4, 3_118_724),
    ],
)
def test_parameters_of_conv_large(settings: dict[str, Any], shape: Shape, classes: int, expected: int) -> None:
    maps = [shape[0], 128, 128, 128, 256, 256, 256, 512, 256, 128]
    kernels = [9] * 7 + [1] * 2
    convolutions = sum(k * inner * out for k, (inner, out) in zip(kernels, itertools.pairwise(maps), strict=True))
    normalisations = 2 * sum(maps[1:])  # Scale and shift; the convolutions have no bias.
    output = (128 + 1) * classes + (2 * classes if "norm_logits" in settings else 0)
    model = build("conv-large", shape, classes, **{**settings, "width": 128})
    assert parameters(model) == convolutions + normalisations + output == expected


@dataclass
class Table4:
    """Noise left out: (3 × convolution, pooling, dropout) twice, three convolutions, mean, dropout, output.

    Each convolution is normalised and goes through LeakyReLU *before* pooling, as the table prints it.
    """

    weights: Iterator[Tensor]
    factors: Iterator[Tensor]
    """What the three dropouts multiply by."""
    norm: str
    statistics: Iterator[tuple[Tensor, Tensor]] | None
    """Means and variances to normalise by; ``None``: those of the batch."""
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Means and (unbiased) variances of the batch."""

    def forward(self, x: Tensor, *, norm_logits: bool) -> Tensor:
        h = x
        for _ in range(2):
            for _ in range(3):
                h = self.convolution(h, padding=1)
            h = F.max_pool2d(h, 2) * next(self.factors)
        for _ in range(3):
            h = self.convolution(h, padding=0)
        h = h.mean(dim=(2, 3)) * next(self.factors)
        logits = h @ next(self.weights).T + next(self.weights)
        return self.normalised(logits, "batch") if norm_logits else logits

    def convolution(self, h: Tensor, padding: int) -> Tensor:
        h = self.normalised(F.conv2d(h, next(self.weights), padding=padding), self.norm)
        return torch.where(h > 0, h, 0.1 * h)

    def normalised(self, h: Tensor, norm: str) -> Tensor:
        scale, shift = next(self.weights), next(self.weights)
        rows = h.movedim(1, -1).reshape(-1, h.shape[1])
        mean = rows.sum(dim=0) / len(rows)
        variance = ((rows - mean) ** 2).sum(dim=0) / len(rows)
        self.seen.append((mean, variance * len(rows) / (len(rows) - 1)))
        if self.statistics is not None:
            mean, variance = next(self.statistics)
        rows = rows - mean
        if norm == "batch":
            rows = rows / (variance + 1e-6).sqrt()
        rows = rows * scale + shift
        return rows.view(h.movedim(1, -1).shape).movedim(-1, 1)


def factors_of(model: nn.Module) -> list[Tensor]:
    """Filled by the next pass: what each dropout layer multiplies by, 0 where the activation is 0 already."""
    seen: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append((output / inputs[0]).detach().nan_to_num(0.0))

    for module in model.modules():
        if isinstance(module, Dropout | AdversarialDropout):
            module.register_forward_hook(record)
    return seen


def norms_of(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Running means and variances (1 where none is kept), in the order of the passes."""
    norms = [
        module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | MeanOnlyBatchNorm)
    ]
    found = []
    for norm in norms:
        mean = norm.running_mean
        variance = None if isinstance(norm, MeanOnlyBatchNorm) else norm.running_var
        assert mean is not None
        found.append((mean.clone(), torch.ones_like(mean) if variance is None else variance.clone()))
    return found


@EACH_MODE
@pytest.mark.parametrize("norm", ["batch", "mean-only"])
@pytest.mark.parametrize("norm_logits", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 12, 12), (3, 20, 29)])
def test_table_4(shape: Shape, norm_logits: bool, norm: str, training: bool) -> None:
    model = build("conv-large", shape, norm=norm, norm_logits=norm_logits, norm_momentum=0.25, input_noise=0.0, p=0.25)
    model.double().train(training)
    spread(model)
    x = torch.randn(4, *shape).double()
    before, leaves, factors = norms_of(model), copies(model), factors_of(model)
    logits = model(x)
    table = Table4(iter(leaves), iter(factors), norm, None if training else iter(before))
    check(logits, model, table.forward(x, norm_logits=norm_logits), leaves)
    assert next(table.weights, None) is None
    assert len(factors) == 3

    after = norms_of(model)
    assert len(after) == len(table.seen) == 9 + norm_logits
    share = 0.25 if training else 0.0
    for number, (old, new, batch) in enumerate(zip(before, after, table.seen, strict=True)):
        kept = 2 if norm == "batch" or number == 9 else 1  # Mean-only keeps no variance.
        for index in range(kept):
            torch.testing.assert_close(new[index], (1 - share) * old[index] + share * batch[index].detach())


@pytest.mark.parametrize(
    ("name", "settings", "places"),
    [
        ("mnist-cnn", {}, [(32, 14, 14), (64, 7, 7), (2048,)]),
        ("conv-large", {"width": 32}, [(32, 14, 14), (64, 7, 7), (32,)]),
    ],
)
def test_three_places_of_dropout(name: str, settings: dict[str, Any], places: list[tuple[int, ...]]) -> None:
    rates = (0.5, 0.75, 0.25)
    model = build(name, **settings, dropout1=rates[0], dropout2=rates[1], p=rates[2]).train()
    dropouts = [module for module in model.modules() if isinstance(module, Dropout | AdversarialDropout)]
    factors = factors_of(model)
    for module in dropouts:
        module.register_forward_pre_hook(lambda module, inputs: (torch.ones_like(inputs[0]),))
    model(torch.rand(16, 1, 28, 28))
    for factor, place, p in zip(factors, places, rates, strict=True):
        assert factor.shape == (16, *place)
        dropped = (factor == 0).double()
        # Five standard errors of a share.
        assert abs(float(dropped.mean()) - p) < 5 * (p * (1 - p) / factor.numel()) ** 0.5
        torch.testing.assert_close(factor, (1 - dropped.float()) / (1 - p))


@EACH_MODE
@pytest.mark.parametrize("name", ["mnist-cnn", "conv-large"])
def test_dropout_of_0_and_1(name: str, training: bool) -> None:
    model = build(name, dropout1=0.0, dropout2=1.0, p=0.0, input_noise=0.0).train(training)
    x = torch.rand(4, 1, 28, 28)
    other = model(torch.rand(4, 1, 28, 28))
    assert torch.equal(model(x), model(x)), "nothing is drawn"
    assert torch.equal(model(x), other) == training, "p = 1 passes nothing on, in training alone"


def test_the_smallest_images_of_conv_large_reach_the_mean_as_one_pixel() -> None:
    model = build("conv-large", (3, 12, 12)).eval()
    before_the_mean = nn.Sequential(*list(model.under.children())[:-2])
    assert before_the_mean(torch.rand(2, 3, 12, 12)).shape == (2, 8, 1, 1)


# All of them


@pytest.mark.parametrize(
    ("name", "least", "shape"),
    [
        ("small-cnn", 4, (1, 3, 4)),
        ("small-cnn", 4, (3, 9, 3)),
        ("small-resnet", 4, (3, 3, 30)),
        ("conv-large", 12, (3, 11, 12)),
        ("conv-large", 12, (1, 32, 11)),
        ("conv-large", 12, (1, 1, 1)),
    ],
)
def test_images_that_are_too_small(name: str, least: int, shape: Shape) -> None:
    message = f"expected images of {least} × {least} pixels or more for {name}, got {shape[1]} × {shape[2]}"
    with pytest.raises(InvalidValueError, match=message):
        build(name, shape)


@pytest.mark.parametrize(
    ("name", "least"), [("small-cnn", 4), ("small-resnet", 4), ("mnist-cnn", 1), ("conv-large", 12)]
)
def test_the_smallest_images(name: str, least: int) -> None:
    logits = build(name, (3, least, least), classes=5).train()(torch.rand(2, 3, least, least))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@EACH_NETWORK
@EACH_MODE
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 20, 13)])
def test_regularisers_cut_in_front_of_the_layer(name: str, shape: Shape, training: bool) -> None:
    settings = {"norm_logits": True} if name == "conv-large" else {}
    model = build(name, shape, classes=4, **settings).train(training)
    under, upper = cut(model)
    assert under is model.under
    assert upper is model.upper
    assert adversarial_layers(under) == []
    (layer,) = adversarial_layers(upper)
    assert next(iter(upper.children())) is layer
    x = torch.rand(3, *shape)
    torch.manual_seed(1)
    whole = model(x)
    torch.manual_seed(1)
    assert torch.equal(upper(under(x)), whole)
    assert whole.shape == (3, 4)


@EACH_NETWORK
def test_settings_reach_the_layer_and_the_noise(name: str) -> None:
    settings: dict[str, Any] = {"p": 0.125, "delta": 0.75, "rescale": "sum"}
    noisy: dict[str, Any] = {} if name == "small-resnet" else {"input_noise": 0.3, "noise_in_evaluation": True}
    model = build(name, **noisy, **settings)
    (layer,) = adversarial_layers(model)
    assert {key: getattr(layer, key) for key in settings} == settings
    assert layer.granularity == "element"
    if not noisy:
        return
    (noise,) = (module for module in model.modules() if isinstance(module, GaussianNoise))
    assert (noise.sigma, noise.in_evaluation) == (0.3, True)
    assert noise is next(iter(model.under.children())), "it is added to the input"


@NOISY
@EACH_MODE
@pytest.mark.parametrize("in_evaluation", [False, True])
def test_noise_on_the_input(name: str, in_evaluation: bool, training: bool) -> None:
    settings: dict[str, Any] = {"input_noise": 0.3, "noise_in_evaluation": in_evaluation}
    model = build(name, **settings).train(training)
    x = torch.rand(4, 1, 28, 28)
    torch.manual_seed(5)
    logits = model(x)
    clean = build(name, input_noise=0.0)
    clean.load_state_dict(model.state_dict())
    clean.train(training)
    torch.manual_seed(5)
    noisy = x + 0.3 * torch.randn(x.shape) if training or in_evaluation else x
    torch.testing.assert_close(clean(noisy), logits)


def test_gaussian_noise_in_evaluation() -> None:
    noise = GaussianNoise(0.5, in_evaluation=True).eval()
    x = torch.rand(400, 64)
    added = noise(x) - x
    # 25,600 draws: the standard errors of mean and deviation are 0.003 and 0.002.
    assert abs(float(added.mean())) < 0.015
    assert float(added.std()) == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(noise(x) - x, added)
    assert "in_evaluation=True" in repr(noise)
    assert "in_evaluation" not in repr(GaussianNoise(0.5))
    before = torch.get_rng_state()
    silent = GaussianNoise(0.0, in_evaluation=True)
    assert silent.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "settings"), [("mnist-cnn", {}), ("conv-large", {"width": 64, "norm_logits": True})])
def test_he_initialisation(name: str, settings: dict[str, Any]) -> None:
    model = build(name, (3, 32, 32), **settings)
    weights = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights += 1
            weight = module.weight.detach().double()
            n, fan_in = weight.numel(), weight[0].numel()
            sigma = (2 / fan_in) ** 0.5
            # Five standard errors each; of normal weights 4.55 % are beyond two σ, of uniform ones none.
            assert abs(float(weight.std()) / sigma - 1) < 5 / (2 * n) ** 0.5
            assert abs(float(weight.mean())) < 5 * sigma / n**0.5
            beyond = float((weight.abs() > 2 * sigma).double().mean())
            assert abs(beyond - 0.0455) < 5 * (0.0455 * 0.9545 / n) ** 0.5
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert module.eps == 1e-6
    assert weights == {"mnist-cnn": 5, "conv-large": 10}[name]


@EACH_NETWORK
def test_another_seed_gives_other_weights_and_the_same_one_the_same(name: str) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return {key: value for key, value in build(name).named_parameters() if value.dim() > 1}

    first, second, again = weights(1), weights(2), weights(1)
    assert len(first) >= 4
    for key, value in first.items():
        assert torch.equal(value, again[key])
        assert not torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", ["mnist-cnn", "conv-large"])
def test_convolutions_are_stored_channels_last(name: str, tmp_path: Path) -> None:
    config = models.find_network(name)(**NARROW[name])
    model = config.build((3, 16, 16), 10)
    content = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(content, tmp_path / "weights")
    loaded = models.load(config, (3, 16, 16), 10, tmp_path / "weights")
    for network in (model, loaded):
        convolutions = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) == {"mnist-cnn": 3, "conv-large": 9}[name]
        for weight in convolutions:
            assert weight.is_contiguous(memory_format=torch.channels_last)
            assert weight.shape[2] == 1 or not weight.is_contiguous()
    x = torch.rand(2, 3, 16, 16)
    assert not loaded.training
    assert torch.equal(loaded(x), model.eval()(x))

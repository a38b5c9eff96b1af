"""``AdversarialDropout`` by itself, without a search: ``nn.Dropout`` with units, rescalings and a mask that it keeps.

The mask is read off the output: with ones as input, what is not 0 was kept.
"""

import copy
import math
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, AdversarialDropoutError, AdversarialDropoutWarning
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.layers import Granularity, Rescale

SHAPES: list[tuple[Granularity, tuple[int, ...], tuple[int, ...]]] = [
    ("element", (40,), (40,)),
    ("element", (20, 9), (20, 9)),
    ("element", (5, 4, 3, 2), (5, 4, 3, 2)),
    ("channel", (6, 11, 7), (6, 11, 1)),
    ("channel", (6, 11, 7, 3), (6, 11, 1, 1)),
    ("channel", (6, 11, 2, 7, 3), (6, 11, 1, 1, 1)),
    ("feature", (6, 7, 11), (6, 1, 11)),
]
"""Granularity, shape of the activations, shape of the mask."""
RESCALES: list[Rescale] = ["inverted", "sum", "none"]


@contextmanager
def without_warning() -> Iterator[None]:
    """For layers that lose their scale on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdversarialDropoutWarning)
        yield


def run(layer: nn.Module, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Output and gradient (of a sum with weights of its own) for one seed."""
    torch.manual_seed(seed)
    x = x.detach().requires_grad_()
    with without_warning():
        y: Tensor = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return y, torch.autograd.grad((y * weights).sum(), x)[0]


def held(layer: nn.Module) -> list[Tensor]:
    """The tensors that a layer holds as attributes."""
    return [value for value in vars(layer).values() if isinstance(value, Tensor)]


# nn.Dropout


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_equals_torch_dropout_for_the_same_seed(p: float, dtype: torch.dtype) -> None:
    layer, dropout = AdversarialDropout(p), nn.Dropout(p)
    x = torch.randn(30, 17, 3).to(dtype)
    for seed in range(3):
        (y, gradient), (expected_y, expected_gradient) = run(layer, x, seed), run(dropout, x, seed)
        assert y.dtype == dtype
        assert torch.equal(y, expected_y)
        assert torch.equal(gradient, expected_gradient)


def test_equals_torch_dropout_call_after_call() -> None:
    x = torch.randn(4, 50)
    layer, dropout = AdversarialDropout(0.5), nn.Dropout(0.5)
    torch.manual_seed(1)
    ours = [layer(x) for _ in range(3)]
    torch.manual_seed(1)
    assert all(torch.equal(y, dropout(x)) for y in ours)
    assert not torch.equal(ours[0], ours[1])


@pytest.mark.parametrize("layout", ["transposed", "channels_last"])
def test_the_mask_does_not_depend_on_the_memory_layout(layout: str) -> None:
    x = torch.randn(4, 3, 5, 6)
    x = x.to(memory_format=torch.channels_last) if layout == "channels_last" else x.transpose(0, 1)
    layer = AdversarialDropout(0.5)
    assert torch.equal(run(layer, x, seed=2)[0], run(layer, x.contiguous(), seed=2)[0])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_ratio_and_exact_scale(p: float) -> None:
    n = 400_000
    y = AdversarialDropout(p)(torch.ones(4, n // 4))
    kept = y != 0
    assert kept.double().mean().item() == pytest.approx(1 - p, abs=5 * math.sqrt(p * (1 - p) / n))
    assert torch.equal(y[kept], (torch.ones(1) / (1 - p)).expand_as(y[kept]))


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize(("granularity", "shape", "mask_shape"), SHAPES)
def test_identity_in_evaluation(
    granularity: Granularity, shape: tuple[int, ...], mask_shape: tuple[int, ...], rescale: Rescale
) -> None:
    layer = AdversarialDropout(0.9, granularity=granularity, rescale=rescale).eval()
    x, state = torch.randn(shape), torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    assert not held(layer)
    assert torch.equal(run(layer, x, seed=0)[1], run(nn.Identity(), x, seed=0)[1])
    assert layer(torch.ones(3)).tolist() == [1, 1, 1], "the identity takes any shape"


# Granularity


@pytest.mark.parametrize(("granularity", "shape", "mask_shape"), SHAPES)
def test_units_share_one_entry_of_the_mask(
    granularity: Granularity, shape: tuple[int, ...], mask_shape: tuple[int, ...]
) -> None:
    torch.manual_seed(3)
    factors = F.dropout(torch.ones(mask_shape), 0.5)
    x = torch.randn(shape)
    y, gradient = run(AdversarialDropout(granularity=granularity), x, seed=3)
    assert torch.equal(y, x * factors)
    assert torch.equal(gradient, run(nn.Identity(), x, seed=3)[1] * factors)
    for dim in (dim for dim, size in enumerate(mask_shape) if size > 1):
        assert (factors != factors.roll(1, dim)).any(), f"the mask must differ along dimension {dim}"


@pytest.mark.parametrize("dropout", [nn.Dropout1d(0.4), nn.Dropout2d(0.4), nn.Dropout3d(0.4)])
def test_channels_are_those_of_torch(dropout: nn.Module) -> None:
    x = torch.randn((8, 5, 3, 2, 4)[: {"Dropout1d": 3, "Dropout2d": 4, "Dropout3d": 5}[type(dropout).__name__]])
    layer = AdversarialDropout(0.4, granularity="channel")
    torch.testing.assert_close(run(layer, x, seed=5), run(dropout, x, seed=5), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("granularity", "shape", "message"),
    [
        (
            "channel",
            (4, 5),
            r'shape \(N, C, \.\.\.\) for granularity "channel", got \(4, 5\); "element" takes any shape',
        ),
        ("channel", (4,), r"shape \(N, C, \.\.\.\) .*, got \(4,\)"),
        ("feature", (4, 5), r'shape \(N, T, D\) for granularity "feature", got \(4, 5\)'),
        ("element", (), "with a batch dimension, got a tensor without dimensions"),
        ("channel", (), "with a batch dimension"),
        ("feature", (), "with a batch dimension"),
    ],
)
def test_wrong_dimensions(granularity: Granularity, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        AdversarialDropout(granularity=granularity)(torch.ones(shape))


# Rescaling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("granularity", "shape", "mask_shape"), SHAPES[1:])
def test_sum_rescales_by_units_over_kept_units_of_each_example(
    granularity: Granularity, shape: tuple[int, ...], mask_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    y, gradient = run(
        AdversarialDropout(0.4, granularity=granularity, rescale="sum"), torch.ones(shape, dtype=dtype), 4
    )
    torch.manual_seed(4)
    mask = F.dropout(torch.ones(mask_shape), 0.4) != 0
    scales = [math.prod(mask_shape[1:]) / kept if (kept := int(row.sum())) else 0.0 for row in mask]
    assert len(set(scales)) > 1, "examples must differ"
    for i, scale in enumerate(scales):
        expected = (mask[i] * torch.tensor(scale, dtype=dtype)).expand(shape[1:])
        assert torch.equal(y[i], expected)
    assert torch.equal(gradient, run(nn.Identity(), y, seed=4)[1] * y)


@pytest.mark.parametrize(
    ("granularity", "batch_dim", "mask_shape"),
    [
        ("element", 1, (5, 20, 6)),
        ("channel", 1, (5, 20, 1)),
        ("feature", 1, (1, 20, 6)),
        ("channel", 2, (5, 1, 6)),
        ("feature", 2, (1, 20, 6)),
    ],
)
def test_units_of_examples_in_another_dimension(
    granularity: Granularity, batch_dim: int, mask_shape: tuple[int, ...]
) -> None:
    layer = AdversarialDropout(0.5, granularity=granularity, rescale="sum", batch_dim=batch_dim)
    y = layer(torch.ones(5, 20, 6))
    mask = y != 0
    units = mask[tuple(slice(size) for size in mask_shape)]
    assert torch.equal(mask, units.expand_as(mask))
    assert layer.mask_shape(y) == mask_shape
    for example in range(y.shape[batch_dim]):
        own = units.select(batch_dim, example)
        values = y.select(batch_dim, example)[mask.select(batch_dim, example)]
        torch.testing.assert_close(values, torch.full_like(values, own.numel() / own.sum().item()))
    assert 0.3 < units.float().mean() < 0.7


def test_an_input_without_the_dimension_of_the_examples() -> None:
    with pytest.raises(InvalidValueError, match=r"dimension batch_dim=1, got shape \(5,\)"):
        AdversarialDropout(batch_dim=1)(torch.ones(5))


def test_the_seed_keeps_the_units_of_torch_in_every_layout() -> None:
    x = torch.randn(7, 4, 9)
    ours, theirs = run(AdversarialDropout(0.3, batch_dim=1), x, seed=2), run(nn.Dropout(0.3), x, seed=2)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_sum_of_a_flat_batch_keeps_or_drops_whole_examples() -> None:
    y, _ = run(AdversarialDropout(rescale="sum"), torch.full((100,), 3.0), seed=0)
    assert set(y.tolist()) == {0.0, 3.0}


def test_none_masks_and_does_nothing_else() -> None:
    x = torch.randn(20, 9)
    y, gradient = run(AdversarialDropout(0.3, rescale="none"), x, seed=6)
    torch.manual_seed(6)
    mask = F.dropout(torch.ones(20, 9), 0.3) != 0
    assert torch.equal(y, x * mask)
    assert torch.equal(gradient, run(nn.Identity(), x, seed=6)[1] * mask)


@pytest.mark.parametrize("rescale", RESCALES)
def test_an_example_with_no_unit_left_gives_zeros(rescale: Rescale) -> None:
    layer = AdversarialDropout(0.8, rescale=rescale)
    x = torch.randn(50, 3)
    y, gradient = run(layer, x, seed=7)
    empty = (y == 0).all(dim=1)
    assert 5 < empty.sum() < 45
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    assert not gradient[empty].any()
    y, gradient = run(AdversarialDropout(1.0, rescale=rescale), x, seed=7)
    assert not y.any()
    assert not gradient.any()


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 4, 2)])
def test_empty_batches_pass(shape: tuple[int, ...], rescale: Rescale) -> None:
    with without_warning():
        assert AdversarialDropout(rescale=rescale)(torch.ones(shape)).shape == shape


# Warnings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 1.0}, r"no unit of \(2, 3\) is left in the whole batch.*; lower p=1\.0 or delta=0\.05"),
        ({"p": 1.0, "rescale": "sum"}, r"no unit of \(2, 3\) is left in the whole batch"),
        ({"p": 0.01, "rescale": "none"}, r'rescale="none" with p=0\.01 makes activations smaller.*"inverted" or "sum"'),
    ],
)
def test_each_layer_warns_once(settings: dict[str, Any], message: str) -> None:
    x = torch.ones(2, 3)
    for _ in range(2):  # a new layer warns again
        layer = AdversarialDropout(**settings).eval()
        layer(x)
        layer.train()
        with pytest.warns(AdversarialDropoutWarning, match=message) as caught:
            layer(x)
        assert len(caught) == 1
        layer(x)  # a second warning would be an error


def test_no_warning_where_nothing_is_lost() -> None:
    x = torch.ones(2, 3)
    AdversarialDropout(0.0, rescale="none")(x)
    AdversarialDropout(0.5)(x[:0])
    x = torch.ones(64, 1)
    assert (AdversarialDropout(0.5)(x) == 0).any(), "some examples are empty, the batch is not"


# The module


def test_repr_names_every_setting() -> None:
    expected = "AdversarialDropout(p=0.5, delta=0.05, granularity=element, rescale=inverted)"
    assert repr(AdversarialDropout()) == expected
    layer = AdversarialDropout(0.1, 0.2, granularity="channel", rescale="sum")
    assert repr(layer) == "AdversarialDropout(p=0.1, delta=0.2, granularity=channel, rescale=sum)"
    expected = "AdversarialDropout(p=0.5, delta=0.05, granularity=element, rescale=inverted, batch_dim=1)"
    assert repr(AdversarialDropout(batch_dim=1)) == expected


def test_keeps_the_mask_of_its_last_training_forward_detached() -> None:
    layer, x = AdversarialDropout(), torch.randn(20, 50, requires_grad=True)
    layer(x)
    y = layer(x)
    layer.eval()(torch.ones(3, 3))
    (mask,) = held(layer)
    assert torch.equal(mask.bool(), y != 0)
    assert not mask.requires_grad


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("training", [True, False])
def test_copies_have_the_settings_and_not_the_mask(how: str, training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 300), AdversarialDropout(0.3, 0.1, granularity="element", rescale="sum"))
    x = torch.randn(70, 4)
    fresh = len(pickle.dumps(model))
    y = model(x)
    y.sum().backward()
    model.zero_grad()
    model.train(training)
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert len(pickle.dumps(model)) <= fresh + 10
    assert repr(twin) == repr(model)
    assert twin[1].training == training
    assert len(held(model[1])) == 1
    assert not held(twin[1])
    assert torch.equal(run(twin, x, seed=8)[0], run(model, x, seed=8)[0])


def test_state_dict_is_that_of_torch_dropout() -> None:
    ours = nn.Sequential(nn.Linear(4, 6), AdversarialDropout(), nn.Linear(6, 2))
    theirs = nn.Sequential(nn.Linear(4, 6), nn.Dropout(), nn.Linear(6, 2))
    ours(torch.randn(3, 4))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(run(ours, x, seed=9)[0], run(theirs, x, seed=9)[0])


@pytest.mark.parametrize("granularity", ["element", "channel", "feature"])
def test_exports_in_evaluation(granularity: Granularity) -> None:
    model = nn.Sequential(nn.Linear(4, 6), AdversarialDropout(granularity=granularity), nn.Linear(6, 2))
    x = torch.randn(3, 5, 4)
    model(x)
    exported = torch.export.export(model.eval(), (x,)).module()
    other = torch.randn(3, 5, 4)
    assert torch.equal(exported(other), model(other))


# Bad input


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_activations_that_are_not_floating(dtype: torch.dtype, training: bool) -> None:
    with pytest.raises(InvalidTypeError, match=rf"floating activations, got {dtype}; place .* after an embedding"):
        AdversarialDropout().train(training)(torch.ones(2, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"p": -0.1}, ValueError, r"expected p to be in \[0, 1\], got -0\.1"),
        ({"p": 50}, ValueError, r"expected p to be in \[0, 1\], got 50; p is a fraction, not a percentage"),
        ({"p": math.nan}, ValueError, r"expected p to be in \[0, 1\], got nan"),
        ({"p": "0.5"}, TypeError, r"expected p to be a number in \[0, 1\], got '0\.5' \(str\)"),
        ({"p": None}, TypeError, "expected p to be a number"),
        ({"delta": 1.5}, ValueError, r"expected delta to be in \[0, 1\], got 1\.5"),
        ({"delta": True}, TypeError, r"expected delta to be a number in \[0, 1\], got True"),
        (
            {"granularity": "chanel"},
            ValueError,
            r"one of element, channel, feature, got 'chanel'; did .* \"channel\"\?",
        ),
        ({"granularity": "xyz"}, ValueError, r"expected granularity to be one of .*, got 'xyz'$"),
        ({"rescale": "inverse"}, ValueError, r"one of inverted, sum, none, got 'inverse'; did you mean \"inverted\"\?"),
        ({"rescale": None}, ValueError, r"expected rescale to be one of .*, got None"),
        ({"batch_dim": -1}, ValueError, "expected batch_dim to be a whole number, 0 or more, got -1"),
        ({"batch_dim": True}, TypeError, "expected batch_dim to be a whole number, 0 or more, got True"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(AdversarialDropoutError, match=message) as raised:
        AdversarialDropout(**settings)
    assert isinstance(raised.value, error)


def test_hyper_parameters_are_keyword_only() -> None:
    arguments: list[Any] = [0.5, 0.05, "channel"]
    with pytest.raises(TypeError, match="positional"):
        AdversarialDropout(*arguments)

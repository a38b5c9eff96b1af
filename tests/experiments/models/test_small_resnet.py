"""Where adversarial dropout is in small-resnet, and what its units are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.models.small_resnet import SmallResnet
from adversarial_dropout.experiments.presets import get
from adversarial_dropout.experiments.terms import Vadd, by_kind
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.regularizers.passes import cut
from adversarial_dropout.regularizers.virtual_adversarial_dropout import VirtualAdversarialDropout


def build(**settings: Any) -> CutNetwork:
    torch.manual_seed(0)
    return SmallResnet(width=2, p=0.5, delta=0.25, **settings).build((1, 8, 8), 3)


def drawn(model: CutNetwork) -> list[tuple[int, ...]]:
    """Shapes of the masks of a training forward of five images."""
    model.train()(torch.rand(5, 1, 8, 8))
    return [tuple(layer._last_mask.shape) for layer in adversarial_layers(model)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        ({}, [(5, 8)]),
        ({"place": "maps"}, [(5, 8, 2, 2)]),
        ({"place": "maps", "granularity": "channel"}, [(5, 8, 1, 1)]),
        ({"place": "both"}, [(5, 8, 2, 2), (5, 8)]),
        ({"place": "both", "granularity": "channel"}, [(5, 8, 1, 1), (5, 8)]),
    ],
)
def test_masks(settings: dict[str, str], shapes: list[tuple[int, ...]]) -> None:
    model = build(**settings)
    assert drawn(model) == shapes
    under, upper = cut(model)
    assert under is model.under
    assert not adversarial_layers(under)
    assert next(iter(upper.children())) is adversarial_layers(upper)[0], "the cut is in front of the first layer"
    assert all(layer.delta == 0.25 for layer in adversarial_layers(model))
    x = torch.rand(5, 1, 8, 8)
    assert VirtualAdversarialDropout()(model, x).detach() > 0


@pytest.mark.parametrize("place", ["maps", "both"])
def test_the_same_network_in_evaluation(place: str) -> None:
    usual, other = build().eval(), build(place=place).eval()
    other.load_state_dict(dict(zip(other.state_dict(), usual.state_dict().values(), strict=True)))
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(usual(x), other(x))


@pytest.mark.parametrize("granularity", ["element", "channel"])
def test_maps_are_dropped_in_front_of_the_residual_convolution(granularity: str) -> None:
    model = build(place="maps", granularity=granularity)
    x = torch.rand(4, 1, 8, 8)
    logits = model(x)
    (layer,) = adversarial_layers(model)
    kept = layer._last_mask
    assert kept is not None
    dropped: Tensor = 2 * kept * model.under(x)
    residual, *_, output = model.upper[1].children()
    changed = next(iter(residual.children()))(dropped)
    torch.testing.assert_close(logits, output((dropped + changed).mean(dim=(2, 3))))


def test_wrong_settings() -> None:
    with pytest.raises(InvalidValueError, match=r"expected model.place to be one of units, maps, both"):
        SmallResnet(place="map")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"expected model.granularity to be one of element, channel"):
        SmallResnet(place="maps", granularity="feature")  # type: ignore[arg-type]


def config(model: SmallResnet) -> ExperimentConfig:
    usual = get("digits-100", "vadd-kl")
    return ExperimentConfig(**{**vars(usual), "model": model, "terms": by_kind(Vadd())})


def test_refused_where_it_has_no_effect() -> None:
    assert config(SmallResnet(delta=0.1, place="maps", granularity="channel"))
    with pytest.raises(
        InvalidValueError, match=r"""model.granularity='element', because model.place is "units", got"""
    ):
        config(SmallResnet(delta=0.1, granularity="channel"))

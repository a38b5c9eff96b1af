"""Golden values: what every regulariser gave, in float64, before its code was last rearranged.

They move when masks, noise or the order of draws move. If that is meant, say so in the CHANGELOG and write them anew:

    cd tests && python -m regularizers.test_golden
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout

from .recording import METHODS

FILE = Path(__file__).with_name("golden.json")
N = 6


class Split(nn.Module):
    """A model that says itself where it is cut."""

    def __init__(self, **layer: Any) -> None:
        super().__init__()
        self.below = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.ReLU())
        self.layer = AdversarialDropout(**layer)
        self.above = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3))

    def under(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.below(x)
        return hidden

    def upper(self, h: Tensor) -> Tensor:
        logits: Tensor = self.above(self.layer(h))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.under(x))


class Twice(nn.Module):
    """One layer in two places of equal shape, behind a layer of its own; cannot be cut."""

    def __init__(self, **layer: Any) -> None:
        super().__init__()
        self.first, self.again = AdversarialDropout(**layer), AdversarialDropout(p=0.3, delta=0.2)
        self.embed, self.mix, self.head = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.noise = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(self.noise(self.embed(x)).relu())
        h = self.again(self.mix(h).tanh())
        logits: Tensor = self.head(self.again(self.mix(h).tanh()))
        return logits


def flat(**layer: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Dropout(0.3), AdversarialDropout(**layer), nn.Linear(12, 3))


def maps(**layer: Any) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 12, 3),
        nn.Sequential(nn.ReLU(), AdversarialDropout(**layer), nn.Conv1d(12, 4, 2)),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"flat": flat, "maps": maps, "split": Split, "twice": Twice}
LAYERS: dict[str, dict[str, Any]] = {
    "usual": {"p": 0.5, "delta": 0.25},
    "sum": {"p": 0.4, "delta": 0.3, "rescale": "sum"},
    "no noise of its own": {"p": 0.0, "delta": 0.25},
    "all": {"p": 1.0, "delta": 0.5},
}


def cases() -> list[str]:
    names = [f"{method}, {model}, usual" for method in METHODS for model in MODELS]
    names += [f"{method}, flat, {layer}" for method in ("sadd", "vadd", "vadd-shared") for layer in LAYERS]
    names += [
        f"{method}, maps, {form}" for method in ("sadd", "vadd", "vadd-shared") for form in ("channel", "feature")
    ]
    names += [f"{method}, {model}, given" for method in METHODS for model in ("flat", "split", "twice")]
    names += [f"{method}, {model}, evaluation" for method in METHODS for model in ("flat", "twice")]
    # It needs the activations that the target was computed from.
    return sorted({name for name in names if name not in [f"vadd-shared, {model}, given" for model in MODELS]})


def compute(name: str) -> dict[str, Any]:
    """The values of one case, its gradients' sums of absolute values, and where the random stream stands after it."""
    method, model, form = name.split(", ", 2)
    settings = dict(LAYERS.get(form, LAYERS["usual"]))
    if form in ("channel", "feature"):
        settings.update(granularity=form, delta=0.4)
    torch.manual_seed(3)
    network = MODELS[model](**settings).double()
    network.train(form != "evaluation")
    x, y = torch.randn(N, 5).double().requires_grad_(), torch.tensor([0, 2, 1, -1, 1, 0])
    target = network(x) if form == "given" else None
    values = METHODS[method](reduction="none")(network, x, y, target=target)
    values.sum().backward()
    gradients = {key: p.grad.abs().sum().item() for key, p in network.named_parameters() if p.grad is not None}
    buffers = {key: b.double().sum().item() for key, b in network.named_buffers()}
    drawn = int(torch.randint(2**31, ()))
    return {"values": values.tolist(), "gradients": gradients, "buffers": buffers, "drawn": drawn}


@pytest.mark.parametrize("name", cases())
@pytest.mark.filterwarnings("ignore::adversarial_dropout.AdversarialDropoutWarning")
def test_golden(name: str) -> None:
    golden, found = json.loads(FILE.read_text())[name], compute(name)
    assert found["drawn"] == golden["drawn"]
    assert found["values"] == pytest.approx(golden["values"], rel=1e-9, abs=1e-12)
    for part in ("gradients", "buffers"):
        assert found[part] == pytest.approx(golden[part], rel=1e-9, abs=1e-12)


def main() -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(compute(name))}" for name in cases()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

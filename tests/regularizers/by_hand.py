"""The regularisers written out by hand: loops over examples and positions, explicit masks, gradients by autograd."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout

from .recording import UNITS, Recorder, flipped

Values = Callable[[Tensor, Tensor], Tensor]
"""D(target, logits), one value per example."""

INPUTS = 6

DIVERGENCE = {"sadd": "ce", "vadd": "kl", "vadd-shared": "kl", "at": "ce", "vat": "kl", "pi": "qe", "entropy": "ce"}
"""The default of each method."""


def double(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Network(nn.Module):
    """``head(above(layer(below(stem(x)))))`` over the last dimension of x, in float64, with noise below and above."""

    def __init__(
        self,
        outputs: int = 3,
        *,
        p: float = 0.5,
        granularity: Literal["element", "channel", "feature"] = "element",
        std: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.Softplus())
        self.below, self.above = Recorder(std), Recorder(std)
        self.layer = AdversarialDropout(p, 0.3, granularity=granularity)
        self.head = nn.Sequential(nn.Linear(UNITS, 8), nn.Tanh(), nn.Linear(8, outputs))
        self.std = std
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.above(self.layer(self.below(self.stem(x)))))
        return result

    def h(self, x: Tensor, run: int) -> Tensor:
        """What the layer gets in a pass, computed without recorder and layer."""
        runs = self.below.runs  # a part below the layer may run less often than the part above
        result: Tensor = self.stem(x) + self.std * runs[min(run, len(runs) - 1) if run > 0 else run].noise
        return result

    def logits(self, masked: Tensor, run: int) -> Tensor:
        """What the head returns in a pass for an output of the layer, computed without recorder and layer."""
        result: Tensor = self.head(masked + self.std * self.above.runs[run].noise)
        return result

    def mask(self, run: int) -> Tensor:
        """The mask of the layer in a pass; activations are positive, as the noise is small."""
        return self.above.runs[run].mask

    def output(self, x: Tensor, run: int, mask: Tensor | None = None) -> Tensor:
        """The logits of a pass, for its own mask unless one is given."""
        factors = (self.mask(run) if mask is None else mask).double() / (1 - self.layer.p)
        return self.logits(self.h(x, run) * factors, run)


def at_one_position(name: str, t: Any, q: Tensor) -> Tensor:
    """D at one position: logits q (C,), or one logit; t are logits of that shape, or a label."""
    if name == "squared_error":
        result: Tensor = (t - q) ** 2
        return result
    if name.startswith("bernoulli"):
        t = t if isinstance(t, Tensor) and t.is_floating_point() else torch.tensor(math.inf if t else -math.inf)
        on, off = torch.sigmoid(t), torch.sigmoid(-t)
        pairs = [(on, torch.sigmoid(q)), (off, torch.sigmoid(-q))]
        if name == "bernoulli_qe":
            return (on - torch.sigmoid(q)) ** 2
    else:
        share = q.exp() / q.exp().sum()
        if isinstance(t, Tensor) and t.is_floating_point():
            others = t.exp() / t.exp().sum()
        else:
            others = torch.tensor([float(c == int(t)) for c in range(len(q))], dtype=q.dtype)
        pairs = list(zip(others, share, strict=True))
        if name == "qe":
            return torch.stack([(a - b) ** 2 for a, b in pairs]).sum() / len(q)
    total = torch.zeros((), dtype=q.dtype)
    for a, b in pairs:
        if a > 0:
            total = total - a * b.log()
            if name.endswith("kl"):
                total = total + a * a.log()
    return total


def counted(mask: Tensor | None, labels: Tensor | None, index: tuple[int, ...]) -> bool:
    """Whether the position counts: the mask may have the first dimensions of the positions; label -1 does not count."""
    by_mask = mask is None or bool(mask[index[: mask.dim()]])
    return by_mask and (labels is None or int(labels[index]) != -1)


def loop(name: str, *, class_dim: int | None = None, mask: Tensor | None = None) -> Values:
    """D by a loop over examples and positions: the mean over the positions that count, NaN where none counts."""
    has_classes = name in ("kl", "qe", "ce")

    def values(target: Tensor, prediction: Tensor) -> Tensor:
        labels = None if target.is_floating_point() else target
        if has_classes and prediction.dim() > 2:
            assert class_dim is not None
            prediction = prediction.movedim(class_dim, -1)
            target = target.movedim(class_dim, -1) if labels is None else target
        positions = prediction.shape[1:-1] if has_classes else prediction.shape[1:]
        rows = []
        for example in range(prediction.shape[0]):
            found = [
                at_one_position(name, target[index], prediction[index])
                for rest in product(*(range(size) for size in positions))
                if counted(mask, labels, index := (example, *rest))
            ]
            rows.append(torch.stack(found).mean() if found else torch.tensor(math.nan, dtype=prediction.dtype))
        return torch.stack(rows)

    return values


def reduced(values: Tensor, reduction: str = "mean") -> Tensor:
    """The mean counts only the examples that have a value; the others are 0."""
    counts = values[~values.isnan()]
    if reduction == "none":
        return torch.where(values.isnan(), torch.zeros_like(values), values)
    return counts.sum() / (len(counts) if reduction == "mean" else 1)


def total(values: Tensor) -> Tensor:
    return reduced(values, "sum")


def flips(network: Network, mask: Tensor) -> int:
    """floor(δH), with H the units of one example."""
    return math.floor(network.layer.delta * mask[0].numel() + 1e-9)


def dropout_by_hand(network: Network, x: Tensor, target: Tensor, values: Values, search: int, base: Tensor) -> Tensor:
    """D(target, f(x, εᵃᵈᵛ)): J by autograd at ε = 1, the flips by sorting; the adversarial pass follows the search."""
    h = network.h(x, search)
    ones = torch.ones_like(base, dtype=torch.float64).requires_grad_()
    J = torch.autograd.grad(total(values(target.detach(), network.logits(h.detach() * ones, search))), ones)[0]  # noqa: N806
    found = flipped(base, J, flips(network, base))
    last = search + 1
    shown = network.mask(last)
    assert torch.equal(shown, found.expand_as(shown)), "the adversarial mask"
    assert (found != base).any()
    return values(target, network.output(x, last, found))


def unit_mask(network: Network, run: int) -> Tensor:
    """One entry for each unit of the layer."""
    mask = network.mask(run)
    if network.layer.granularity == "feature":
        return mask[:, :1]
    return mask


def sadd(network: Network, x: Tensor, y: Tensor, values: Values) -> Tensor:
    """Eq. 4 after a pass of the user, whose mask is the base."""
    return dropout_by_hand(network, x, y, values, 1, unit_mask(network, 0))


def vadd(network: Network, x: Tensor, y: Tensor, values: Values) -> Tensor:
    """Eq. 5: target pass (the user's or its own), search, adversarial pass."""
    return dropout_by_hand(network, x, network.output(x, 0), values, 1, unit_mask(network, 0))


def pi(network: Network, x: Tensor, y: Tensor, values: Values) -> Tensor:
    """Eq. 1: two passes."""
    return values(network.output(x, 0), network.output(x, 1))


def entropy(network: Network, x: Tensor, y: Tensor, values: Values) -> Tensor:
    """H[q] is the cross-entropy of q and q."""
    output = network.output(x, 0)
    return values(output, output)


def at(network: Network, x: Tensor, y: Tensor, values: Values, *, eps: float = 0.1, moved: int = 0) -> Tensor:
    """Eq. 2 with labels: the sign of the gradient, each element by ±ε."""
    leaf = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(values(y, network.output(leaf, moved))), leaf)
    return values(y, network.output(x + eps * gradient.sign(), moved + 1))


def vat(
    network: Network,
    x: Tensor,
    y: Tensor,
    values: Values,
    *,
    direction: Tensor,
    eps: float = 2.0,
    xi: float = 1e-4,
    steps: int = 1,
    moved: int = 1,
    target: int = 0,
) -> Tensor:
    """Eq. 2 with the model's own output: the power iteration from ``direction``; ``moved`` is its first pass."""
    reference = network.output(x, target).detach()
    d = unit(direction)
    for step in range(steps):
        r = (xi * d).requires_grad_()
        (gradient,) = torch.autograd.grad(total(values(reference, network.output(x.detach() + r, moved + step))), r)
        d = unit(gradient)
    return values(reference, network.output(x + eps * d, moved + steps))


def unit(d: Tensor) -> Tensor:
    """Each example's direction with length 1; 0 stays 0."""
    rows = []
    for row in d.double():
        length = math.sqrt(sum(value * value for value in row.flatten().tolist()))
        rows.append(row / length if length > 0 else row)
    return torch.stack(rows)


BY_HAND: dict[str, Callable[..., Tensor]] = {
    "sadd": sadd,
    "vadd": vadd,
    "vadd-shared": vadd,
    "at": at,
    "vat": vat,
    "pi": pi,
    "entropy": entropy,
}


def same(model: nn.Module, loss: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Values, and gradients in the inputs and in all parameters but the recorders' scale."""
    leaves = [*inputs, *(p for name, p in model.named_parameters() if not name.endswith("scale"))]
    got, wanted = (torch.autograd.grad(v.sum(), leaves, materialize_grads=True) for v in (loss, expected))
    assert all(gradient.any() for gradient in wanted[: len(inputs)])
    assert any(gradient.any() for gradient in wanted)
    for one, other in ((loss, expected), *zip(got, wanted, strict=True)):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)  # the finite difference of VAT is rounded

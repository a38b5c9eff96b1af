"""Measure the cost of a step on models as people write them: one module with one forward, which cannot be cut.

    python benchmarks/own_models.py [--record results/own-models.json] [--models resnet transformer]

All methods take turns in one process with one thread. A plain step computes the cross-entropy of a batch, forward and
backward, and makes Adam's update. Unless the name says otherwise, a method adds its term on the same batch, and the
cross-entropy uses the target pass of the term. R-Drop (Liang et al., NeurIPS 2021) makes two passes; its loss is the
mean of the two cross-entropies plus the symmetric KL divergence. "run whole" is without the reuse of recorded outputs;
with shared noise, the cross-entropy then has a pass of its own, as before ``with_output``. Run it on an idle machine.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import ROUNDS, WARM_UP, flop, interleaved, option_parser, peak_bytes, ratio
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, PiModel, VirtualAdversarialDropout, kl_divergence
from adversarial_dropout.experiments import records
from adversarial_dropout.regularizers.replay import replay_allowed

CPU = torch.device("cpu")
CLASSES = 10


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.shortcut(x))


class ResNet(nn.Module):
    """Six residual blocks on images of 32 × 32, and the layer in front of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        widths = ((32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        self.blocks = nn.ModuleList(ResidualBlock(*width) for width in widths)
        self.drop = AdversarialDropout(p=0.5, delta=0.05)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        for block in self.blocks:
            h = block(h)
        h = torch.flatten(F.adaptive_avg_pool2d(h, 1), 1)
        logits: Tensor = self.head(self.drop(h))
        return logits


class TransformerBlock(nn.Module):
    """Attention and a feed-forward part, each with a shortcut, normalised in front."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.dropout(self.attention(h, h, h, need_weights=False)[0])
        h = self.outer(F.gelu(self.inner(self.norm2(x))))
        result: Tensor = x + self.dropout(h)
        return result


class Transformer(nn.Module):
    """An encoder of four blocks over token ids, mean pooling, and the layer in front of the head."""

    def __init__(self, words: int = 1000, length: int = 64, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(length, width) / 10)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4, 0.1) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.drop = AdversarialDropout(p=0.5, delta=0.05)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids) + self.position
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.drop(self.norm(h).mean(dim=1)))
        return logits


def images(n: int) -> Tensor:
    return torch.rand(n, 3, 32, 32)


def sentences(n: int) -> Tensor:
    return torch.randint(1000, (n, 64))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], int]] = {
    "resnet": (ResNet, images, 32),
    "transformer": (Transformer, sentences, 32),
}
"""Model, its inputs, and how many examples are in a batch."""


def r_drop(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    first, second = model(x), model(x)
    apart = (kl_divergence(first, second) + kl_divergence(second, first)).mean() / 2
    return (F.cross_entropy(first, y) + F.cross_entropy(second, y)) / 2 + apart


def losses_of(model: nn.Module, make: Callable[[int], Tensor], n: int) -> dict[str, Callable[[], Tensor]]:
    """The loss of each method on the same batch."""
    x, unlabelled, y = make(n), make(n), torch.randint(CLASSES, (n,))
    shared, independent, pi = VirtualAdversarialDropout(noise="shared"), VirtualAdversarialDropout(), PiModel()

    def vadd_shared() -> Tensor:
        logits, term = shared.with_output(model, x)
        return F.cross_entropy(logits, y) + term

    def with_target(regularizer: nn.Module) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            logits = model(x)
            term: Tensor = regularizer(model, x, target=logits)
            return F.cross_entropy(logits, y) + term

        return loss

    def unlabelled_beside(regularizer: nn.Module) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            term: Tensor = regularizer(model, unlabelled)
            return F.cross_entropy(model(x), y) + term

        return loss

    def whole(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            token = replay_allowed.set(False)
            try:
                return loss()
            finally:
                replay_allowed.reset(token)

        return run

    return {
        "plain": lambda: F.cross_entropy(model(x), y),
        "pi": with_target(pi),
        "r-drop": lambda: r_drop(model, x, y),
        "vadd shared": vadd_shared,
        "vadd independent": with_target(independent),
        "vadd shared, run whole": whole(lambda: F.cross_entropy(model(x), y) + shared(model, x)),
        "vadd independent, run whole": whole(with_target(independent)),
        "pi, on an unlabelled batch": unlabelled_beside(pi),
        "vadd shared, on an unlabelled batch": unlabelled_beside(shared),
        "vadd independent, on an unlabelled batch": unlabelled_beside(independent),
    }


def steps_of(name: str, n: int | None = None) -> dict[str, Callable[[], object]]:
    """A step of each method on the same batch and weights, each with its own optimiser."""
    build, make, examples = MODELS[name]
    torch.manual_seed(0)
    model = build().train()

    def step(loss: Callable[[], Tensor]) -> Callable[[], object]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

        def run() -> None:
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return run

    return {method: step(loss) for method, loss in losses_of(model, make, n or examples).items()}


def measure(name: str, rounds: int = ROUNDS, warm_up: int = WARM_UP) -> dict[str, Any]:
    steps = steps_of(name)
    for step in steps.values():
        step()  # The first step of a model may learn what to record.
    counted = {method: flop(step) for method, step in steps.items()}
    held = {method: peak_bytes(step, CPU) for method, step in steps.items()}
    took = interleaved(steps, CPU, warm_up=warm_up, rounds=rounds)
    return {
        "examples": MODELS[name][2],
        "plain": {"seconds": statistics.median(took["plain"]), "flop": counted["plain"], "bytes": held["plain"]},
        "ratios": {method: ratio(times, took["plain"]) for method, times in took.items()},
        "flop_ratios": {method: value / counted["plain"] for method, value in counted.items()},
        "memory_ratios": {method: value / held["plain"] for method, value in held.items()},
        "vadd independent over pi": ratio(took["vadd independent"], took["pi"]),
    }


def main() -> None:
    parser = option_parser(__doc__, "own-models.json")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for name in arguments.models:
        models[name] = measure(name, arguments.rounds)
        print(name, f"plain {models[name]['plain']['seconds']:.4f} s", flush=True)
        for method, (low, median, high) in models[name]["ratios"].items():
            beside = " ".join(f"{what} {models[name][what][method]:.2f}" for what in ("flop_ratios", "memory_ratios"))
            print(f"  {method:42} {median:.2f} [{low:.2f}, {high:.2f}]  {beside}", flush=True)
        print("  vadd independent over pi", *(f"{part:.3f}" for part in models[name]["vadd independent over pi"]))
    content = {
        "what": "time of a step over a plain one: lower quartile, median, upper quartile of the ratio within a round",
        "rounds": arguments.rounds,
        "models": models,
    }
    records.write_measured(arguments.record, content)


if __name__ == "__main__":
    main()

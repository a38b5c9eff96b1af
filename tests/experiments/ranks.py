"""What the ranks of ``torchrun`` do in the tests: this module is what it starts, in the folder ``tests``.

    torchrun --nproc-per-node 2 -m experiments.ranks check FOLDER
    torchrun --nproc-per-node 2 -m experiments.ranks raise|kill ARGUMENTS...

The first has each rank write what it found to FOLDER/rank-R.json, for the tests to compare. The others run the command
line with ARGUMENTS, in which rank 1 fails in its second epoch.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.experiments import cli, presets, records
from adversarial_dropout.experiments.config import ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.models.autoencoder import Autoencoder
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.run import loop, optimizers
from adversarial_dropout.experiments.run import run as under_way
from adversarial_dropout.experiments.run.ranks import Ranks, rank
from adversarial_dropout.experiments.run.run import choose_step
from adversarial_dropout.experiments.run.step import Batch, Objective, Step
from adversarial_dropout.experiments.terms import Add, At, Entmin, Pi, Sadd, Term, Vadd, Vat, by_kind

from .run.test_resume import paper
from .runs import small

NUMBER = 2
NOISY = small("vadd-qe+vat", seed=3, epochs=3, steps=2)
CLASSES = 5
RUNS = ((NOISY.preset, NOISY.method), ("authors/svhn-1000", "vadd-kl+vat"), ("authors/cifar10-4000", "vadd-kl+vat"))
"""Besides the digits: BatchNorm; mean-only normalisation with whitening and views."""

# Every kind of term, with the noise and the masks of the presets.
TERMS: dict[str, dict[str, Term]] = {
    "plain": {},
    "at": by_kind(At(eps=0.1)),
    "vat": by_kind(Vat(eps=2.0)),
    "pi": by_kind(Pi(divergence="qe", weight=10.0)),
    "sadd": by_kind(Sadd(divergence="ce")),
    "vadd-kl": by_kind(Vadd(noise="shared")),
    "vadd-qe+vat": by_kind(Vadd(divergence="qe", weight=10.0), Vat(eps=2.0)),
    "entmin": by_kind(Entmin()),
}
NETWORKS: dict[str, tuple[Network, tuple[int, int, int]]] = {
    "small-cnn": (SmallCnn(delta=0.05), (1, 8, 8)),
    "mnist-cnn": (MnistCnn(delta=0.05), (1, 8, 8)),
    "conv-large": (ConvLarge(width=8, p=0.2, delta=0.3), (3, 12, 12)),
    "conv-large, mean-only": (ConvLarge(width=8, norm="mean-only", delta=0.3), (3, 12, 12)),
}
RECONSTRUCTION = by_kind(Add())

# Without noise, and with terms that draw nothing.
CERTAIN: dict[str, dict[str, Term]] = {
    "plain": {},
    "at": TERMS["at"],
    "sadd": TERMS["sadd"],
    "at+entmin": {**TERMS["at"], **TERMS["entmin"]},
    "autoencoder": RECONSTRUCTION,
}


def without_noise(method: str) -> ExperimentConfig:
    """Two epochs of three steps, with p = 0, no noise and no BatchNorm."""
    small = presets.get("digits-100", "plain", "tiny")
    classifier, autoencoder = SmallCnn(p=0.0, delta=0.05, input_noise=0.0), Autoencoder(p=0.0, delta=0.05, width=32)
    return small.changed(
        method=method,
        model=autoencoder if method == "autoencoder" else classifier,
        terms=CERTAIN[method],
        training=TrainingConfig(
            epochs=2,
            steps_per_epoch=3,
            batch_labelled=32,
            batch_unlabelled=128 if "entmin" in method else 0,
            ramp_up=2,
        ),
    )


def damped(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam for :func:`without_noise`: a gradient of the size of rounding makes no step of full size."""
    return torch.optim.Adam(parameters, lr=lr, eps=1e-3)


def train_without_noise(method: str, folder: Path) -> None:
    """Run it in this process, with the others if there are any."""
    with mock.patch.object(optimizers, "Adam", damped):
        loop.run(without_noise(method), folder)


def batch_of(shape: tuple[int, int, int], examples: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(1)
    images, unlabelled = torch.rand(2, examples, *shape, generator=draw)
    return Batch(images, torch.randint(CLASSES, (examples,), generator=draw), unlabelled)


def share(batch: Batch, rank: int) -> Batch:
    parts = {
        name: None if value is None else value.chunk(NUMBER)[rank]
        for name, value in ((field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch))
    }
    return Batch(**parts)  # type: ignore[arg-type]


def gradients(objective: nn.Module, batch: Batch, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    objective.zero_grad()
    loss, _ = objective.train()(batch, 1.0)
    loss.backward()
    return [parameter.grad.clone() for parameter in objective.parameters() if parameter.grad is not None]


def furthest(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Largest distance of a gradient from what it should be, relative to its largest entry."""
    assert len(actual) == len(expected)
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(actual, expected, strict=True)
    )


def check_gradients(ranks: Ranks) -> dict[str, float]:
    """Of the prepared objective, against the mean of what each share gives by itself, for the same noise."""
    cases = [(name, *network, method, terms) for name, network in NETWORKS.items() for method, terms in TERMS.items()]
    network = Autoencoder(width=16, delta=0.1), (1, 8, 8)
    distances = {}
    for name, config, shape, method, terms in [*cases, ("autoencoder", *network, "add", RECONSTRUCTION)]:

        def build(
            config: Network = config, shape: tuple[int, int, int] = shape, terms: dict[str, Term] = terms
        ) -> Objective:
            torch.manual_seed(0)
            return Objective(config.build(shape, CLASSES), terms, config.task)

        batch = batch_of(shape)
        if name == "autoencoder":
            batch = dataclasses.replace(batch, unlabelled=None)
        prepared = ranks.accelerator.prepare(build())
        together = gradients(prepared, share(batch, ranks.index), seed=10 + ranks.index)
        apart = [gradients(build(), share(batch, rank), seed=10 + rank) for rank in range(NUMBER)]
        mean = [torch.stack(parts).mean(dim=0) for parts in zip(*apart, strict=True)]
        distances[f"{name} {method}"] = furthest(together, mean)
    return distances


def check_mean_only(ranks: Ranks) -> dict[str, float]:
    """With mean-only normalisation over all ranks, against the joined batch."""

    def build(terms: dict[str, Term]) -> Objective:
        torch.manual_seed(0)
        under = [nn.Conv2d(3, 6, 3, bias=False), MeanOnlyBatchNorm(6), nn.LeakyReLU(), nn.Flatten()]
        head = [nn.Linear(96, 8, bias=False), MeanOnlyBatchNorm(8), nn.Linear(8, CLASSES)]
        return Objective(nn.Sequential(*under, AdversarialDropout(p=0.0, delta=0.1), *head), terms)

    batch = dataclasses.replace(batch_of((3, 6, 6)), unlabelled=None)
    distances = {}
    for method in ("plain", "at", "sadd", "at+entmin"):
        ours = build(CERTAIN[method])
        ranks.synchronised(ours.model)
        together = gradients(ranks.accelerator.prepare(ours), share(batch, ranks.index), seed=0)
        alone = build(CERTAIN[method])
        distances[method] = furthest(together, gradients(alone, batch, seed=0))
        for name, buffer in ours.named_buffers():
            torch.testing.assert_close(buffer, dict(alone.named_buffers())[name])
    return distances


@dataclasses.dataclass
class Steps:
    """What was true after every step, as digests: of the weights, the images seen, the random state, the buffers."""

    weights: list[str] = dataclasses.field(default_factory=list)
    images: list[str] = dataclasses.field(default_factory=list)
    random: list[str] = dataclasses.field(default_factory=list)
    buffers: dict[str, str] = dataclasses.field(default_factory=dict)
    """After the last step, by name."""

    def watched(self, objective: nn.Module, *arguments: Any, **options: Any) -> Step:
        step = choose_step(objective, *arguments, **options)

        def watch(batch: Batch, ramp: float) -> dict[str, Tensor]:
            values = step(batch, ramp)
            self.weights.append(digest(*objective.parameters()))
            self.images.append(digest(batch.images, *([] if batch.unlabelled is None else [batch.unlabelled])))
            self.random.append(digest(torch.get_rng_state()))
            named = objective.module.model.named_buffers()  # type: ignore[union-attr]
            self.buffers = {name: digest(buffer) for name, buffer in named}
            return values

        return watch


def digest(*tensors: Tensor) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.detach().contiguous().numpy().tobytes())
    return content.hexdigest()


def raised(call: Callable[[], object]) -> str:
    """The message of the error that ``call`` ends with."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def check(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks("auto", "float32")
    ranks.accelerator.wait_for_everyone()  # From here on this is the group that runs find.
    report: dict[str, Any] = {"gradients": check_gradients(ranks), "mean-only": check_mean_only(ranks)}
    for method in CERTAIN:
        train_without_noise(method, folder / "without-noise" / method)
    report["steps"] = {}
    for preset, method in RUNS:
        config, data = (NOISY, sources.digits()) if preset == NOISY.preset else paper(preset, method)
        steps = Steps()
        with (
            mock.patch.object(under_way, "choose_step", steps.watched),
            mock.patch.object(sources, "load", lambda *_, data=data, **options: data),
        ):
            loop.run(config, folder / preset)
        report["steps"][preset] = dataclasses.asdict(steps)
    other = dataclasses.replace(NOISY, seed=NOISY.seed + ranks.index)
    report["other config"] = raised(lambda: ranks.check(other))
    report["other data"] = raised(
        lambda: ranks.check_same({"sha256 of the data": f"digest {ranks.index}"}, "the same images")
    )
    (folder / f"rank-{ranks.index}.json").write_text(json.dumps(report))
    ranks.end()


def fail(how: str, arguments: list[str]) -> None:
    folder = records.run_folder(Path(arguments[arguments.index("--out") + 1]), NOISY)

    def failing(*parts: Any, **options: Any) -> Step:
        step = choose_step(*parts, **options)
        done = iter(range(100))

        def last(batch: Batch, ramp: float) -> dict[str, Tensor]:
            if next(done) == NOISY.training.steps_per_epoch and rank() == 1:
                # Rank 0 may still be writing the first epoch.
                until = time.monotonic() + 30
                while not records.epochs_done(folder) and time.monotonic() < until:
                    time.sleep(0.01)
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError("the disk of rank 1 is gone")
            return step(batch, ramp)

        return last

    with mock.patch.object(under_way, "choose_step", failing):
        cli.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(Path(sys.argv[2]))
    else:
        fail(sys.argv[1], sys.argv[2:])

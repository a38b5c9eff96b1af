"""A column and a method of the paper's tables as a step to time: full size on a GPU, small on a CPU. Not a script."""

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import measuring
import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig, Precision, Scale
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.run.captured import CapturedStep
from adversarial_dropout.experiments.run.step import Batch, Objective, eager_step

SMALL_BATCH, SMALL_WIDTH = 4, 8
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}
IMAGES = {"mnist": (60_000, 10_000), "svhn": (73_257, 26_032), "cifar10": (50_000, 10_000)}
SMALL_IMAGES = (400, 40)
MATRIX = {"cuda": 8192, "cpu": 256}
CONTRAST, NOISE = 7.0, 60.0
"""Of generated images, so that about a tenth of them cannot be classified."""


@dataclass(frozen=True)
class Variant:
    """How a step is run."""

    captured: bool = True
    precision: Precision = "float32"
    channels_last: bool = True
    compiled: bool = False

    @property
    def name(self) -> str:
        parts = ["captured" if self.captured else "eager", self.precision]
        parts += [] if self.channels_last else ["contiguous"]
        return ", ".join([*parts, "compiled"] if self.compiled else parts)


def device_of(text: str) -> torch.device:
    """The device an option names.

    Raises:
        argparse.ArgumentTypeError: it is a GPU, and there is none.
    """
    device = torch.device(text)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("expected a CUDA GPU, found none; give --device cpu for a small trial run")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def config_of(
    preset: str, method: str, device: torch.device, *, scale: Scale = "paper", seed: int = 0
) -> ExperimentConfig:
    """The preset, on a CPU with a narrow network, small batches and few labels."""
    config = presets.get(preset, method, scale, seed)
    if device.type == "cuda":
        return config
    data, training, model = config.data, config.training, config.model
    if model.delta is not None:
        model = dataclasses.replace(model, delta=max(model.delta, 1 / SMALL_WIDTH))
    if isinstance(model, ConvLarge):
        model = dataclasses.replace(model, width=SMALL_WIDTH)
    return dataclasses.replace(
        config,
        model=model,
        data=dataclasses.replace(data, labelled=None if data.labelled is None else 20),
        training=dataclasses.replace(
            training,
            batch_labelled=SMALL_BATCH,
            batch_unlabelled=SMALL_BATCH if training.batch_unlabelled else 0,
        ),
    )


def data_of(config: ExperimentConfig, device: torch.device, location: DataLocation | None) -> ImageData:
    """The images in ``location``, or else generated ones: a faint picture of each class in noise."""
    return _data(config.data, device, location)


@functools.lru_cache(maxsize=2)
def _data(config: DataConfig, device: torch.device, location: DataLocation | None) -> ImageData:
    if location is not None:
        return sources.load(config, location).to(device)
    name = config.name
    training, test = IMAGES[name] if device.type == "cuda" else SMALL_IMAGES
    draw = torch.Generator().manual_seed(0)
    pictures = 128 + CONTRAST * torch.randn(10, *SHAPES[name], generator=draw)
    labels = torch.randint(10, (training + test,), generator=draw)
    labels[:1000] = torch.arange(1000)[: len(labels)] % 10
    images = torch.empty(len(labels), *SHAPES[name], dtype=torch.uint8)
    for rows in torch.split(torch.arange(len(labels)), 5000):
        noisy = pictures[labels[rows]] + NOISE * torch.randn(len(rows), *SHAPES[name], generator=draw)
        images[rows] = noisy.clamp(0, 255).to(torch.uint8)
    rows = torch.arange(training, training + test)
    return ImageData(images, labels, rows, 255, tuple("0123456789")).to(device)


class Autocast(nn.Module):
    """An objective whose passes compute in bfloat16 where that is safe."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch, ramp: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(batch.images.device.type, torch.bfloat16):
            losses: tuple[Tensor, dict[str, Tensor]] = self.objective(batch, ramp)
        return losses


class Runner:
    """A model in training; a call makes one step.

    Attributes:
        model: The network.
        objective: Its loss.
        step: One step on a batch.
        batch: The default batch of a call.
    """

    def __init__(self, config: ExperimentConfig, variant: Variant, device: torch.device) -> None:
        if variant.precision not in get_args(Precision):
            raise InvalidValueError(f"expected a precision of {get_args(Precision)}, got {variant.precision!r}")
        torch.manual_seed(config.seed)
        self.variant = variant
        shape = SHAPES[config.data.name]
        self.model = config.model.build(shape, 10).to(device)
        if not variant.channels_last:
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if variant.compiled:
            under = self.model.under
            assert isinstance(under, nn.Module)
            under.compile()
        self.objective = Objective(self.model, config.terms).train()
        wrapped = Autocast(self.objective) if variant.precision == "bf16" else self.objective
        fused = device.type == "cuda"
        optimizer = torch.optim.Adam(self.model.parameters(), lr=config.training.learning_rate, fused=fused)
        self.optimizer = optimizer
        self.step = CapturedStep(wrapped, optimizer) if variant.captured else eager_step(wrapped, optimizer)
        self.batch = made_batch(config, device, needs_unlabelled=self.objective.needs_unlabelled)

    def __call__(self, batch: Batch | None = None, ramp: float = 1.0) -> dict[str, Tensor]:
        set_products(self.variant.precision)
        return self.step(self.batch if batch is None else batch, ramp)


def set_products(precision: Precision) -> None:
    """From now on, compute products and convolutions of float32 on a GPU in TF32 if that is asked for."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def made_batch(config: ExperimentConfig, device: torch.device, *, needs_unlabelled: bool) -> Batch:
    """A batch of the config's sizes, of noise."""
    draw = torch.Generator(device).manual_seed(config.seed)
    labelled, unlabelled = config.training.batch_labelled, config.training.batch_unlabelled

    def noise(count: int) -> Tensor:
        return torch.rand(count, *SHAPES[config.data.name], generator=draw, device=device)

    without = noise(unlabelled) if unlabelled and needs_unlabelled else None
    return Batch(
        images=noise(labelled),
        labels=torch.arange(labelled, device=device) % 10,
        unlabelled=without,
        second=noise(len(without) if without is not None else labelled)
        if needs_unlabelled and config.data.augmented
        else None,
    )


def rate(precision: Precision, device: torch.device) -> float:
    """FLOP/s of the matrix products of the device in this precision."""
    set_products(precision)
    return measuring.matrix_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32, MATRIX[device.type])


def flop(preset: str, method: str, device: torch.device) -> int:
    """FLOP of the products and convolutions of one step."""
    return measuring.flop(Runner(config_of(preset, method, device), Variant(captured=False), device))


def columns_and_methods(table: str = "table1") -> Iterator[tuple[str, str]]:
    """Every cell of one of the paper's tables, as preset and method."""
    from adversarial_dropout.experiments.results.paper_tables import columns

    for column in columns(table):
        for method in presets.find(column.preset).methods:
            yield column.preset, method

"""A run under way: all that a checkpoint holds, and the training of one epoch."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.features import FeatureViews, Progress
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.earlier_config import upgraded_rows
from adversarial_dropout.experiments.models.pretrained import PretrainedNetwork
from adversarial_dropout.experiments.records import Metrics
from adversarial_dropout.experiments.run import optimizers
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.budgets import RisingBudgets
from adversarial_dropout.experiments.run.frozen import prepared
from adversarial_dropout.experiments.run.ranks import Ranks, noise_seed
from adversarial_dropout.experiments.run.step import Objective, Step, eager_step, explaining
from adversarial_dropout.experiments.trained.evaluation import error

CHOOSING = "validation error"
"""The metric that chooses the epoch whose weights are kept."""


def choose_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None] = Tensor.backward,
    *,
    capture: bool = False,
) -> Step:
    """The step for the device of ``objective``: recorded as one CUDA graph if asked for, else operation by operation.

    On a GPU, a lack of memory is a :class:`~adversarial_dropout.experiments.run.step.GpuMemoryError`.
    """
    if capture:
        from adversarial_dropout.experiments.run.captured import CapturedStep  # Here: other runs do not need it.

        step: Step = CapturedStep(objective, optimizer, backward)
    else:
        step = eager_step(objective, optimizer, backward)
    return explaining(step) if next(objective.parameters()).device.type == "cuda" else step


class Run:
    """What ``config`` describes, built and in training; one process of several has its share of each batch.

    Attributes:
        data: On the device: images, or what :func:`~.frozen.prepared` makes of them.
        shape: Shape of an image, (C, H, W).
        described: What the record says of a pretrained backbone, if there is one.
        split: Which rows of the data are used for what.
        model: The network.
        rows: Metrics of each epoch so far.
        kept: Number of the epoch whose weights are kept: the last one, or the best on the labels that choose.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        data: ImageData,
        ranks: Ranks,
        *,
        capture: bool,
        digest: str | None = None,
        preparing: Progress | None = None,
    ) -> None:
        self.config = config
        self.shape = data.shape
        self.split = make_split(data, config.data, config.seed)
        if config.training.batch_unlabelled and not len(self.split.unlabelled):
            raise InvalidValueError(
                f"expected unlabelled images in {config.data.name}, got only labelled ones; give "
                f"--training.batch-unlabelled 0, or --data.overlap, or lower --data.labelled"
            )
        self.rows: list[Metrics] = []
        self.kept = 0
        self._weights: dict[str, Tensor] = {}  # Of that epoch, where labels choose it.
        self._ranks = ranks
        torch.manual_seed(config.seed)
        network = config.model.build(data.shape, len(data.classes))
        self._needs_unlabelled = any(not term.supervised for term in config.terms.values())
        self.described: dict[str, Any] | None = None
        if isinstance(network, PretrainedNetwork):
            with ranks.accelerator.local_main_process_first():  # It computes and stores features; the others read them.
                unlabelled = bool(config.training.batch_unlabelled) and self._needs_unlabelled
                rows = self.split.rows_seen(unlabelled=unlabelled)
                data, self.described = prepared(
                    config, network, data, rows, ranks.device, digest=digest, progress=preparing
                )
        self.data = data.to(ranks.device)
        self.model = ranks.synchronised(network)
        objective = Objective(self.model, config.terms, config.model.task, decay=config.training.target_decay)
        self._average = objective.average
        self._budgets = RisingBudgets(self.model, _example(data)) if config.training.ramp_delta else None
        optimizer = optimizers.build(config.training, config.model.groups(network), capture=capture)
        self._objective, self._optimizer = ranks.accelerator.prepare(objective, optimizer)
        self._step = choose_step(self._objective, self._optimizer, ranks.accelerator.backward, capture=capture)
        self._order = torch.Generator().manual_seed(config.seed)
        if not ranks.is_first:  # Each rank has its own noise; rank 0 continues with the run's.
            torch.manual_seed(noise_seed(config.seed, ranks.index))

    def pixels(self, whitening: Whitening | None) -> Pixels:
        """What turns rows of the data into the input of the network."""
        kind = FeatureViews if isinstance(self.model, PretrainedNetwork) and self.model.frozen else Pixels
        return kind(self.config.data, self.data.brightest, whitening)

    def epoch(self, pixels: Pixels) -> Metrics:
        """Train one more epoch; all processes call it together.

        Return the means over steps and processes of the loss and of each term before weighting, and, on rank 0, the
        error in percent. A :class:`NonFiniteError` means that a loss, or something in a step, is NaN or infinite.
        """
        rising = optimizers.follow_schedule(self.config.training, len(self.rows), self._optimizer)
        if self._budgets is not None:
            self._budgets.set(rising)
        self._objective.train()
        means = self._means(pixels, rising)
        wrong = {"error": math.nan}
        if self._ranks.is_first:
            wrong = self._errors(pixels)
        self.rows.append({"epoch": float(len(self.rows) + 1), **means, **wrong})
        if CHOOSING not in wrong:
            self.kept = len(self.rows)
        elif not self.kept or wrong[CHOOSING] <= self.rows[self.kept - 1][CHOOSING]:  # Of equal ones the later epoch.
            self.kept = len(self.rows)
            self._weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return self.rows[-1]

    def _errors(self, pixels: Pixels) -> Metrics:
        """Errors in percent: of the evaluation part, and of the images whose labels choose the epoch, if any."""
        parts = {"error": self.split.evaluation}
        if len(self.split.choosing):
            parts = {CHOOSING: self.split.choosing, **parts}
        task = self.config.model.task
        return {name: error(self.model, pixels, self.data, rows, task) for name, rows in parts.items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that are kept."""
        return self._weights or self.model.state_dict()

    def _means(self, pixels: Pixels, rising: float) -> dict[str, float]:
        """Train the steps of an epoch with this factor of the weights that rise; return the mean values."""
        totals: dict[str, Tensor] = {}
        steps = 0
        for batch in batches(
            self.data,
            pixels,
            self.split,
            self.config.training,
            self._order,
            needs_unlabelled=self._needs_unlabelled,
            share=self._ranks.share,
        ):
            steps += 1
            for name, value in self._step(batch, rising).items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value
            if self._average is not None:
                self._average.update(self.model)
        totals = self._ranks.accelerator.reduce(totals, reduction="mean")
        means = {name: float(total) / steps for name, total in totals.items()}
        if not all(math.isfinite(value) for value in means.values()):
            raise NonFiniteError(f"expected a finite loss, got {means}")
        return means

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to resume, as tensors and plain containers; all processes call it together."""
        device = self._ranks.device
        random = {
            "cpu": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        }
        first, *rest = self._ranks.gathered(random)
        return {
            "epoch": len(self.rows),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "order": self._order.get_state(),
            "random": first,
            "random_of_others": rest,
            "rows": self.rows,
            "kept": self.kept,
            "weights": self._weights,
            "average": {} if self._average is None else self._average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`state_dict` returned, with the same number of processes."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        random = [state["random"], *state.get("random_of_others", [])][self._ranks.index]
        torch.set_rng_state(random["cpu"])
        if self._ranks.device.type == "cuda" and random["cuda"]:
            torch.cuda.set_rng_state(random["cuda"][0], self._ranks.device)
        self.rows = upgraded_rows(state["rows"], self.config.terms)
        self.kept = state.get("kept", len(self.rows))
        self._weights = state.get("weights", {})
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def _example(data: ImageData) -> Tensor:
    """What a network takes of the form of one image: (1, C, H, W), or its features, (1, D)."""
    images = data.images[:1].float()
    return images[:, 0] if images.dim() == 3 else images

"""A run under way: all that a checkpoint holds, and the training of one epoch."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.earlier_config import upgraded_rows
from adversarial_dropout.experiments.records import Metrics
from adversarial_dropout.experiments.run import optimizers
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.run.ranks import Ranks
from adversarial_dropout.experiments.run.step import build_objective, choose_step
from adversarial_dropout.experiments.trained.evaluation import error


class Run:
    """What ``config`` describes, built; one process of several has its share.

    Args:
        config: What to run.
        data: Its data, on the CPU.
        digest: Theirs.
        ranks: The processes that train it.
        capture: Whether a step is recorded as one CUDA graph.

    Raises:
        InvalidValueError: the data have nothing to train on, or the config cannot be built.

    Attributes:
        data: On the device.
        digest: SHA-256 of the data.
        split: Which rows of the data are used for what.
        model: The network.
        rows: Metrics of each epoch so far.
    """

    def __init__(self, config: ExperimentConfig, data: ImageData, digest: str, ranks: Ranks, *, capture: bool) -> None:
        self.config = config
        self.digest = digest
        self.split = make_split(data, config.data, config.seed)
        if config.training.batch_unlabelled and not len(self.split.unlabelled):
            raise InvalidValueError(
                f"expected unlabelled images in {config.data.name}, got labelled ones alone; give "
                f"--training.batch-unlabelled 0, or --data.overlap, or lower --data.labelled"
            )
        self.rows: list[Metrics] = []
        self._ranks = ranks
        self.data = data.to(ranks.device)
        torch.manual_seed(config.seed)
        self.model = ranks.synchronised(config.model.build(data.shape, len(data.classes)))
        objective: nn.Module = build_objective(self.model, config.terms, config.model.task)
        self._needs_unlabelled = bool(objective.needs_unlabelled)
        optimizer = optimizers.build(config.training, self.model.parameters(), capture=capture)
        self._objective, self._optimizer = ranks.accelerator.prepare(objective, optimizer)
        self._step = choose_step(self._objective, self._optimizer, ranks.accelerator.backward, capture=capture)
        self._order = torch.Generator().manual_seed(config.seed)
        ranks.seed_noise(config.seed)

    def epoch(self, pixels: Pixels) -> Metrics:
        """Train one epoch more; all processes together.

        Returns:
            Its metrics: the mean over steps and processes of the loss and of each term before weighting, and, on
            rank 0, the error in percent.

        Raises:
            NonFiniteError: the loss, or something in a step, is NaN or infinite.
        """
        rising = optimizers.follow_schedule(self.config.training, len(self.rows), self._optimizer)
        self._objective.train()
        means = self._means(pixels, rising)
        task = self.config.model.task
        first = self._ranks.first
        wrong = error(self.model, pixels, self.data, self.split.evaluation, task) if first else math.nan
        self.rows.append({"epoch": float(len(self.rows) + 1), **means, "error": wrong})
        return self.rows[-1]

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on, as tensors and plain containers; all processes call it together."""
        own, *others = self._ranks.gathered(_random_state(self._ranks.device))
        return {
            "epoch": len(self.rows),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "order": self._order.get_state(),
            "random": own,
            "random_of_others": others,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, with as many processes."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        _set_random_state([state["random"], *state.get("random_of_others", [])][self._ranks.index], self._ranks.device)
        self.rows = upgraded_rows(state["rows"], self.config.terms)

    def _means(self, pixels: Pixels, rising: float) -> dict[str, float]:
        """Train the steps of an epoch with this factor of the weights that rise."""
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
        means = {name: float(total) / steps for name, total in self._ranks.mean(totals).items()}
        if not all(math.isfinite(value) for value in means.values()):
            raise NonFiniteError(f"expected a finite loss, got {means}")
        return means


def _random_state(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], device)

"""One run, from its config to its record: resumable at every epoch, bit-identical on CPU."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import Device, ExperimentConfig, differences
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening, fitted
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.models.prediction import error
from adversarial_dropout.experiments.records import Record, Row
from adversarial_dropout.experiments.training import checkpoint, optimizers, processes
from adversarial_dropout.experiments.training.batches import batches
from adversarial_dropout.experiments.training.objective import Batch, build_objective
from adversarial_dropout.experiments.training.processes import Ranks
from adversarial_dropout.experiments.training.step import Step, choose_step

Progress = Callable[[int, Row], None]
"""Called after each epoch with the number of epochs done and the epoch's metrics."""


class DivergedError(InvalidValueError):
    """The loss of a run, or something in a step, became NaN or infinite."""


def run(
    config: ExperimentConfig,
    folder: Path,
    progress: Progress | None = None,
    place: sources.Place = sources.NOWHERE,
    device: Device = "auto",
    *,
    capture: bool = False,
) -> Record:
    """Train as ``config`` says and leave the record in ``folder``; go on where an earlier call stopped.

    A finished run is not repeated. A run that was killed continues from its last checkpoint, and on CPU ends with the
    same bits as one that was not. Under ``torchrun`` or ``accelerate launch`` all processes call this, and train the
    run together.

    Args:
        config: What to run.
        folder: Where its record is, or will be. One run at a time works on it; a second one waits.
        progress: Called after each epoch, on rank 0.
        place: Where the data lie on this machine.
        device: What to compute on; "auto": CUDA, if there is any.
        capture: Whether a step is recorded as one CUDA graph.

    Raises:
        RecordError: a file cannot be written or read.
        InvalidValueError: ``folder`` holds a run of another config; the difference is shown. Or the processes cannot
            train it together.
        DivergedError: the loss is no longer finite; the checkpoint of the epoch before stays.
        RankError: another process stopped.
    """
    with processes.joined(device, config.training.precision, capture=capture) as ranks:
        ranks.check(config)
        if ranks.from_first(lambda: _finished(config, folder)):
            if place.folder is not None:
                ranks.from_first(lambda: _check_data(config, folder, place))
        else:
            with _alone(folder, ranks), _threads(config.threads), torch.random.fork_rng(_gpus(ranks)):
                # Another run may have finished it meanwhile.
                if not ranks.from_first(lambda: _finished(config, folder)):
                    _train(config, folder, progress, place, ranks, capture=capture)
        return ranks.from_first(lambda: records.read_record(folder))


def _alone(folder: Path, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    return records.locked(folder) if ranks.first else contextlib.nullcontext()


def _finished(config: ExperimentConfig, folder: Path) -> bool:
    """Whether ``folder`` holds the finished run of ``config``; an error if it holds one of another."""
    begun = records.is_finished(folder) or checkpoint.exists(folder)
    if begun and (folder / records.CONFIG).exists():
        _refuse_another(config, records.read_json(folder / records.CONFIG), folder)
    return records.is_finished(folder)


def _refuse_another(config: ExperimentConfig, recorded: dict[str, Any], folder: Path) -> None:
    with contextlib.suppress(InvalidValueError):  # Of another version: what differs is shown all the same.
        recorded = ExperimentConfig.from_dict(recorded).to_dict()
    changed = differences(recorded, config.to_dict())
    if changed:
        raise InvalidValueError(
            f"{folder} holds a run of another config (recorded → asked for): {'; '.join(changed)}. Choose another "
            f"folder with --out, or delete this one"
        )


def _check_data(config: ExperimentConfig, folder: Path, place: sources.Place) -> None:
    recorded = records.read_record(folder).final.get("data", {})
    _refuse_other_data(recorded.get("sha256"), sources.load(config.data, place).digest, folder)


def _refuse_other_data(recorded: str | None, digest: str, folder: Path) -> None:
    if recorded != digest:
        raise InvalidValueError(
            f"{folder} holds a run on other data: images, labels or their order have changed since. Choose another "
            f"folder with --out, or delete this one"
        )


def _train(
    config: ExperimentConfig,
    folder: Path,
    progress: Progress | None,
    place: sources.Place,
    ranks: Ranks,
    *,
    capture: bool,
) -> None:
    started = time.monotonic()
    environment = records.environment() | ranks.environment | ({"captured": True} if capture else {})
    accelerator = ranks.accelerator
    torch.manual_seed(config.seed)
    with accelerator.local_main_process_first():  # It decodes the images and keeps them; the others read them.
        data = sources.load(config.data, place)
    split = make_split(data, config.data, config.seed)
    if config.training.batch_unlabelled and not len(split.unlabelled):
        raise InvalidValueError(
            f"expected unlabelled images in {config.data.name}, got labelled ones alone; give "
            f"--training.batch-unlabelled 0, or --data.overlap, or lower --data.labelled"
        )
    digest = data.digest
    ranks.check_data(digest)
    data = data.to(accelerator.device)
    model = ranks.synchronised(config.model.build(data.shape, len(data.classes)))
    objective: nn.Module = build_objective(model, config.terms, config.model.task)
    needs_unlabelled = bool(objective.needs_unlabelled)
    optimizer = optimizers.build(config.training, model.parameters(), capture=capture)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    step = choose_step(objective, optimizer, accelerator.backward, capture=capture)
    order = torch.Generator().manual_seed(config.seed)
    ranks.seed_noise(config.seed)

    def begin() -> tuple[dict[str, Any] | None, Pixels]:
        state = checkpoint.load(folder)
        if state is not None:
            _refuse_another(config, state.get("config", {}), folder)
            _refuse_other_data(state.get("data"), digest, folder)
            ranks.check_number(1 + len(state.get("random_of_others", [])), folder)
        # Only now, so that a config that cannot be built does not occupy the folder.
        records.remove_leftovers(folder)
        records.write_json(folder / records.CONFIG, config.to_dict())
        records.write_json(folder / records.SPLIT, split.to_dict(), indent=None)
        place.note(folder)
        return state, _pixels(config, data, folder, begun=state is not None).to(torch.device("cpu"))

    state, pixels = ranks.from_first(begin)
    pixels = pixels.to(accelerator.device)
    rows: list[Row] = []
    seconds_before = 0.0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        order.set_state(state["order"])
        _set_random_state([state["random"], *state.get("random_of_others", [])][ranks.index], accelerator.device)
        rows = state["rows"]
        seconds_before = state["seconds"]

    for epoch in range(len(rows), config.training.epochs):
        rising = optimizers.follow_schedule(config.training, epoch, optimizer)
        steps = batches(
            data, pixels, split, config.training, order, needs_unlabelled=needs_unlabelled, share=ranks.share
        )
        objective.train()
        try:
            means = _epoch(step, steps, rising, ranks)
        except NonFiniteError as cause:
            raise DivergedError(
                f"{cause}. This was in epoch {epoch + 1} of {folder}; lower --training.learning-rate or the weight of "
                f"a term, with another --out"
            ) from cause
        wrong = error(model, pixels, data, split.evaluation, config.model.task) if ranks.first else math.nan
        own, *others = ranks.gathered(_random_state(accelerator.device))
        rows.append({"epoch": float(epoch + 1), **means, "error": wrong})
        if not ranks.first:
            continue
        checkpoint.save(
            folder,
            {
                "epoch": epoch + 1,
                "config": config.to_dict(),
                "data": digest,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "order": order.get_state(),
                "random": own,
                "random_of_others": others,
                "rows": rows,
                "seconds": seconds_before + time.monotonic() - started,
            },
        )
        records.write_metrics(folder, rows)
        if progress is not None:
            progress(epoch + 1, rows[-1])

    if not ranks.first:
        return
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    records.write_bytes(folder / records.WEIGHTS, safetensors.torch.save(weights))
    records.write_metrics(folder, rows)
    final = {
        "metrics": rows[-1],
        "evaluated_on": "validation" if config.data.validation else "test",
        "examples": len(split.evaluation),
        "seconds": seconds_before + time.monotonic() - started,
        "data": {
            "sha256": digest,
            "shape": data.shape,
            "brightest": data.brightest,
            "classes": data.classes,
        },
        "environment": environment,
    }
    records.write_json(folder / records.FINAL, final)


def _pixels(config: ExperimentConfig, data: ImageData, folder: Path, *, begun: bool) -> Pixels:
    """Makes the network's view of the data; what that takes is kept with the run."""
    whitening = None
    if config.data.whiten:
        kept = folder / records.WHITENING
        if begun and kept.exists():
            whitening = Whitening.load(kept)
        else:
            whitening = fitted(config.data, data)
            whitening.save(kept)
    return Pixels(config.data, data.brightest, whitening)


def _epoch(step: Step, batches: Iterable[Batch], weight: float, ranks: Ranks) -> dict[str, float]:
    """Train one epoch; return the mean over its steps and the ranks of the loss and of each term before weighting."""
    totals: dict[str, Tensor] = {}
    steps = 0
    for batch in batches:
        steps += 1
        for name, value in step(batch, weight).items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value
    means = {name: float(total) / steps for name, total in ranks.mean(totals).items()}
    if not all(math.isfinite(value) for value in means.values()):
        raise NonFiniteError(f"expected a finite loss, got {means}")
    return means


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gpus(ranks: Ranks) -> list[torch.device]:
    return [ranks.device] if ranks.device.type == "cuda" else []


def _random_state(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], device)

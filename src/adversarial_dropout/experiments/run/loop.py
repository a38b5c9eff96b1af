"""One run, from its config to its record: resumable at every epoch, bit-identical on CPU."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import Device, ExperimentConfig, differences
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.features import Progress
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.records import Metrics, Record
from adversarial_dropout.experiments.run import checkpoint
from adversarial_dropout.experiments.run.ranks import Ranks, joined
from adversarial_dropout.experiments.run.run import Run


class DivergedError(InvalidValueError):
    """The loss of a run, or something in a step, became NaN or infinite."""


def run(
    config: ExperimentConfig,
    folder: Path,
    progress: Callable[[int, Metrics], None] | None = None,
    location: DataLocation = sources.DEFAULT_LOCATION,
    device: Device = "auto",
    *,
    capture: bool = False,
    preparing: Progress | None = None,
) -> Record:
    """Train as ``config`` says, on ``device``, and write the record to ``folder``.

    A finished run is not repeated. A run that was stopped resumes from its last checkpoint, and on CPU ends with the
    same bits as one that was not. One run at a time works on a folder; a second one waits. Under ``torchrun`` or
    ``accelerate launch`` all processes call this, and train the run together. Rank 0 writes, and calls ``progress``
    after each epoch with the number of epochs done and the metrics. With ``capture``, a step is one CUDA graph. While
    features of a pretrained backbone are computed, ``preparing`` is called with the images done, and all.

    Raises:
        RecordError: a file cannot be written or read.
        InvalidValueError: ``folder`` holds another run, or the device or the processes cannot train this one.
        DivergedError: the loss is no longer finite; the checkpoint of the epoch before is unchanged.
        RankError: another process stopped.
    """
    with joined(device, config.training.precision, capture=capture) as ranks:
        ranks.check(config)
        if ranks.on_rank_zero(check_finished, config, folder):
            if location.paths:
                ranks.on_rank_zero(_check_data, config, folder, location)
        else:
            with contextlib.ExitStack() as stack:
                if ranks.is_first:
                    stack.enter_context(records.locked(folder))
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(config.threads)
                stack.enter_context(torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []))
                # Another run may have finished it meanwhile.
                if not ranks.on_rank_zero(check_finished, config, folder):
                    _train(config, folder, progress, location, ranks, capture=capture, preparing=preparing)
        return ranks.on_rank_zero(records.read_record, folder)


def _train(
    config: ExperimentConfig,
    folder: Path,
    progress: Callable[[int, Metrics], None] | None,
    location: DataLocation,
    ranks: Ranks,
    *,
    capture: bool,
    preparing: Progress | None,
) -> None:
    """Build the run, resume it, train the epochs that are left, and finish it."""
    started = time.monotonic()
    environment = {**records.environment(), "device": ranks.device.type}
    environment |= {"processes": ranks.count} if ranks.count > 1 else {}
    environment |= {"captured": True} if capture else {}

    with ranks.accelerator.local_main_process_first():  # It decodes and stores the images; the others read them.
        data = load_data(config, location)
    digest = data.digest
    ranks.check_same({"sha256 of the data": digest}, "the same images, in the same order,")
    run = Run(config, data, ranks, capture=capture, digest=digest, preparing=preparing if ranks.is_first else None)
    if run.described is not None:
        ranks.check_same(run.described, "the same backbone")

    state, pixels = ranks.on_rank_zero(_resume_on_rank_zero, run, digest, folder, location, ranks.count)
    pixels = pixels.to(ranks.device)
    if state is not None:
        run.load_state_dict(state)
        started -= state["seconds"]

    while len(run.rows) < config.training.epochs:
        try:
            row = run.epoch(pixels)
        except NonFiniteError as cause:
            raise DivergedError(
                f"{cause}. This was in epoch {len(run.rows) + 1} of {folder}; lower --training.learning-rate or the "
                f"weight of a term, with another --out"
            ) from cause
        state = run.state_dict() | {
            "backbone": run.described,
            "config": config.to_dict(),
            "data": digest,
            "seconds": time.monotonic() - started,
        }
        if ranks.is_first:
            checkpoint.save(folder, state)
            records.write_metrics(folder, run.rows)
            if progress is not None:
                progress(len(run.rows), row)

    if ranks.is_first:
        _finish_on_rank_zero(run, digest, folder, time.monotonic() - started, environment)


def _resume_on_rank_zero(
    run: Run, digest: str, folder: Path, location: DataLocation, count: int
) -> tuple[dict[str, Any] | None, Pixels]:
    """Write what a record has before the first epoch; return the checkpoint, if any, and the view of the data."""
    config = run.config
    state = checkpoint.load(folder)
    if state is not None:
        recorded = state.get("config", {})
        _check_config(config, recorded, folder)
        shuffled = recorded.get("training", {}).get("batch_unlabelled", config.training.batch_unlabelled)
        if shuffled != config.training.batch_unlabelled:
            raise InvalidValueError(
                f"{folder} was begun by an earlier version, which shuffled {shuffled} unlabelled examples a step that "
                f"the run never saw, so that it would resume in another order; choose another folder with --out, or "
                f"delete this one"
            )
        _check_digest(state.get("data"), digest, folder)
        if state.get("backbone") != run.described:
            raise InvalidValueError(
                f"{folder} holds a run with another backbone: its weights, config or preprocessing have changed since. "
                f"Choose another folder with --out, or delete this one"
            )
        before = 1 + len(state.get("random_of_others", []))
        if before != count:
            raise InvalidValueError(
                f"{folder} holds a run that was begun with {before} processes, got {count}: each has its own noise and "
                f"its share of every batch. Resume it with {before} (for 1, without torchrun or accelerate launch), or "
                f"choose another folder with --out"
            )
    # Only now, so that a config that cannot be built does not occupy the folder.
    records.remove_leftovers(folder)
    records.write_json(folder / records.CONFIG, config.to_dict())
    records.write_json(folder / records.SPLIT, run.split.to_dict(), indent=None)
    location.note(folder)
    whitening = None
    if config.data.whiten:
        path = folder / records.WHITENING
        if state is not None and path.exists():
            whitening = Whitening.load(path)
        else:
            images = run.data.images[run.data.training]
            whitening = Whitening.fit(Pixels(config.data, run.data.brightest)(images))
            whitening.save(path)
    return state, run.pixels(whitening).to(torch.device("cpu"))


def _finish_on_rank_zero(run: Run, digest: str, folder: Path, seconds: float, environment: dict[str, Any]) -> None:
    """Write the weights and the rest of the record."""
    weights = {name: tensor.contiguous() for name, tensor in run.weights.items()}
    records.write_bytes(folder / records.WEIGHTS, safetensors.torch.save(weights))
    records.write_metrics(folder, run.rows)
    data = run.data
    final = {
        "metrics": run.rows[run.kept - 1],
        "epoch": run.kept,
        "held_out": len(run.split.choosing),
        "evaluated_on": "validation" if run.config.data.validation else "test",
        "examples": len(run.split.evaluation),
        "seconds": seconds,
        "data": {"sha256": digest, "shape": run.shape, "brightest": data.brightest, "classes": data.classes},
        "environment": environment,
    }
    if run.described is not None:
        final["backbone"] = run.described
    records.write_json(folder / records.FINAL, final)


def load_data(config: ExperimentConfig, location: DataLocation = sources.DEFAULT_LOCATION) -> ImageData:
    """Load the data of a run, at a size that its network takes."""
    return sources.load(config.data, location, largest=config.model.input_size)


def check_finished(config: ExperimentConfig, folder: Path, digest: str | None = None) -> bool:
    """Whether ``folder`` holds the finished run of ``config``; raise if it holds another run, or one on other data than
    those with ``digest``, if that is given.
    """
    finished = records.is_finished(folder)
    if (finished or checkpoint.exists(folder)) and (folder / records.CONFIG).exists():
        _check_config(config, records.read_json(folder / records.CONFIG), folder)
    if finished and digest is not None:
        _check_digest(records.read_record(folder).final.get("data", {}).get("sha256"), digest, folder)
    return finished


def _check_config(config: ExperimentConfig, recorded: dict[str, Any], folder: Path) -> None:
    changed = differences(recorded, config.to_dict())
    if changed:
        raise InvalidValueError(
            f"{folder} holds a run of another config (recorded → asked for): {'; '.join(changed)}. Choose another "
            f"folder with --out, or delete this one"
        )


def _check_data(config: ExperimentConfig, folder: Path, location: DataLocation) -> None:
    check_finished(config, folder, load_data(config, location).digest)


def _check_digest(recorded: str | None, digest: str, folder: Path) -> None:
    if recorded != digest:
        raise InvalidValueError(
            f"{folder} holds a run on other data: images, labels or their order have changed since. Choose another "
            f"folder with --out, or delete this one"
        )

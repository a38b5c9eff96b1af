"""One run, from its config to its record: resumable at every epoch, bit-identical on CPU."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import Device, ExperimentConfig, differences
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels, Whitening, fitted
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.records import Metrics, Record
from adversarial_dropout.experiments.run import checkpoint
from adversarial_dropout.experiments.run.ranks import Ranks, joined
from adversarial_dropout.experiments.run.run import Run

Progress = Callable[[int, Metrics], None]
"""Called after each epoch with the number of epochs done and the epoch's metrics."""


class DivergedError(InvalidValueError):
    """The loss of a run, or something in a step, became NaN or infinite."""


def run(
    config: ExperimentConfig,
    folder: Path,
    progress: Progress | None = None,
    location: sources.DataLocation = sources.DEFAULT_LOCATION,
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
        location: Where the data lie on this machine.
        device: What to compute on; "auto": CUDA, if there is any.
        capture: Whether a step is recorded as one CUDA graph.

    Raises:
        RecordError: a file cannot be written or read.
        InvalidValueError: ``folder`` holds a run of another config; the difference is shown. Or the processes cannot
            train it together.
        DivergedError: the loss is no longer finite; the checkpoint of the epoch before stays.
        RankError: another process stopped.
    """
    with joined(device, config.training.precision, capture=capture) as ranks:
        ranks.check(config)
        if ranks.from_first(_finished, config, folder):
            if location.folder is not None:
                ranks.from_first(_check_data, config, folder, location)
        else:
            with _alone(folder, ranks), _threads(config.threads), torch.random.fork_rng(_gpus(ranks)):
                # Another run may have finished it meanwhile.
                if not ranks.from_first(_finished, config, folder):
                    _train(config, folder, progress, location, ranks, capture=capture)
        return ranks.from_first(records.read_record, folder)


def _alone(folder: Path, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    return records.locked(folder) if ranks.first else contextlib.nullcontext()


def _finished(config: ExperimentConfig, folder: Path) -> bool:
    """Whether ``folder`` holds the finished run of ``config``; an error if it holds one of another."""
    begun = records.is_finished(folder) or checkpoint.exists(folder)
    if begun and (folder / records.CONFIG).exists():
        _refuse_another(config, records.read_json(folder / records.CONFIG), folder)
    return records.is_finished(folder)


def _refuse_another(config: ExperimentConfig, recorded: dict[str, Any], folder: Path) -> None:
    changed = differences(recorded, config.to_dict())
    if changed:
        raise InvalidValueError(
            f"{folder} holds a run of another config (recorded → asked for): {'; '.join(changed)}. Choose another "
            f"folder with --out, or delete this one"
        )


def _refuse_another_order(config: ExperimentConfig, begun: dict[str, Any], folder: Path) -> None:
    before = begun.get("training", {}).get("batch_unlabelled", config.training.batch_unlabelled)
    if before != config.training.batch_unlabelled:
        raise InvalidValueError(
            f"{folder} was begun by an earlier version, which shuffled {before} unlabelled examples a step that the "
            f"run never saw, so that it would go on in another order; choose another folder with --out, or delete this "
            f"one"
        )


def _check_data(config: ExperimentConfig, folder: Path, location: sources.DataLocation) -> None:
    recorded = records.read_record(folder).final.get("data", {})
    _refuse_other_data(recorded.get("sha256"), sources.load(config.data, location).digest, folder)


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
    location: sources.DataLocation,
    ranks: Ranks,
    *,
    capture: bool,
) -> None:
    clock = _Clock()
    environment = records.environment() | ranks.environment | ({"captured": True} if capture else {})
    with ranks.accelerator.local_main_process_first():  # It decodes the images and keeps them; the others read them.
        data = sources.load(config.data, location)
    digest = data.digest
    ranks.check_data(digest)
    under_way = Run(config, data, digest, ranks, capture=capture)
    pixels = _resume(under_way, folder, location, clock, ranks)
    while len(under_way.rows) < config.training.epochs:
        row = _epoch(under_way, pixels, folder)
        state = under_way.state_dict()
        if ranks.first:
            checkpoint.save(folder, {"config": config.to_dict(), "data": digest, "seconds": clock.seconds, **state})
            records.write_metrics(folder, under_way.rows)
            if progress is not None:
                progress(len(under_way.rows), row)
    if ranks.first:
        _finish(under_way, folder, clock, environment)


class _Clock:
    """Seconds of a run, over all restarts."""

    def __init__(self) -> None:
        self.before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self._started


def _resume(under_way: Run, folder: Path, location: sources.DataLocation, clock: _Clock, ranks: Ranks) -> Pixels:
    """Go on from the last checkpoint, if there is one; return what makes the network's view of the data."""
    state, pixels = ranks.from_first(_begin, under_way, folder, location, ranks)
    if state is not None:
        under_way.load_state_dict(state)
        clock.before = state["seconds"]
    return pixels.to(ranks.device)


def _begin(
    under_way: Run, folder: Path, location: sources.DataLocation, ranks: Ranks
) -> tuple[dict[str, Any] | None, Pixels]:
    """On rank 0: read the checkpoint, and write what stands before the first epoch."""
    config = under_way.config
    state = checkpoint.load(folder)
    if state is not None:
        _refuse_another(config, state.get("config", {}), folder)
        _refuse_another_order(config, state.get("config", {}), folder)
        _refuse_other_data(state.get("data"), under_way.digest, folder)
        ranks.check_number(1 + len(state.get("random_of_others", [])), folder)
    # Only now, so that a config that cannot be built does not occupy the folder.
    records.remove_leftovers(folder)
    records.write_json(folder / records.CONFIG, config.to_dict())
    records.write_json(folder / records.SPLIT, under_way.split.to_dict(), indent=None)
    location.note(folder)
    return state, _pixels(config, under_way.data, folder, begun=state is not None).to(torch.device("cpu"))


def _epoch(under_way: Run, pixels: Pixels, folder: Path) -> Metrics:
    try:
        return under_way.epoch(pixels)
    except NonFiniteError as cause:
        raise DivergedError(
            f"{cause}. This was in epoch {len(under_way.rows) + 1} of {folder}; lower --training.learning-rate or the "
            f"weight of a term, with another --out"
        ) from cause


def _finish(under_way: Run, folder: Path, clock: _Clock, environment: dict[str, Any]) -> None:
    """On rank 0: write the weights and the record."""
    data = under_way.data
    weights = {name: tensor.contiguous() for name, tensor in under_way.model.state_dict().items()}
    records.write_bytes(folder / records.WEIGHTS, safetensors.torch.save(weights))
    records.write_metrics(folder, under_way.rows)
    final = {
        "metrics": under_way.rows[-1],
        "evaluated_on": "validation" if under_way.config.data.validation else "test",
        "examples": len(under_way.split.evaluation),
        "seconds": clock.seconds,
        "data": {
            "sha256": under_way.digest,
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

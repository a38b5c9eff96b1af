"""Many runs at once: each cell resumable, none run twice. Local processes are here, a cluster has its own file."""

import functools
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import Device, ExperimentConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.run.devices import check_device
from adversarial_dropout.experiments.run.ranks import refuse_several

_POLL_SECONDS = 0.5
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_NEEDED = 1 << 20

_COST_PLAIN = 3
"""Forward passes of an example for the cross-entropy, the backward pass counted as two. They weigh the progress."""
_USUAL_STEPS = 400


class GridError(AdversarialDropoutError, RuntimeError):
    """Some cells of a grid failed; the others are finished and kept."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        config: What is run.
        folder: Where its record is, or will be.
        location: Where the data lie.
        device: What to compute on.
        capture: Whether a step is recorded as one CUDA graph.
    """

    config: ExperimentConfig
    folder: Path
    location: sources.DataLocation
    device: Device = "auto"
    capture: bool = False

    def run(self) -> str | None:
        """Run it, or go on with it; return why it failed, or ``None``."""
        try:
            loop.run(self.config, self.folder, location=self.location, device=self.device, capture=self.capture)
        except AdversarialDropoutError as error:
            return str(error)
        except Exception as error:  # The other cells go on, whatever went wrong in this one.
            return f"{type(error).__name__}: {error}"
        return None


Backend = Callable[[Sequence[Cell], Path, int | None], list[str | None]]
"""Runs cells whose folders are below a root, so many at a time (``None``: as many as there is room for); returns why
each failed, or ``None``. Raises :class:`GridError` where none can go on."""


def run_locally(cells: Sequence[Cell], root: Path, jobs: int | None) -> list[str | None]:
    """The backend of one machine: ``jobs`` processes, one a core if that is ``None``."""
    for device, capture in {(cell.device, cell.capture) for cell in cells}:
        check_device(device, capture=capture)
    jobs = min(jobs or os.cpu_count() or 1, len(cells))
    if jobs <= 1:
        return [cell.run() for cell in cells]
    _check_shared_memory()
    import joblib  # Here, because its import needs shared memory too.
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        return list(joblib.Parallel(n_jobs=jobs)(joblib.delayed(_run)(cell, os.getpid()) for cell in cells))
    except TerminatedWorkerError as error:
        raise GridError(
            "a process that was training was killed, perhaps for lack of memory; the finished runs are kept: lower "
            "--jobs, and give the same command again"
        ) from error
    except OSError as error:  # Cells return theirs.
        raise GridError(
            f"cannot start processes: {error}; free memory and {_SHARED_MEMORY}, or give the same command with --jobs 1"
        ) from error


def run_grid(
    configs: Sequence[ExperimentConfig],
    root: Path,
    *,
    jobs: int | None = None,
    backend: Backend = run_locally,
    progress: Callable[[float, int], None] | None = None,
    location: sources.DataLocation = sources.DEFAULT_LOCATION,
    device: Device = "auto",
    capture: bool = False,
) -> list[Record]:
    """Run every config in a folder of its own below ``root``, ``jobs`` at a time.

    Finished cells are read, interrupted ones go on from their last checkpoint. A cell that fails does not stop the
    others.

    Args:
        configs: The cells.
        root: Where their folders are.
        jobs: Number of cells at a time; ``None``: as many as the backend has room for.
        backend: Where they run.
        progress: Called about twice a second with the share of the work that is done and the number of finished cells.
        location: Where the data lie on this machine.
        device: What to compute on.
        capture: Whether a step is recorded as one CUDA graph.

    Returns:
        The records, in the order of ``configs``.

    Raises:
        GridError: at least one cell failed; the message names each with its cause.
        InvalidValueError, RecordError: the data cannot be had, or some of them cannot be read.
    """
    refuse_several("a grid")
    folders = [records.run_folder(root, config) for config in configs]
    unfinished = [config for config, folder in zip(configs, folders, strict=True) if not records.is_finished(folder)]
    for data in dict.fromkeys(config.data for config in unfinished):
        sources.load(data, location)  # Decoded and checked once, before any process trains.
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(configs, folders, progress, finished), daemon=True)
    watcher.start()
    try:
        cells = [
            Cell(config, folder, location, device, capture) for config, folder in zip(configs, folders, strict=True)
        ]
        failures = backend(cells, root, jobs)
    finally:
        finished.set()
        watcher.join()
    failed = [f"{folder}: {why}" for folder, why in zip(folders, failures, strict=True) if why is not None]
    if failed:
        raise GridError(
            f"{len(failed)} of {len(configs)} runs failed; the others are kept, and the same command goes on with "
            f"these:\n" + "\n".join(failed)
        )
    return [records.read_record(folder) for folder in folders]


def _run(cell: Cell, parent: int) -> str | None:
    end_with(parent)
    return cell.run()


@functools.cache
def end_with(parent: int) -> None:
    """From now on, end this process when ``parent`` has ended, however that was: what is recorded is whole."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check_shared_memory() -> None:
    if _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free
        if free < _SHARED_MEMORY_NEEDED:
            raise GridError(
                f"expected {_SHARED_MEMORY_NEEDED >> 10} KiB free in {_SHARED_MEMORY} for processes to wait for each "
                f"other, got {free >> 10} KiB; remove what others left there, make it larger (in a container "
                f"--shm-size=64m), or give the same command with --jobs 1"
            )


def _cost(config: ExperimentConfig) -> float:
    training = config.training
    labelled, unlabelled = training.batch_labelled, training.batch_unlabelled or training.batch_labelled
    step = _COST_PLAIN * labelled + sum(
        term.cost * (labelled if term.supervised else unlabelled) for term in config.terms.values()
    )
    steps = training.epochs * (training.steps_per_epoch or _USUAL_STEPS)
    return steps * step * config.model.work


def _watch(
    configs: Sequence[ExperimentConfig],
    folders: Sequence[Path],
    progress: Callable[[float, int], None] | None,
    finished: threading.Event,
) -> None:
    if progress is None:
        return
    total = sum(_cost(config) for config in configs)
    last = False
    while not last:
        last = finished.wait(_POLL_SECONDS)
        done = sum(
            _cost(config) * min(1.0, records.epochs_done(folder) / config.training.epochs)
            for config, folder in zip(configs, folders, strict=True)
        )
        progress(done / total, sum(records.is_finished(folder) for folder in folders))

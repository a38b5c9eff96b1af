"""Many runs at once, each resumable, none run twice, on one machine; see :mod:`cluster` for several."""

import functools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.errors import AdversarialDropoutError, AdversarialDropoutWarning
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
_USUAL_STEPS = 400


class GridError(AdversarialDropoutError, RuntimeError):
    """Some cells of a grid failed; the others are finished."""


class GridWarning(AdversarialDropoutWarning):
    """Something happened to a cluster; its grid continues."""


@dataclass(frozen=True)
class Cell:
    """A run of a grid: its config, its folder, and how to run it (as in :func:`loop.run`)."""

    config: ExperimentConfig
    folder: Path
    location: sources.DataLocation
    device: Device = "auto"
    capture: bool = False

    def run(self) -> str | None:
        """Run or resume it; return why it failed, or ``None``."""
        return _failure(loop.run, self.config, self.folder, None, self.location, self.device, capture=self.capture)


Backend = Callable[[Sequence[Cell], Path, int | None], list[str | None]]
"""Runs cells whose folders are below a root, so many at a time (``None``: as many as there is room for); returns why
each failed, or ``None``. Raises :class:`GridError` if none can continue."""


def _failure(work: Callable[..., object], *arguments: object, **options: object) -> str | None:
    """Do some work for a cell; return why it failed, or ``None``."""
    try:
        work(*arguments, **options)
    except AdversarialDropoutError as error:
        return str(error)
    except Exception as error:  # Whatever went wrong, the other cells continue.
        return f"{type(error).__name__}: {error}"
    return None


def run_locally(cells: Sequence[Cell], root: Path, jobs: int | None) -> list[str | None]:
    """The backend of one machine: ``jobs`` processes, or one per core."""
    check_device(cells[0].device, capture=cells[0].capture)
    jobs = min(jobs or os.cpu_count() or 1, len(cells))
    if jobs <= 1:
        return [cell.run() for cell in cells]
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < _SHARED_MEMORY_NEEDED:
        raise GridError(
            f"expected {_SHARED_MEMORY_NEEDED >> 10} KiB free in {_SHARED_MEMORY} for the processes to synchronise, "
            f"got {free >> 10} KiB; remove files there, make it larger (in a container --shm-size=64m), or give the "
            f"same command with --jobs 1"
        )
    import joblib  # Here, because its import needs shared memory too.
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        # Ctrl-C is for the command, which ends them.
        with joblib.parallel_config("loky", initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)):
            return list(joblib.Parallel(n_jobs=jobs)(joblib.delayed(_run)(cell, os.getpid()) for cell in cells))
    except TerminatedWorkerError as error:
        raise GridError(
            "a process that was training was killed, perhaps for lack of memory; what is recorded is safe: lower "
            "--jobs, and give the same command again"
        ) from error
    except OSError as error:  # Cells return their own.
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
    """Run every config in its own folder below ``root``, ``jobs`` at a time; return the records in the same order.

    Finished cells are checked and read; ``backend`` runs or resumes the others. A cell that fails does not stop them;
    at the end, a :class:`GridError` lists the failed cells with their causes. ``progress`` is called about twice a
    second with the share of the work done and the number of finished cells.
    """
    refuse_several("a grid")
    location = location.absolute()  # As the folders below: a backend may run cells in another directory.
    folders = [records.run_folder(root, config) for config in configs]
    cells = [
        Cell(config, folder.absolute(), location, device, capture)
        for config, folder in zip(configs, folders, strict=True)
    ]
    todo = [cell for cell in cells if not records.is_finished(cell.folder)]
    given = bool(location.paths)  # As in a single run, only then a finished one is compared with its data.
    # Decode and check the data once, before any process trains.
    keys = {cell: (cell.config.data, cell.config.model.input_size) for cell in (cells if given else todo)}
    different = {key: cell.config for cell, key in keys.items()}
    digests = {key: loop.load_data(config, location).digest for key, config in different.items()}
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(cells, progress, finished), daemon=True)
    if progress is not None:
        watcher.start()
    try:
        failures = {
            cell: _failure(loop.check_finished, cell.config, cell.folder, digests[keys[cell]] if given else None)
            for cell in cells
            if cell not in todo
        }
        if todo:
            failures.update(zip(todo, backend(todo, root, jobs), strict=True))
    finally:
        finished.set()
        if progress is not None:
            watcher.join()
    failed = [
        f"{folder}: {why}" for folder, why in zip(folders, map(failures.get, cells), strict=True) if why is not None
    ]
    if failed:
        raise GridError(
            f"{len(failed)} of {len(configs)} runs failed; the others are finished, and the same command resumes "
            f"these:\n" + "\n".join(failed)
        )
    return [records.read_record(folder) for folder in folders]


def _run(cell: Cell, parent: int) -> str | None:
    end_with(parent)
    return cell.run()


@functools.cache
def end_with(parent: int) -> None:
    """From now on, end this process when ``parent`` has ended for any reason; its files are complete at any time."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watch(cells: Sequence[Cell], progress: Callable[[float, int], None], finished: threading.Event) -> None:
    costs = [work(cell.config) for cell in cells]
    last = False
    while not last:
        last = finished.wait(_POLL_SECONDS)
        done = sum(
            cost * min(1.0, records.epochs_done(cell.folder) / cell.config.training.epochs)
            for cost, cell in zip(costs, cells, strict=True)
        )
        progress(done / sum(costs), sum(records.is_finished(cell.folder) for cell in cells))


def work(config: ExperimentConfig) -> float:
    """Work of a run, by which progress is weighted and time estimated: passes through the network, times its size."""
    training = config.training
    labelled, unlabelled = training.batch_labelled, training.batch_unlabelled or training.batch_labelled
    step = 3 * labelled  # The cross-entropy's forward pass, and its backward pass that takes twice as long.
    step += sum(term.cost * (labelled if term.supervised else unlabelled) for term in config.terms.values())
    return training.epochs * (training.steps_per_epoch or _USUAL_STEPS) * step * config.model.work

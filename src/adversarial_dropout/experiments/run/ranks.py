"""The processes (ranks) that train one run together: how they share the work, agree, and end."""

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import Device, ExperimentConfig, Precision, TrainingConfig, differences
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.run.devices import check_device, products

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
P = ParamSpec("P")

# For the slowest thing that the others wait for: rank 0 decodes the images, or waits for another run on its folder.
_PATIENCE = timedelta(minutes=30)
_STRIDE = 0x9E3779B9  # 2³² over the golden ratio: multiples stay far apart in the 32 bits that a CPU generator takes.
_LARGEST_SEED = 2**63


class RankError(AdversarialDropoutError, RuntimeError):
    """This rank stopped because another one did."""


def launched() -> int:
    """Number of processes that ``torchrun`` or ``accelerate launch`` has started; 1 without them."""
    size = os.environ.get("WORLD_SIZE") or "1"
    return int(size) if size.isdecimal() else 1


def rank() -> int:
    """Number of this process among them."""
    index = os.environ.get("RANK", "0")
    return int(index) if launched() > 1 and index.isdecimal() else 0


def refuse_several(command: str) -> None:
    """Raise if ``torchrun`` or ``accelerate launch`` has started several processes of a command that is for one."""
    if launched() > 1:
        raise InvalidValueError(
            f"expected one process for {command}, got {launched()} (WORLD_SIZE); start it without torchrun or "
            f"accelerate launch: what trains many runs has --jobs, and several processes for one run are for train"
        )


def noise_seed(seed: int, rank: int) -> int:
    """Seed of a rank's own noise, from that of the run: rank 0 has the run's."""
    return (seed + rank * _STRIDE) % _LARGEST_SEED


class Ranks:
    """The processes of one run, as one of them sees them. Alone, it does what a single process would.

    Attributes:
        number: How many there are.
        index: Which of them this is.
        first: Whether this is rank 0, which alone writes files and reports.
    """

    def __init__(self, device: Device, precision: Precision) -> None:
        self.number = launched()
        self.index = rank()
        self.first = self.index == 0
        self._device = device
        self._precision = precision
        self._began = False

    @functools.cached_property
    def accelerator(self) -> "Accelerator":
        """Made when it is first needed, because its import takes long."""
        from accelerate import Accelerator
        from accelerate.state import is_initialized
        from accelerate.utils import InitProcessGroupKwargs

        self._began = not is_initialized()
        if self.number > 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # Or Accelerate counts cores; a run sets its threads itself.
        return Accelerator(
            cpu=self._device == "cpu" or (self.number > 1 and not torch.cuda.is_available()),
            mixed_precision="bf16" if self._precision == "bf16" else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def environment(self) -> dict[str, Any]:
        """What a record says of where the run was computed, besides the machine."""
        return {"device": self.device.type} | ({"processes": self.number} if self.number > 1 else {})

    def gathered(self, value: T) -> list[T]:
        """The ``value`` of every rank."""
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found

    def from_first(self, make: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What ``make(*arguments)`` gives on rank 0, where alone it runs; its error there ends the others too."""
        if self.number == 1:
            return make(*arguments, **options)
        from accelerate.utils import broadcast_object_list

        made: list[Any] = [None, None]
        if self.first:
            try:
                made = [make(*arguments, **options), None]
            except Exception as error:
                broadcast_object_list([None, str(error)])
                raise
        value, wrong = broadcast_object_list(made)
        if wrong is not None:
            raise RankError(f"stopped, because rank 0 did: {wrong}")
        result: T = value
        return result

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean over the ranks of each value."""
        means: dict[str, Tensor] = self.accelerator.reduce(values, reduction="mean")
        return means

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of ``rows``, shape (steps, batch): (steps, batch / ranks)."""
        return rows.chunk(self.number, dim=1)[self.index]

    def synchronised(self, model: nn.Module) -> nn.Module:
        """``model`` with normalisation over the joined batch: mean-only everywhere, BatchNorm where there is CUDA.

        The names of its weights stay.
        """
        if self.number == 1:
            return model
        for module in model.modules():
            if isinstance(module, MeanOnlyBatchNorm):
                module.synchronised = True
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return model

    def seed_noise(self, seed: int) -> None:
        """From here on this rank draws from a stream of its own; rank 0 goes on with the run's."""
        if not self.first:
            torch.manual_seed(noise_seed(seed, self.index))

    def check(self, config: ExperimentConfig) -> None:
        """Check that the ranks can train ``config`` together.

        Raises:
            InvalidValueError: a batch has no equal shares, or the versions or the config of two ranks differ.
        """
        if self.number == 1:
            return
        _check_batches(config.training, self.number)
        mine = {"host": platform.node(), "versions": records.versions(), "config": config.to_dict()}
        first, *others = self.gathered(mine)
        for index, other in enumerate(others, start=1):
            changed = [
                line
                for part in ("versions", "config")
                for line in differences(first[part], other[part])  # type: ignore[arg-type]
            ]
            self._refuse(changed, index, first["host"], other["host"], "the same versions and the same command")

    def check_data(self, digest: str) -> None:
        """Raise :class:`InvalidValueError` unless all ranks have read the same data."""
        first, *others = self.gathered((platform.node(), digest))
        for index, (host, found) in enumerate(others, start=1):
            changed = [] if found == first[1] else [f"sha256 of the data: {first[1]} → {found}"]
            self._refuse(changed, index, first[0], host, "the same images, in the same order,")

    def check_number(self, before: int, folder: Path) -> None:
        """Raise :class:`InvalidValueError` unless a run in ``folder`` goes on with as many ranks as ``before``."""
        if before != self.number:
            raise InvalidValueError(
                f"{folder} holds a run that was begun with {before} processes, got {self.number}: each has its own "
                f"noise and its share of every batch. Go on with {before} (torchrun --nproc-per-node {before}, or "
                f"neither torchrun nor accelerate launch for 1), or choose another folder with --out"
            )

    def end(self) -> None:
        """Let Accelerate forget what it keeps for the whole process, so that another run can be set up otherwise."""
        if self._began:
            from accelerate.state import AcceleratorState

            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()
            AcceleratorState._reset_state(reset_partial_state=True)

    def _refuse(self, changed: list[str], index: int, first: object, other: object, expected: str) -> None:
        if changed:
            raise InvalidValueError(
                f"expected {expected} on all ranks; rank {index} on {other} differs from rank 0 on {first} (rank 0 → "
                f"rank {index}): {'; '.join(changed)}"
            )


@contextlib.contextmanager
def joined(device: Device, precision: Precision, *, capture: bool = False) -> Iterator[Ranks]:
    """Work on a run together with the other processes that were started for it; alone if there are none.

    Raises:
        InvalidValueError: CUDA is asked for, and there is none; there are more processes than GPUs; or they were not
            started as they should be.
        RankError: another rank stopped.
    """
    ranks = Ranks(device, precision)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.number > 1 else 1
    check_device(device, here, capture=capture)
    if ranks.number > 1:
        _check_launch()
        ranks.accelerator.wait_for_everyone()
    try:
        with products(precision):
            yield ranks
    except Exception as error:
        if ranks.number > 1:
            _stop(error)
        raise
    finally:
        if ranks.number == 1:
            ranks.end()
    if ranks.number > 1:
        ranks.end()


def _check_launch() -> None:
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InvalidValueError(
            f"expected {', '.join(missing)} beside WORLD_SIZE={launched()}, which torchrun and accelerate launch set; "
            f"start with one of them, or unset WORLD_SIZE"
        )


def _stop(error: Exception) -> None:
    """Raise ``error`` for the launcher to show; what a lost connection says of it, in plain words.

    The process group is left as it is: to take it down would be to wait for the others.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    shown = error
    if _is_lost_connection(error):
        why = str(error).strip().splitlines()[0][:200]
        shown = RankError(f"stopped, because another rank did; the error of that one says why (here: {why})")
    get_error_handler().record_exception(shown)
    raise shown from (None if shown is error else error)


def _is_lost_connection(error: Exception) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "TCPStore"))


def _check_batches(training: TrainingConfig, ranks: int) -> None:
    for name in ("batch_labelled", "batch_unlabelled"):
        size = getattr(training, name)
        if size % ranks:
            raise InvalidValueError(
                f"expected training.{name} to be a multiple of the number of processes, of which each takes an equal "
                f"share of every batch, got {size} examples for {ranks}; give "
                f"--training.{name.replace('_', '-')} {max(ranks, size - size % ranks)}, or start another number"
            )

"""The processes (ranks) that train one run together: how they share the work, agree, and end."""

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import Device, ExperimentConfig, Precision, differences
from adversarial_dropout.experiments.models.mean_only_batch_norm import MeanOnlyBatchNorm
from adversarial_dropout.experiments.run.devices import check_device, products

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
P = ParamSpec("P")

# Long enough for the slowest work on rank 0: decoding the images, or waiting for another run on the same folder.
_PATIENCE = timedelta(minutes=30)


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
    """Raise if ``torchrun`` or ``accelerate launch`` has started several processes of a command that takes one."""
    if launched() > 1:
        raise InvalidValueError(
            f"expected one process for {command}, got {launched()} (WORLD_SIZE); start it without torchrun or "
            f"accelerate launch: commands that train many runs have --jobs, and only train takes several processes"
        )


def noise_seed(seed: int, rank: int) -> int:
    """Seed of a rank's noise, from the run's seed; rank 0 has the run's."""
    # 2³² over the golden ratio: its multiples are far apart in the 32 bits that a CPU generator takes.
    return (seed + rank * 0x9E3779B9) % 2**63


class Ranks:
    """The processes of one run, as one of them sees them; there may be only one.

    Attributes:
        count: Number of processes.
        index: Number of this one.
        is_first: Whether this is rank 0, the only one that writes files and reports.
    """

    def __init__(self, device: Device, precision: Precision) -> None:
        self.count = launched()
        self.index = rank()
        self.is_first = self.index == 0
        self._device = device
        self._precision = precision
        self._created_state = False

    @functools.cached_property
    def accelerator(self) -> "Accelerator":
        """Created when it is first needed, because its import takes long."""
        from accelerate import Accelerator
        from accelerate.state import is_initialized
        from accelerate.utils import InitProcessGroupKwargs

        self._created_state = not is_initialized()
        if self.count > 1:  # Otherwise Accelerate sets it to a number of cores; a run sets its threads itself.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        return Accelerator(
            cpu=self._device == "cpu" or (self.count > 1 and not torch.cuda.is_available()),
            mixed_precision="bf16" if self._precision == "bf16" else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        device: torch.device = self.accelerator.device
        return device

    def gathered(self, value: T) -> list[T]:
        """The ``value`` of every rank."""
        from accelerate.utils import gather_object

        values: list[T] = gather_object([value])
        return values

    def on_rank_zero(self, make: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call ``make`` on rank 0 alone, and return its result on every rank; its error stops every rank."""
        if self.count == 1:
            return make(*arguments, **options)
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer = [make(*arguments, **options), None]
            except Exception as error:
                broadcast_object_list([None, str(error)])
                raise
        value, cause = broadcast_object_list(answer)
        if cause is not None:
            raise RankError(f"stopped, because rank 0 did: {cause}")
        result: T = value
        return result

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of ``rows``, shape (steps, batch): (steps, batch / count)."""
        return rows.chunk(self.count, dim=1)[self.index]

    def synchronised(self, model: nn.Module) -> nn.Module:
        """``model`` with normalisation over the joined batch: mean-only everywhere, BatchNorm on CUDA.

        Its weights keep their names.
        """
        if self.count == 1:
            return model
        for module in model.modules():
            if isinstance(module, MeanOnlyBatchNorm):
                module.synchronised = True
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return model

    def check(self, config: ExperimentConfig) -> None:
        """Raise :class:`InvalidValueError` unless the ranks can train ``config`` together.

        Every batch must have equal shares, and all ranks must have the same config and versions.
        """
        if self.count == 1:
            return
        for name in ("batch_labelled", "batch_unlabelled"):
            size = getattr(config.training, name)
            if size % self.count:
                raise InvalidValueError(
                    f"expected training.{name} to be a multiple of the number of processes, each of which takes an "
                    f"equal share of every batch, got {size} examples for {self.count}; give --training."
                    f"{name.replace('_', '-')} {max(self.count, size - size % self.count)}, or start another number"
                )
        self.check_same(records.versions() | config.to_dict(), "the same versions and the same command")

    def check_same(self, facts: dict[str, Any], expected: str) -> None:
        """Raise :class:`InvalidValueError` unless ``facts`` are the same on all ranks, as ``expected`` says."""
        (first_host, first), *rest = self.gathered((platform.node(), facts))
        for index, (host, other) in enumerate(rest, start=1):
            if changed := differences(first, other):
                raise InvalidValueError(
                    f"expected {expected} on all ranks; rank {index} on {host} differs from rank 0 on {first_host} "
                    f"(rank 0 → rank {index}): {'; '.join(changed)}"
                )

    def end(self) -> None:
        """Reset the state that Accelerate has for the whole process, so that another run can have other settings."""
        if self._created_state:
            from accelerate.state import AcceleratorState

            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()
            AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def joined(device: Device, precision: Precision, *, capture: bool = False) -> Iterator[Ranks]:
    """Work on a run together with all processes that were started for it; check that they can.

    If another rank stops meanwhile, this one raises a :class:`RankError`.
    """
    ranks = Ranks(device, precision)
    several = ranks.count > 1
    check_device(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if several else 1, capture=capture)
    if several:
        _check_launch(capture=capture)
        ranks.accelerator.wait_for_everyone()
    try:
        with products(precision):
            yield ranks
    except Exception as error:
        if several:
            _stop(error)
        raise
    finally:
        if not several:
            ranks.end()
    if several:
        ranks.end()


def _check_launch(*, capture: bool) -> None:
    if capture:
        raise InvalidValueError(f"expected one process for --capture, got {launched()}; leave it out")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InvalidValueError(
            f"expected {', '.join(missing)} beside WORLD_SIZE={launched()}, which torchrun and accelerate launch set; "
            f"start with one of them, or unset WORLD_SIZE"
        )


def _stop(error: Exception) -> None:
    """Raise ``error`` for the launcher to show, or a :class:`RankError` if it says that another rank is gone.

    The process group is left as it is: to destroy it would be to wait for the other ranks.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    lost = isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "TCPStore"))
    )
    shown = error
    if lost:
        why = str(error).strip().splitlines()[0][:200]
        shown = RankError(f"stopped, because another rank did; the error of that one says why (here: {why})")
    get_error_handler().record_exception(shown)
    raise shown from (error if lost else None)

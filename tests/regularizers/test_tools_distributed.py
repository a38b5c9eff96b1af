"""Two processes on gloo: ``DistributedDataParallel`` in its modes, ``fully_shard``, FSDP1, tensor parallelism."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.errors import InvalidTypeError

from .recording import METHODS

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")

RANKS = 2
SEARCHING = ("vadd", "vadd-shared", "sadd", "at", "vat")
Step = Callable[[nn.Module, str, Tensor, Tensor], Tensor]


def network(*, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(8) if norm else nn.Identity()
    below = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Dropout(0.2))
    above = nn.Sequential(nn.Linear(10, 8), middle, nn.Tanh(), nn.Linear(8, 3))
    return nn.Sequential(below, AdversarialDropout(0.5, 0.3), above)


class Whole(nn.Module):
    """A module whose output is the loss of a step."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self.regularizer = METHODS[method]()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = F.cross_entropy(self.model(x), y) + self.regularizer(self.model, x, y)
        return loss


def share(rank: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5 + rank)
    return torch.randn(8, 6, generator=draw), torch.randint(3, (8,), generator=draw)


def gradients(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], rank: int, steps: int = 2) -> list[Tensor]:
    """Of the last of several equal steps."""
    for _ in range(steps):
        model.zero_grad()
        torch.manual_seed(50 + rank)
        loss(*share(rank)).backward()  # type: ignore[no-untyped-call]
    found = []
    for parameter in model.parameters():
        assert parameter.grad is not None
        grad = parameter.grad
        found.append(grad.full_tensor() if isinstance(grad, DTensor) else grad.clone())
    return found


def through_the_wrapper(method: str, **settings: Any) -> Callable[[int], list[Tensor]]:
    def run(rank: int) -> list[Tensor]:
        wrapper = DistributedDataParallel(network(), **settings)
        return gradients(wrapper, Whole(wrapper, method), rank)

    return run


def through_the_module(method: str, **settings: Any) -> Callable[[int], list[Tensor]]:
    def run(rank: int) -> list[Tensor]:
        wrapper, regularizer = DistributedDataParallel(network(), **settings), METHODS[method]()
        return gradients(wrapper, lambda x, y: F.cross_entropy(wrapper(x), y) + regularizer(wrapper.module, x, y), rank)

    return run


def around_the_step(method: str, **settings: Any) -> Callable[[int], list[Tensor]]:
    def run(rank: int) -> list[Tensor]:
        wrapper = DistributedDataParallel(Whole(network(), method), **settings)
        return gradients(wrapper, wrapper, rank)

    return run


def accumulated(method: str) -> Callable[[int], list[Tensor]]:
    """Two steps, of which the second exchanges the sum of the gradients; halved, they are those of one."""

    def run(rank: int) -> list[Tensor]:
        wrapper = DistributedDataParallel(network())
        step = Whole(wrapper, method)
        torch.manual_seed(50 + rank)
        with wrapper.no_sync():
            step(*share(rank)).backward()
        torch.manual_seed(50 + rank)
        step(*share(rank)).backward()
        return [parameter.grad / 2 for parameter in wrapper.parameters() if parameter.grad is not None]

    return run


def sharded(method: str, *, root: bool) -> Callable[[int], list[Tensor]]:
    """``fully_shard`` of both parts, and of the model or not; without, a regulariser cuts the model."""

    def run(rank: int) -> list[Tensor]:
        model, mesh = network(), init_device_mesh("cpu", (RANKS,))
        for part in [model[0], model[2], *([model] if root else [])]:
            fully_shard(part, mesh=mesh)
        return gradients(model, Whole(model, method), rank)

    return run


def in_parallel(method: str) -> Callable[[int], list[Tensor]]:
    """Both ranks see the share of rank 0 and compute parts of the upper layers."""

    def run(rank: int) -> list[Tensor]:
        model, mesh = network(norm=False), init_device_mesh("cpu", (RANKS,))
        parallelize_module(model[2], mesh, {"0": ColwiseParallel(), "3": RowwiseParallel()})
        return gradients(model, Whole(model, method), 0)

    return run


RUNS: dict[str, Callable[[int], list[Tensor]]] = {
    **{f"wrapper {method}": through_the_wrapper(method) for method in METHODS},
    **{f"around {method}": around_the_step(method) for method in METHODS},
    **{f"accumulated {method}": accumulated(method) for method in ("vadd", "vat")},
    **{f"view {method}": through_the_wrapper(method, gradient_as_bucket_view=True) for method in ("vadd", "vat")},
    **{f"unused {method}": through_the_wrapper(method, find_unused_parameters=True) for method in ("vadd", "vat")},
    **{f"static module {method}": through_the_module(method, static_graph=True) for method in SEARCHING},
    **{f"static around {method}": around_the_step(method, static_graph=True) for method in SEARCHING},
    **{f"sharded {method}": sharded(method, root=True) for method in METHODS},
    **{f"sharded parts {method}": sharded(method, root=False) for method in ("vadd", "vadd-shared", "sadd")},
    **{f"parallel {method}": in_parallel(method) for method in ("vadd", "vadd-shared", "sadd", "at", "vat")},
}
"""Gradients on a rank. The name ends with the method."""


def refused(method: str) -> list[str]:
    """The messages of the refusals."""
    messages = []
    for wrapper in (
        DistributedDataParallel(network(), static_graph=True),
        FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True),
    ):
        try:
            METHODS[method]()(wrapper, *share(0))
        except InvalidTypeError as error:
            messages.append(str(error))
    return messages


def work(rank: int, folder: str) -> None:
    """Run by each process; saves its results in ``folder``."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=FutureWarning)  # FSDP1 is deprecated.
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=RANKS)
    results: dict[str, object] = {name: run(rank) for name, run in RUNS.items()}
    results["refused"] = {method: refused(method) for method in SEARCHING}
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(RANKS)]


def expected(name: str) -> list[Tensor]:
    """Plain gradients in one process: their mean over the shares, or those of the first share."""
    method = name.split()[-1]
    parallel = name.startswith("parallel")
    found = []
    for rank in range(1 if parallel else RANKS):
        model = network(norm=not parallel)
        found.append(gradients(model, Whole(model, method), rank, steps=1))
    return [torch.stack(each).mean(dim=0) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("name", RUNS)
def test_gradients_are_equal_on_the_ranks_and_the_mean_of_plain_ones(
    name: str, results_of_ranks: list[dict[str, Any]]
) -> None:
    first, second = (results[name] for results in results_of_ranks)
    assert any(gradient.norm() > 1e-3 for gradient in first)
    assert all(map(torch.equal, first, second))
    torch.testing.assert_close(first, expected(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", SEARCHING)
def test_what_would_give_wrong_gradients_is_refused(method: str, results_of_ranks: list[dict[str, Any]]) -> None:
    for results in results_of_ranks:
        static, flat = results["refused"][method]
        assert "without static_graph=True" in static
        assert "reg(model.module, x)" in static
        assert "use torch.distributed.fsdp.fully_shard" in flat

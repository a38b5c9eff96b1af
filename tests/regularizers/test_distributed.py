"""Regularisers with ``DistributedDataParallel``: when the gradients of two processes are equal and correct."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.regularizers.base import Regularizer

from .recording import METHODS

RANKS = 2
CLASSES = 3
Loss = Callable[[nn.Module, Regularizer, Tensor, Tensor], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    under = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(under, AdversarialDropout(0.3, 0.2), nn.Linear(20, CLASSES))


def share(rank: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5 + rank)
    return torch.randn(8, 6, generator=draw), torch.randint(CLASSES, (8,), generator=draw)


def inside(model: nn.Module) -> nn.Module:
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, nn.Module)
    return inner


def wrapped(model: nn.Module, regularizer: Regularizer, x: Tensor, y: Tensor) -> Tensor:
    """Correct: the regulariser runs the wrapper."""
    loss: Tensor = F.cross_entropy(model(x), y) + regularizer(model, x, y)
    return loss


def module_in_the_same_step(model: nn.Module, regularizer: Regularizer, x: Tensor, y: Tensor) -> Tensor:
    """Correct: the regulariser runs the wrapped module, and the step also runs the wrapper."""
    loss: Tensor = F.cross_entropy(model(x), y) + regularizer(inside(model), x, y)
    return loss


def module_alone(model: nn.Module, regularizer: Regularizer, x: Tensor, y: Tensor) -> Tensor:
    """Wrong: nothing runs the wrapper."""
    loss: Tensor = regularizer(inside(model), x, y)
    return loss


STEPS: dict[str, Loss] = {step.__name__: step for step in (wrapped, module_in_the_same_step, module_alone)}


def gradients(model: nn.Module, step: str, method: str, rank: int, *, apart: bool = False) -> Tensor:
    """All gradients of one step on a rank's share; ``apart``: the term has a separate backward pass."""
    model.zero_grad()
    x, y = share(rank)
    torch.manual_seed(50 + rank)
    regularizer = METHODS[method]()
    assert isinstance(regularizer, Regularizer)
    if apart:
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    STEPS[step](model, regularizer, x, y).backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def example_of_the_docs(rank: int) -> Tensor:
    """The example of docs/scale.md."""
    features, head = nn.Sequential(nn.Linear(6, 20), nn.ReLU()), nn.Linear(20, CLASSES)
    x, y = share(rank)
    lam = 1.0

    model = DistributedDataParallel(nn.Sequential(features, AdversarialDropout(p=0.5, delta=0.05), head))
    optimizer = torch.optim.Adam(model.parameters())
    vadd = VirtualAdversarialDropout()

    out = model(x)  # through the wrapper: this is what makes the ranks exchange their gradients
    loss = F.cross_entropy(out, y) + lam * vadd(model.module, x)  # cut in front of the layer, so cheaper
    optimizer.zero_grad()
    loss.backward()  # one backward pass for both
    optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def work(rank: int, folder: str) -> None:
    """Run by each process; saves its results in ``folder``."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=RANKS)
    model = DistributedDataParallel(network())
    results = {f"{step} {method}": gradients(model, step, method, rank) for step in STEPS for method in METHODS}
    results["apart"] = gradients(model, "module_alone", "vadd", rank, apart=True)
    torch.manual_seed(0)
    results["example"] = example_of_the_docs(rank)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The gradients on each rank, by step and method."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(RANKS)]


def expected(method: str) -> Tensor:
    """The mean over the shares of the gradients that one process computes."""
    shares = [gradients(network(), "module_in_the_same_step", method, rank) for rank in range(RANKS)]
    return torch.stack(shares).mean(dim=0)


@pytest.mark.parametrize("step", ["wrapped", "module_in_the_same_step"])
def test_in_a_step_through_the_wrapper_gradients_are_equal_and_correct(
    step: str, results_of_ranks: list[dict[str, Tensor]]
) -> None:
    for method in METHODS:
        first, second = (rank[f"{step} {method}"] for rank in results_of_ranks)
        assert torch.equal(first, second), method
        torch.testing.assert_close(first, expected(method), rtol=1e-5, atol=1e-7)


def test_without_the_wrapper_gradients_differ_silently(results_of_ranks: list[dict[str, Tensor]]) -> None:
    for method in METHODS:
        first, second = (rank[f"module_alone {method}"] for rank in results_of_ranks)
        assert not torch.allclose(first, second, rtol=0.1), method
    first, second = (rank["apart"] for rank in results_of_ranks)
    assert not torch.allclose(first, second, rtol=0.1), "a separate backward pass, after one through the wrapper"


def test_the_example_keeps_the_weights_equal(results_of_ranks: list[dict[str, Tensor]]) -> None:
    assert torch.equal(*(rank["example"] for rank in results_of_ranks))

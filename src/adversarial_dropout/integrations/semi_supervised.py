"""What the scikit-learn classifier trains, on tensors: methods by name, a default network, one epoch of steps."""

import contextlib
import copy
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError, check_at_least, check_choice
from adversarial_dropout.layers import AdversarialDropout
from adversarial_dropout.regularizers.adversarial_training import AdversarialTraining
from adversarial_dropout.regularizers.base import Regularizer
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization
from adversarial_dropout.regularizers.mean_teacher import MeanTeacher
from adversarial_dropout.regularizers.pi_model import PiModel
from adversarial_dropout.regularizers.r_drop import RDrop
from adversarial_dropout.regularizers.supervised_adversarial_dropout import SupervisedAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_dropout import VirtualAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_training import VirtualAdversarialTraining

_ROWS_WITHOUT_GRADIENT = 1024
"""Rows of one forward pass where nothing is trained."""

METHODS: dict[str, tuple[float, Callable[[nn.Module, float], Regularizer]]] = {
    "at": (1.0, lambda model, eps: AdversarialTraining(eps=eps)),
    "entmin": (1.0, lambda model, eps: EntropyMinimization()),
    "mean-teacher": (10.0, lambda model, eps: MeanTeacher(model)),
    "pi": (10.0, lambda model, eps: PiModel()),
    "r-drop": (1.0, lambda model, eps: RDrop()),
    "sadd": (1.0, lambda model, eps: SupervisedAdversarialDropout()),
    "vadd-kl": (1.0, lambda model, eps: VirtualAdversarialDropout(divergence="kl", noise="shared")),
    "vadd-qe": (10.0, lambda model, eps: VirtualAdversarialDropout(divergence="qe", noise="shared")),
    "vat": (1.0, lambda model, eps: VirtualAdversarialTraining(eps=eps)),
}
"""By name: the default weight λ, and the regulariser for a network and a length ε of the perturbation."""


@dataclass(frozen=True)
class Term:
    """A regulariser and its weight λ in the loss."""

    weight: float
    regularizer: Regularizer


def checked_method(method: str) -> list[str]:
    """The names of :data:`METHODS` that ``"+"`` joins in ``method``; none for ``"plain"``."""
    if method == "plain":
        return []
    names = str(method).split("+")
    for name in names:
        check_choice("method", name, ("plain", *METHODS))
    if "plain" in names or len(set(names)) < len(names):
        raise InvalidValueError(f'expected method to be different names joined by "+", without "plain", got {method!r}')
    return names


def terms_of(names: Sequence[str], model: nn.Module, weight: float | None, eps: float) -> list[Term]:
    """The terms of these names with ``weight``, or each with its default one."""
    return [Term(METHODS[name][0] if weight is None else weight, METHODS[name][1](model, eps)) for name in names]


def network(
    module: object,
    x: Tensor,
    classes: int,
    device: torch.device,
    hidden: int | Sequence[int],
    p: float,
    delta: float,
) -> nn.Module:
    """What a user gave as ``module``, or the default network, on ``device``; rows ``x`` show that it gives logits."""
    shape = tuple(x.shape[1:])
    built: object
    if module is None:
        sizes = (hidden,) if isinstance(hidden, int | numbers.Integral) else hidden
        built = _default_network(shape, classes, sizes, p, delta)
    elif callable(module) and not isinstance(module, nn.Module):
        built = module(shape, classes)
    else:
        built = copy.deepcopy(module)
    if not isinstance(built, nn.Module):
        raise InvalidTypeError(
            f"expected module to be a torch.nn.Module, or to return one when called as module(shape, n_classes), "
            f"got {type(built).__name__}"
        )
    built.to(device, torch.float32).eval()
    with torch.no_grad():
        logits: object = built(x.to(device))
    if not isinstance(logits, Tensor) or logits.shape != (len(x), classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidValueError(
            f"expected module to return logits of shape {(len(x), classes)} for {len(x)} rows and {classes} classes, "
            f"got {found}"
        )
    return built


def _default_network(shape: Sequence[int], classes: int, hidden: Sequence[int], p: float, delta: float) -> nn.Module:
    """Hidden layers with ReLU, an AdversarialDropout and the last layer; for (C, H, W) two convolutions before them."""
    layers: list[nn.Module] = []
    units = math.prod(shape)
    if len(shape) == 3:
        for incoming, channels in ((shape[0], 32), (32, 64)):
            layers += [nn.Conv2d(incoming, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        units = 64 * math.ceil(shape[1] / 4) * math.ceil(shape[2] / 4)
    layers.append(nn.Flatten())
    for size in hidden:
        check_at_least("each of hidden_layer_sizes", size, 1)
        layers += [nn.Linear(units, size), nn.ReLU()]
        units = size
    return nn.Sequential(*layers, AdversarialDropout(p, delta), nn.Linear(units, classes))


def checked_device(name: str) -> torch.device:
    """The CPU or a CUDA device."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InvalidValueError(f'expected device to be "cpu", "cuda" or "cuda:0", got {name!r}') from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidValueError(f'expected device to be "cpu" or "cuda", got {name!r}')
    if device.type == "cuda" and not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise InvalidValueError(f'no GPU answers to device={name!r}; use device="cpu"')
    return device


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and of ``device`` with ``seed``, and put their states back afterwards."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        yield


def logits_of(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Logits of all rows in evaluation mode, on the CPU."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part.to(device)).cpu() for part in torch.split(x, _ROWS_WITHOUT_GRADIENT)])


def batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Batches without end of ``size`` rows, or of all if there are fewer: the rows in random order, again and again."""
    waiting = rows[:0]
    while True:
        while len(waiting) < min(size, len(rows)):
            waiting = torch.cat([waiting, rows[torch.randperm(len(rows))]])
        yield waiting[:size]
        waiting = waiting[size:]


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Sequence[tuple[float, float]],
    x: Tensor,
    y: Tensor,
    labelled: Iterator[Tensor],
    every: Iterator[Tensor],
    terms: Sequence[Term],
) -> float:
    """Make a step for each entry of ``schedule``, a learning rate and a share of the terms' weights; the mean loss.

    The loss of a step is the cross-entropy of a batch of labelled rows, plus each weighted term: of that batch
    for a supervised regulariser, of a batch of all rows for another.
    """
    model.train()
    total = torch.zeros((), device=x.device)
    for rate, share in schedule:
        batch, wide = next(labelled), next(every)
        logits = model(x[batch])
        loss = F.cross_entropy(logits, y[batch])
        for term in terms:
            if term.regularizer.supervised:
                value = term.regularizer(model, x[batch], y[batch], target=logits)
            else:
                value = term.regularizer(model, x[wide])
            loss = loss + share * term.weight * value
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for term in terms:
            if isinstance(term.regularizer, MeanTeacher):
                term.regularizer.update(model)
        total += loss.detach()
    return float(total) / len(schedule)

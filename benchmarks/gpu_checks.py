"""What must hold on a GPU, checked without a test runner. Part of gpu.py; no script."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from cells import Runner, Variant, config_of
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    AdversarialTraining,
    EntropyMinimization,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
    adversarial_mask,
)
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.training.captured import WARM_UP
from adversarial_dropout.regularizers.base import Regularizer

STEPS = WARM_UP + 5
AGREE_FLOAT64, AGREE = 1e-9, 1e-5
_SPREAD = 6.0


def masks(device: torch.device) -> dict[str, Any]:
    """The masks of the CPU, ties included."""
    different = 0
    for units in (1, 7, 2048, 65_536):
        mask = torch.rand(64, units) < 0.5
        jacobian = torch.randint(-2, 3, (64, units)).float()
        for flips in (1, 5, units):
            here = adversarial_mask(mask, jacobian, max_flips=flips)
            there = adversarial_mask(mask.to(device), jacobian.to(device), max_flips=flips)
            different += int((here != there.cpu()).sum())
    return {"holds": different == 0, "units that differ": different}


REGULARIZERS: dict[str, Callable[[], Regularizer]] = {
    "vadd kl": VirtualAdversarialDropout,
    "vadd qe": lambda: VirtualAdversarialDropout(divergence="qe"),
    "sadd": SupervisedAdversarialDropout,
    "at": AdversarialTraining,
    "vat": VirtualAdversarialTraining,
    "pi": PiModel,
    "entmin": EntropyMinimization,
}


def values(name: str, device: torch.device) -> dict[str, Any]:
    """Loss and gradients of one regulariser in float64, the same draws on both sides."""
    torch.manual_seed(0)
    p = 0.0 if name in ("sadd", "pi") else 0.5  # Without a mask that would have to be drawn.
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), AdversarialDropout(p, 0.1), nn.Linear(64, 3)).double()
    x, other, y = torch.randn(32, 8).double(), torch.randn(32, 8).double(), torch.randint(3, (32,))
    kept, target = torch.rand(32, 64) < 0.5, torch.randn(32, 3).double()
    if name in ("at", "vat", "entmin"):
        model.eval()
    direction = torch.randn(32, 8).double()

    def found(place: torch.device) -> list[Tensor]:
        made = copy.deepcopy(model).to(place)
        layer = made[2]
        assert isinstance(layer, AdversarialDropout)
        layer._last_mask = kept.to(place)
        given = made(other.to(place)) if name == "pi" else target.to(place)
        with mock.patch.object(torch, "randn_like", lambda like, **_: direction.to(like)):
            loss = REGULARIZERS[name]()(
                made, x.to(place), y.to(place), target=None if name in ("vat", "entmin") else given
            )
        gradients = torch.autograd.grad(loss, list(made.parameters()), materialize_grads=True, allow_unused=True)
        return [loss.detach().cpu(), *(gradient.cpu() for gradient in gradients)]

    return _compared(found(torch.device("cpu")), found(device), AGREE_FLOAT64)


def captured(method: str, device: torch.device) -> dict[str, Any]:
    """Parameters after some steps: a recording replayed, and operation by operation, from the same seeds."""
    config = config_of("paper/mnist-1000", method, device)
    found: list[list[Tensor]] = []
    for variant in (Variant(captured=False), Variant(captured=True)):
        runner = Runner(config, variant, device)
        torch.manual_seed(1)
        with _deterministic(), _seeds_of_their_own(device):
            for _ in range(STEPS):
                runner()
        moments = [value for state in runner.optimizer.state.values() for value in state.values()]
        found.append([tensor.detach().double().cpu() for tensor in (*runner.model.parameters(), *moments)])
    return _compared(found[0], found[1], AGREE)


def replays_differ(device: torch.device) -> dict[str, Any]:
    """Masks from replay to replay: drawn anew, and kept at the rate that they should be."""
    config = config_of("paper/mnist-1000", "sadd", device)
    runner = Runner(config, Variant(), device)
    (layer,) = (module for module in runner.model.modules() if isinstance(module, AdversarialDropout))
    seen = []
    for _ in range(STEPS + 40):
        runner()
        assert layer._last_mask is not None
        seen.append(layer._last_mask.float().cpu())
    replayed = torch.stack(seen[WARM_UP + 1 :])
    same = sum(int(torch.equal(a, b)) for a, b in itertools.pairwise(replayed))
    rate, keep = float(replayed.mean()), 1 - config.model.p
    tolerance = _SPREAD * (keep * (1 - keep) / replayed.numel()) ** 0.5
    return {
        "holds": same == 0 and abs(rate - keep) <= tolerance,
        "replays with one mask": same,
        "rate of keeping": rate,
    }


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """All of them, by name."""
    yield "masks as on the CPU", lambda: masks(device)
    for name in REGULARIZERS:
        yield f"{name}: loss and gradients as on the CPU, float64", lambda name=name: values(name, device)  # type: ignore[misc]
    for method in presets.find("paper/mnist-1000").methods:
        yield f"{method}: recorded as operation by operation", lambda method=method: captured(method, device)  # type: ignore[misc]
    yield "replays draw masks anew", lambda: replays_differ(device)


def _compared(a: list[Tensor], b: list[Tensor], tolerance: float) -> dict[str, Any]:
    apart = max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-3)) for x, y in zip(a, b, strict=True))
    same = all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    return {"holds": apart <= tolerance, "largest difference": apart, "same bits": same}


@contextlib.contextmanager
def _seeds_of_their_own(device: torch.device) -> Iterator[None]:
    """On a CPU the seeds of searches come from the stream of all other noise, and a replay draws them beforehand."""
    if device.type == "cuda":
        yield
        return
    stream = torch.Generator().manual_seed(1)

    def draw() -> int:
        return int(torch.randint(2**62, (), generator=stream))

    modules = ("regularizers.search", "experiments.training.mask_streams")
    names = [f"adversarial_dropout.{module}.draw_seed" for module in modules]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch(name, draw))
        yield


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before

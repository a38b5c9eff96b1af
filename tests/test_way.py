"""Which files a call goes through, from the regulariser down to the mask; ``pytest -s`` prints them."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import adversarial_dropout
from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.run.run import choose_step
from adversarial_dropout.experiments.run.step import Batch, Objective

SOURCE = Path(adversarial_dropout.__file__).parent


def module_of(frame: FrameType) -> str | None:
    """The module of a frame, as a path inside the package; ``None`` for code outside the package."""
    path = Path(frame.f_code.co_filename)
    return path.relative_to(SOURCE).with_suffix("").as_posix() if path.is_relative_to(SOURCE) else None


def traced(call: Callable[[], object], look: Callable[[FrameType, str, Any], None]) -> None:
    """Run ``call`` with ``look`` as the profiling function."""
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)


def way_down(call: Callable[[], object], to: str) -> list[str]:
    """The package's frames from ``call`` to the first call of the function ``to``, as ``module:function``."""
    frames: list[str] = []

    def look(frame: FrameType | None, event: str, _: Any) -> None:
        if event != "call" or frames or frame is None or frame.f_code.co_name != to or module_of(frame) is None:
            return
        while frame is not None:
            if (module := module_of(frame)) is not None:
                frames.append(f"{module}:{frame.f_code.co_name}")
            frame = frame.f_back

    traced(call, look)
    return frames[::-1]


def modules_entered(call: Callable[[], object]) -> list[str]:
    """The modules of the package whose functions ``call`` runs, in the order of first use."""
    entered: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (module := module_of(frame)) is not None:
            entered.setdefault(module)

    traced(call, look)
    return list(entered)


def test_from_the_regulariser_to_the_mask() -> None:
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), AdversarialDropout(), nn.Linear(40, 3))
    regularizer, x = VirtualAdversarialDropout(), torch.randn(4, 8)
    way = way_down(lambda: regularizer(model, x), "adversarial_mask")
    print(" → ".join(way))
    modules = [step.split(":")[0] for step in way]
    assert modules[0] == "regularizers/base"
    assert modules[-1] == "masks"
    files = list(dict.fromkeys(modules))
    assert len(files) <= 5
    assert modules == [file for file in files for _ in range(modules.count(file))], "a call goes back up"


def test_one_step_of_training() -> None:
    config = presets.get("digits-100", "vadd-qe")
    model = config.model.build((1, 8, 8), 10).train()
    step = choose_step(Objective(model, config.terms), torch.optim.Adam(model.parameters()))
    batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4), torch.rand(6, 1, 8, 8))
    entered = modules_entered(lambda: step(batch, 1.0))
    print(", ".join(entered))
    # Ten of a step as in the paper. Besides them errors, and what lets a model be any module: what it takes and returns
    # (model_io), what logits must be (logits), PyTorch's tracers (tracing), what is computed once (replay, replayable).
    any_module = {f"regularizers/{name}" for name in ("model_io", "layer_masks", "replay", "replayable")}
    # What the terms of a step see (step_inputs) is a file of its own, because terms.py is long.
    assert len(set(entered) - {"errors", "logits", "tracing", "experiments/step_inputs", *any_module}) <= 10

"""One step of training as one CUDA graph: recorded once, replayed for every batch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.run.mask_streams import CaptureError, MaskStreams
from adversarial_dropout.experiments.run.step import Batch, eager_step
from adversarial_dropout.regularizers.passes import held_generators

WARM_UP = 3
"""Steps of one form that run operation by operation before one is recorded; they train, and their checks see values."""

Values = dict[str, Tensor]


class Recorder:
    """Runs a step without arguments, or records it to run it again on the same tensors.

    This one, for devices without CUDA graphs, records nothing and runs the step each time.
    """

    def run(self, step: Callable[[], Values]) -> Values:
        """Run ``step`` now; it may be recorded later."""
        return step()

    def record(self, step: Callable[[], Values], generators: Sequence[torch.Generator]) -> Callable[[], Values]:
        """Record ``step``, which draws from ``generators``, without running it; return what runs it."""
        return step


class CudaGraphs(Recorder):
    """A recorder that captures CUDA graphs on ``device``, the newest of which can be replayed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, step: Callable[[], Values]) -> Values:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            values = step()
        current.wait_stream(self._stream)
        return values

    def record(self, step: Callable[[], Values], generators: Sequence[torch.Generator]) -> Callable[[], Values]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            if generator.device.type == "cuda":
                graph.register_generator_state(generator)
        # The graph before this one is never replayed again, so its memory is free for this one.
        pool = None if self._graph is None else self._graph.pool()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            values = step()
        self._graph = graph

        def replay() -> Values:
            graph.replay()
            return values

        return replay


class CapturedStep:
    """A :data:`~adversarial_dropout.experiments.run.step.Step` that is recorded once and then replayed.

    The first steps run operation by operation, and train as any other. Then loss, gradients and update are recorded on
    fixed tensors, into which each batch, the ramp and the learning rate are copied. A batch of another form runs
    operation by operation, until enough of its form have come in a row to record it. Other settings of the optimiser
    and other train and evaluation flags need a new recording. Everything else that Python decides is frozen: δ and p of
    a layer, λ of a term, hooks. Parameters must stay at their addresses.

    In a replay no check reads a value: a loss that is not finite shows in the values returned. A step that cannot be
    recorded is a :class:`CaptureError`. The optimiser must be Adam; ``backward`` computes the gradients of the loss.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        backward: Callable[[Tensor], None] = Tensor.backward,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        device = next(objective.parameters()).device
        self._objective = objective
        self._optimizer = optimizer
        self._step = eager_step(objective, optimizer, backward)
        self._device = device
        self._recorder = recorder or (CudaGraphs(device) if device.type == "cuda" else Recorder())
        self._streams = MaskStreams(device)
        self._ramp = torch.zeros((), dtype=torch.float64, device=device)
        # Fused kernels take a learning rate in float32, and nothing else.
        rate = torch.float32 if device.type == "cuda" else torch.float64
        self._rates = [torch.zeros((), dtype=rate, device=device) for _ in optimizer.param_groups]
        self._filled: list[float] = []
        self._state: object = None
        self._newest: object = None
        self._in_a_row = 0
        self._form: object = None
        self._settings: object = None
        self._batch: Batch | None = None
        self._replay: Callable[[], Values] | None = None

    def __call__(self, batch: Batch, ramp: float) -> Values:
        """Train on ``batch``; see :data:`~adversarial_dropout.experiments.run.step.Step`."""
        numbers = [ramp, *(float(group["lr"]) for group in self._optimizer.param_groups)]
        if numbers != self._filled:
            for tensor, number in zip((self._ramp, *self._rates), numbers, strict=True):
                tensor.fill_(number)
            self._filled = numbers
        # If another state has been loaded, a recording would still use the old one.
        if self._optimizer.state is not self._state:
            self._state, self._newest, self._replay = self._optimizer.state, None, None
        form = _form(batch)
        recorded = self._replay is not None and form == self._form
        if not recorded:
            self._in_a_row = self._in_a_row + 1 if form == self._newest else 1
            self._newest = form
            if self._in_a_row <= WARM_UP:
                return self._recorder.run(lambda: self._run(batch, recorded=False))
        if not recorded or self._frozen() != self._settings:
            self._record(batch, form)
        assert self._replay is not None
        assert self._batch is not None
        self._newest = None
        for static, tensor in zip(vars(self._batch).values(), vars(batch).values(), strict=True):
            if tensor is not None:
                static.copy_(tensor)
        self._streams.reseed()
        return {name: value.clone() for name, value in self._replay().items()}

    def _record(self, batch: Batch, form: object) -> None:
        self._replay = None
        copies: dict[str, Any] = {
            name: value if value is None else value.clone() for name, value in vars(batch).items()
        }
        self._batch = static = Batch(**copies)
        generators = [*self._streams.generators, *held_generators(self._objective)]
        self._optimizer.zero_grad()
        try:
            self._replay = self._recorder.record(lambda: self._run(static, recorded=True), generators)
        except (torch.OutOfMemoryError, AdversarialDropoutError):
            raise
        except RuntimeError as error:
            raise CaptureError(
                f"the step could not be recorded as a CUDA graph: {error}. Look for operations that wait for the GPU, "
                f"or train without recording"
            ) from error
        self._form, self._settings = form, self._frozen()

    def _run(self, batch: Batch, *, recorded: bool) -> Values:
        with self._as_tensors(recorded=recorded), self._streams.serving(recorded=recorded):
            return self._step(batch, self._ramp)  # type: ignore[arg-type]  # As a tensor it can change in a recording.

    @contextlib.contextmanager
    def _as_tensors(self, *, recorded: bool) -> Iterator[None]:
        """Have the optimiser read its learning rates from tensors; fused on a GPU, where its loop would be slow."""
        cuda = self._device.type == "cuda"
        on_gpu: dict[str, Any] = {"foreach": False, "fused": True, "capturable": recorded} if cuda else {}
        if cuda:  # Put Adam's counts of steps where the parameters are; without ``fused``, they are on the CPU.
            for parameter, state in self._optimizer.state.items():
                if isinstance(parameter, Tensor) and isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(parameter.device, torch.float32)
        before = [dict(group) for group in self._optimizer.param_groups]
        try:
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group.update(on_gpu, lr=rate)
            yield
        finally:
            for group, settings in zip(self._optimizer.param_groups, before, strict=True):
                group.update(settings)

    def _frozen(self) -> object:
        """What a recording fixes and a schedule may change."""
        groups = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in self._optimizer.param_groups
        ]
        return groups, [module.training for module in self._objective.modules()]


def _form(batch: Batch) -> object:
    return [None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in vars(batch).values()]

"""One step of training as one CUDA graph: recorded once, replayed for every batch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.run.step import Batch, eager_step
from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.regularizers.passes import held_generators
from adversarial_dropout.regularizers.search import draw_seed, generators_of_a_search

WARM_UP = 3
"""Steps of one form that run operation by operation before one is recorded; they train, and their checks see values."""

Values = dict[str, Tensor]


class CaptureError(AdversarialDropoutError, RuntimeError):
    """A step cannot be recorded as a CUDA graph."""


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


class MaskStreams:
    """Generators for the base masks of a step that is recorded once and then replayed.

    A search draws a seed and creates a generator from it, which a recording would freeze. Under :meth:`serving`, the
    first search of a step takes the first generators of this object, and so on. They can be registered with a CUDA
    graph, and :meth:`reseed` draws for them what the searches would have drawn.

    Args:
        device: Device of the masks.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._searches: list[list[torch.Generator]] = []
        self._next = 0
        self._recorded = False

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators of all searches."""
        return [generator for search in self._searches for generator in search]

    @contextlib.contextmanager
    def serving(self, *, recorded: bool = False) -> Iterator[None]:
        """Run one step whose searches take their generators from this object.

        Args:
            recorded: Whether the step is a recording: :meth:`reseed` seeds its generators, and searches draw nothing.
                Otherwise each search draws its seed, as it does without streams.
        """
        self._next, self._recorded = 0, recorded
        token = generators_of_a_search.set(self._take)
        try:
            yield
        finally:
            generators_of_a_search.reset(token)

    def reseed(self) -> None:
        """Seed the generators for the next replay, by one draw for each search."""
        for search in self._searches:
            _seed(search)

    def _take(self, layers: int) -> list[torch.Generator]:
        """The generators of the search that begins, one for each layer."""
        if self._next == len(self._searches) and not self._recorded:
            self._searches.append([torch.Generator(self._device) for _ in range(layers)])
        if self._next == len(self._searches) or len(self._searches[self._next]) != layers:
            raise CaptureError(
                "expected each step to make the same searches, got one that the steps before the recording did not "
                "have; run the step without a recording"
            )
        taken = self._searches[self._next]
        self._next += 1
        if not self._recorded:
            _seed(taken)
        return taken


def _seed(generators: list[torch.Generator]) -> None:
    seed = draw_seed()
    for index, generator in enumerate(generators):
        generator.manual_seed(seed + index)


class CapturedStep:
    """A :data:`~adversarial_dropout.experiments.run.step.Step` that is recorded once and then replayed.

    The first steps run operation by operation, and train as any other. Then loss, gradients and update are recorded on
    fixed tensors, into which each batch, the ramp and the learning rate are copied. A batch of another form runs
    operation by operation, until enough of its form have come in a row to record it. Other settings of the optimiser
    other budgets δ, and other train and evaluation flags need a new recording. Everything else that Python decides is
    frozen: p of a layer, λ of a term, hooks. Parameters must stay at their addresses.

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
        budgets = [layer.delta for layer in adversarial_layers(self._objective)]
        return groups, budgets, [module.training for module in self._objective.modules()]


def _form(batch: Batch) -> object:
    return [None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in vars(batch).values()]

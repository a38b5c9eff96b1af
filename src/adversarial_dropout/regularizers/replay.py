"""Reuse of what a model computes below its first AdversarialDropout layer, where the model cannot be cut there.

One pass records what the largest modules without a layer return, until the first layer is reached. Later passes that
see the same noise get these outputs again, in the same order, instead of computing them.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from adversarial_dropout.layers import adversarial_layers
from adversarial_dropout.regularizers.buffers import Buffers
from adversarial_dropout.regularizers.passes import Noise, detached_copy
from adversarial_dropout.regularizers.recorded_call import RecordedCall, recorded
from adversarial_dropout.regularizers.replayable import around_layers, reason_to_run_whole
from adversarial_dropout.regularizers.trees import UnknownTypeError, form, leaves

T = TypeVar("T")
Mode = Literal["off", "recording", "prefix", "replaying"]

replay_allowed: ContextVar[bool] = ContextVar("replay_allowed", default=True)
"""Whether passes may get recorded outputs; without, each pass computes all of them."""

_logger = logging.getLogger("adversarial_dropout")
_logged: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
_nothing_below: WeakSet[nn.Module] = WeakSet()
"""Layers below which no module can be recorded."""
_copied: WeakSet[nn.Module] = WeakSet()
"""Modules whose output the model changes in place later: a copy of it is recorded."""
_opened: WeakSet[nn.Module] = WeakSet()
"""Modules that always run because their output cannot stand for their call: their submodules are recorded instead."""
_verified: WeakSet[nn.Module] = WeakSet()
"""Modules whose output has been compared with a copy over a whole step: a model may change it unseen, by ``.data``."""
_ATTEMPTS = 8


class LayerReached(BaseException):
    """Ends a pass at its first layer. It is not an ``Exception``, because a model may catch those."""


class PassesDifferError(BaseException):
    """A pass does not call the recorded modules in the recorded order."""


class Replay:
    """The recorded calls of one step, and the passes that use them.

    Where it is not certain that a pass with recorded outputs would equal the whole pass, passes run whole, and a
    message on the logger ``adversarial_dropout`` (level INFO) says why, once for each model.

    Args:
        model: What the passes run.
        noise: The random streams of a pass.
    """

    def __init__(self, model: nn.Module, noise: Noise, *, at_layer: bool) -> None:
        self._mode: Mode = "off"
        self._calls: list[RecordedCall] = []
        self._witnesses: list[tuple[nn.Module, Tensor, Tensor]] = []  # Outputs not yet verified, and copies of them.
        self._buffers: Buffers | None = None  # To return to if the pass that has recorded is not used.
        self._usable = not (at_layer or torch.compiler.is_compiling()) and replay_allowed.get()
        if not self._usable:
            return
        self._model = model
        self._layer = adversarial_layers(model)[0]
        reason = reason_to_run_whole(model)
        if reason is not None or self._layer in _nothing_below:
            self._run_whole(reason)
            return
        self._noise = noise
        self._around = around_layers(model)
        self._modules = [module for module in model.modules() if module not in self._around]
        self._input: object = None  # Of the recorded pass.
        self._start: list[Tensor] = []  # States of the random streams before it.
        self._counted = False  # Whether the buffers have changed as a whole pass changes them.
        self._learned = self._reached = self._detached = self._failed = False
        self._inside = self._next = 0

    @contextlib.contextmanager
    def recording(self, h: object) -> Iterator[None]:
        """Run a whole pass on ``h`` inside the context, and record it."""
        if not self._usable:
            yield
            return
        self._begin(h)
        self._counted = True
        with self._intercepted("recording"):
            yield
        if self._check_recording() and not self._calls:
            self._run_whole(None)

    def prepare(self, h: object, run: Callable[[], object]) -> None:
        """Record ``run()``, a pass on ``h`` that ends at its first layer, unless a pass on ``h`` has been recorded."""
        if not self._usable or self._recorded(h):
            return
        for _ in range(_ATTEMPTS):
            self._begin(h)
            self._buffers = Buffers(self._model.modules())
            stopped = False
            try:
                with self._intercepted("prefix"):
                    run()
            except LayerReached:
                stopped = True
            finally:
                self._noise.restore(self._start)
            if not stopped:
                caught = "the model catches the exception that ends a pass at a layer"
                self._run_whole(caught if self._reached else "no layer is reached")
                return
            if self._check_recording():
                break
            self._buffers.restore()
        else:
            self._run_whole("it changes its activations in other ways each time")
            return
        if not self._calls:
            _nothing_below.add(self._layer)
            self._run_whole(None)
        elif self._counted:
            self._buffers.restore()
            self._buffers = None
        else:
            self._buffers.restore(but={module for call in self._calls for module in call.module.modules()})

    def run(self, h: object, run: Callable[[], T], *, search: bool) -> T:
        """``run()``, a pass on ``h`` that gets the recorded outputs; in a ``search``, detached from their graph.

        A recording is used in any number of searches, and in one other pass after them.
        """
        if self._usable and self._recorded(h):
            kept = Buffers(module for module in self._model.modules() if module in self._around or module in _opened)
            self._detached, self._failed, self._reached, self._next = search, False, False, 0
            reason = "the modules that it calls differ from pass to pass"
            try:
                with self._intercepted("replaying"):
                    result = run()
                if not self._failed and self._next == len(self._calls):
                    if not search:
                        _verified.update(call.module for call in self._calls)
                        self._calls, self._witnesses, self._buffers = [], [], None
                    return result
            except PassesDifferError:
                pass
            except Exception as error:  # Such as a gradient inside the model, which needs the graph of this pass.
                if self._reached:
                    raise
                reason = f"with recorded outputs it raises {type(error).__name__}"
            self._noise.restore(self._start)
            kept.restore()
            self._run_whole(reason)
        elif not search:
            self._forget()
        return run()

    def reached(self) -> None:
        """A layer is reached: from here on, everything runs."""
        if self._mode == "replaying" and not self._reached and self._next < len(self._calls):
            self._differs()
        self._reached = True
        if self._mode == "prefix":
            raise LayerReached

    def _begin(self, h: object) -> None:
        self._input, self._start = h, self._noise.states()
        self._calls, self._witnesses, self._learned, self._reached = [], [], False, False

    def _check_recording(self) -> bool:
        """Whether the recording can be used; if not, the next one knows why."""
        changed = [call.module for call in self._calls if not call.unchanged()]
        changed += [module for module, tensor, copy in self._witnesses if not torch.equal(tensor, copy)]
        hooked = [call.module for call in self._calls if call.has_hooks()]
        _copied.update(changed)
        _opened.update(hooked)
        if changed or hooked or self._learned:
            self._calls = []
            return False
        return True

    def _recorded(self, h: object) -> bool:
        """Whether calls are recorded that a pass on ``h`` would make now with the same results."""
        if not self._calls or self._input is not h or not all(map(torch.equal, self._noise.states(), self._start)):
            return False
        return self._check_recording()

    def _forget(self) -> None:
        self._calls, self._witnesses = [], []
        if self._buffers is not None:
            self._buffers.restore()
            self._buffers = None

    def _run_whole(self, reason: str | None) -> None:
        """Run each pass of this step whole."""
        self._usable = False
        self._forget()
        logged = _logged.setdefault(self._layer, set())
        if reason is not None and reason not in logged:
            logged.add(reason)
            name = type(self._model).__name__
            _logger.info("each pass runs the whole of %s, also below its AdversarialDropout layer: %s", name, reason)

    def _differs(self) -> NoReturn:
        self._failed = True
        raise PassesDifferError

    @contextlib.contextmanager
    def _intercepted(self, mode: Mode) -> Iterator[None]:
        """Run a pass in which the calls of modules without a layer are recorded or replayed."""
        before = [(module, vars(module).get("forward")) for module in self._modules]
        self._mode, self._inside = mode, 0
        try:
            for module in self._modules:
                vars(module)["forward"] = self._instead_of(module, module.forward)
            yield
        finally:
            self._mode = "off"
            for module, forward in before:
                if forward is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = forward

    def _instead_of(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside or self._reached or module in _opened:
                return forward(*args, **kwargs)
            try:
                given = leaves((args, kwargs))
            except UnknownTypeError:
                _opened.add(module)
                return forward(*args, **kwargs)
            if self._mode != "replaying":
                return self._record(module, partial(forward, *args, **kwargs), (args, kwargs))
            if self._next == len(self._calls):  # A call that reaches a layer, which is not its submodule.
                return forward(*args, **kwargs)
            recorded_call = self._calls[self._next]
            if recorded_call.module is not module or recorded_call.form != form(given):
                self._differs()
            self._next += 1
            if recorded_call.noise is not None:
                self._noise.restore(recorded_call.noise)
            return recorded_call.again(given, detached=self._detached)

        call.__wrapped__ = forward  # type: ignore[attr-defined]  # For inspect.signature.
        return call

    def _record(self, module: nn.Module, call: Callable[[], Any], arguments: Any) -> Any:
        self._inside += 1
        try:
            output, recorded_call = recorded(module, call, arguments, self._noise, copied=module in _copied)
        finally:
            self._inside -= 1
        if self._reached:
            return output
        if recorded_call is None:
            _opened.add(module)
            self._learned = self._learned or bool(module._modules)
        else:
            self._calls.append(recorded_call)
            if module not in _verified and not recorded_call.copied:
                self._witnesses += [(module, tensor, detached_copy(tensor)) for tensor, _ in recorded_call.tensors]
        return output

"""A step that is recorded and replayed: on a CPU all but the CUDA graph itself, bit for bit."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.models.conv_large import ConvLarge, Norm
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.run import captured as captured_module
from adversarial_dropout.experiments.run.captured import WARM_UP, CapturedStep, CaptureError, MaskStreams, Recorder
from adversarial_dropout.experiments.run.step import Batch, Objective, Step, eager_step
from adversarial_dropout.experiments.terms import At, Entmin, Ict, Mixup, Pi, Sadd, Term, Vadd, Vat, by_kind
from adversarial_dropout.layers import Rescale, adversarial_layers
from adversarial_dropout.regularizers.search import Search

STEPS = WARM_UP + 4

TERMS: dict[str, dict[str, Term]] = {
    "plain": {},
    "at": by_kind(At(eps=0.1, ramp=False)),
    "vat": by_kind(Vat(eps=1.0)),
    "pi": by_kind(Pi(divergence="qe", weight=30.0)),
    "sadd": by_kind(Sadd(divergence="ce", weight=1.7)),
    "vadd-kl": by_kind(Vadd(weight=0.3)),
    "vadd-qe": by_kind(Vadd(divergence="qe", weight=25.0)),
    "vadd-random": by_kind(Vadd(flips="random", weight=0.3)),
    "vadd-average+pi-average+ict": by_kind(Vadd(target="average"), Pi(target="average"), Ict()),
    "mixup": by_kind(Mixup()),
    "vadd-shared": by_kind(Vadd(noise="shared")),
    "sadd+vadd+vat+entmin": by_kind(
        Sadd(divergence="ce"), Vadd(weight=0.7), Vat(eps=1.0, ramp=False), Entmin(weight=0.1, ramp=False)
    ),
}


class Counting(Recorder):
    """Stands in for a graph and counts what was recorded and replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.generators: list[torch.Generator] = []

    def record(
        self, step: Callable[[], dict[str, Tensor]], generators: Sequence[torch.Generator]
    ) -> Callable[[], dict[str, Tensor]]:
        self.recorded += 1
        self.generators = list(generators)

        def replay() -> dict[str, Tensor]:
            self.replayed += 1
            return step()

        return replay


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give the seeds of searches a stream of their own, as they have on a GPU; the result rewinds it."""
    stream = torch.Generator()

    def draw() -> int:
        return int(torch.randint(2**62, (), generator=stream))

    monkeypatch.setattr(captured_module, "draw_seed", draw)
    monkeypatch.setattr("adversarial_dropout.regularizers.search.draw_seed", draw)

    def rewind() -> None:
        stream.manual_seed(5)

    return rewind


def batches(number: int, *, unlabelled: bool, views: bool = False) -> Iterator[Batch]:
    draw = torch.Generator().manual_seed(3)
    for _ in range(number):
        images, others, second = (torch.rand(6, 1, 8, 8, generator=draw) for _ in range(3))
        labels = torch.randint(10, (6,), generator=draw)
        yield Batch(images, labels, others if unlabelled else None, second if views else None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallCnn(input_noise=0.15, p=0.5, delta=0.05).build((1, 8, 8), 10)


def trained(
    make: Callable[[nn.Module, torch.optim.Optimizer], Step],
    model: nn.Module,
    terms: dict[str, Term],
    made: Iterator[Batch],
) -> list[Tensor]:
    """Train with a ramp, a learning rate and a β₁ that change; return all that came of it."""
    objective = Objective(model, terms)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    step = make(objective, optimizer)
    torch.manual_seed(1)
    values = []
    for turn, batch in enumerate(made):
        (group,) = optimizer.param_groups
        group["lr"] = 1e-3 * 0.83**turn
        group["betas"] = (0.9 if turn < STEPS - 2 else 0.9 - 0.017 * turn, 0.999)
        values += list(step(batch, 1 / (turn + 2)).values())
        if objective.average is not None:
            objective.average.update(model)
        assert isinstance(group["lr"], float), "the settings of the optimiser are left as they were"
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [*values, *model.state_dict().values(), *moments, torch.get_rng_state()]


@pytest.mark.parametrize(
    ("method", "form"),
    [
        (method, form)
        for method in TERMS
        for form in ("labelled", "unlabelled", "views")
        if (method, form) != ("vadd-shared", "views")  # Shared noise takes one view.
    ],
)
def test_same_bits_as_operation_by_operation(method: str, form: str, seeds: Callable[[], None]) -> None:
    kwargs = {"unlabelled": form != "labelled", "views": form == "views"}
    recorder = Counting()
    model = network()
    results = []
    for make in (eager_step, lambda o, a: CapturedStep(o, a, recorder=recorder)):
        seeds()
        results.append(trained(make, copy.deepcopy(model), TERMS[method], batches(STEPS, **kwargs)))
    for eager, captured in zip(*results, strict=True):
        assert eager.dtype == captured.dtype
        assert torch.equal(eager, captured)
    assert recorder.recorded == 3, "once after the warm-up, and for each β₁ of the last two steps"
    assert recorder.replayed == STEPS - WARM_UP
    assert len(recorder.generators) == {"sadd+vadd+vat+entmin": 2, "vadd-random": 2}.get(method, "add" in method)


@pytest.mark.parametrize("norm", ["batch", "mean-only"])
def test_same_bits_with_batch_normalisation(norm: Norm, seeds: Callable[[], None]) -> None:
    torch.manual_seed(0)
    config = ConvLarge(width=4, norm=norm, norm_logits=True, p=0.5, delta=0.5)
    model = config.build((3, 12, 12), 10)
    draw = torch.Generator().manual_seed(3)
    made = [Batch(torch.rand(4, 3, 12, 12, generator=draw), torch.arange(4)) for _ in range(STEPS)]
    results = []
    for make in (eager_step, CapturedStep):
        seeds()
        results.append(trained(make, copy.deepcopy(model), TERMS["vadd-qe"], iter(made)))
    assert all(torch.equal(eager, captured) for eager, captured in zip(*results, strict=True))


@pytest.mark.parametrize("method", ["sadd", "vadd-kl", "sadd+vadd+vat+entmin"])
def test_same_bits_with_two_layers(method: str, seeds: Callable[[], None]) -> None:
    layers = [AdversarialDropout(0.5, 0.2) for _ in range(2)]
    above = (layers[0], nn.Linear(24, 24), nn.ReLU(), layers[1], nn.Linear(24, 10))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), *above)
    results = []
    for make in (eager_step, CapturedStep):
        seeds()
        results.append(trained(make, copy.deepcopy(model), TERMS[method], batches(STEPS, unlabelled=True)))
    assert all(torch.equal(eager, captured) for eager, captured in zip(*results, strict=True))


def test_a_ramp_in_a_tensor_gives_the_same_bits() -> None:
    model = network()
    (batch,) = batches(1, unlabelled=True)
    for terms in TERMS.values():
        objective = Objective(model, terms)
        results = []
        for ramp in (0.3, torch.tensor(0.3, dtype=torch.float64)):
            torch.manual_seed(0)
            loss, _ = objective(batch, ramp)
            results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*results, strict=True))


class NothingRead(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what makes the CPU wait for a value, which is not allowed while a graph is captured."""

    refused = (
        "_local_scalar_dense",
        "nonzero",
        "equal",
        "masked_select",
        "_unique2",
        "unique_consecutive",
        "is_nonzero",
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._overloadpacket.__name__
        assert name not in self.refused, name
        assert not any(isinstance(tensor, Tensor) and tensor.dtype == torch.bool for tensor in _indices(name, args))
        return func(*args, **(kwargs or {}))


def _indices(name: str, args: tuple[Any, ...]) -> Sequence[Tensor]:
    return args[1] if name.startswith("index") and isinstance(args[1], Sequence) else ()


@pytest.mark.parametrize(
    "config",
    [
        SmallCnn(delta=0.25),
        MnistCnn(delta=0.25),
        ConvLarge(delta=0.25, width=8, norm="batch", norm_logits=True),
        ConvLarge(delta=0.25, width=8, norm="mean-only", norm_logits=True),
    ],
    ids=["small-cnn", "mnist-cnn", "conv-large batch", "conv-large mean-only"],
)
@pytest.mark.parametrize("rescale", ["inverted", "sum"])
@pytest.mark.parametrize("method", TERMS)
def test_a_recorded_step_reads_no_value(
    method: str, rescale: Rescale, config: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a graph is captured, values are not readable, and nothing may read one."""
    named = ("base", "layer_masks", "perturbation", "pi_model", "search")
    for module in ("divergences", "layers", "logits", "masks", *(f"regularizers.{name}" for name in named)):
        monkeypatch.setattr(f"adversarial_dropout.{module}.values_readable", lambda _: False)
    model = dataclasses.replace(config, rescale=rescale).build((1, 12, 12), 10)
    objective = Objective(model, TERMS[method])
    streams = MaskStreams(torch.device("cpu"))
    ramp = torch.full((), 0.5, dtype=torch.float64)
    images, others = torch.rand(4, 1, 12, 12), torch.rand(5, 1, 12, 12)
    for batch in (Batch(images, torch.arange(4)), Batch(images, torch.arange(4), others)):
        with streams.serving():
            objective(batch, ramp)
        with NothingRead(), streams.serving(recorded=True):  # type: ignore[no-untyped-call]
            loss, _ = objective(batch, ramp)
            loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def captured(recorder: Counting, method: str = "plain") -> tuple[CapturedStep, nn.Module, torch.optim.Adam]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    return CapturedStep(Objective(model, TERMS[method]), optimizer, recorder=recorder), model, optimizer


def test_base_masks_differ_from_replay_to_replay() -> None:
    recorder = Counting()
    step, _, _ = captured(recorder, "sadd")
    states = []
    for batch in batches(STEPS, unlabelled=False):
        step(batch, 1.0)
        (generator,) = recorder.generators or [torch.Generator()]
        states.append((generator.initial_seed(), generator.get_state()))
    replays = states[WARM_UP:]
    assert len({seed for seed, _ in replays}) == len(replays)


def test_batches_of_another_form_run_operation_by_operation() -> None:
    recorder = Counting()
    step, _, _ = captured(recorder)
    for batch in batches(WARM_UP + 1, unlabelled=False):
        step(batch, 1.0)
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    short = Batch(torch.rand(5, 1, 8, 8), torch.arange(5))
    step(short, 1.0)
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    for batch in batches(1, unlabelled=False):
        step(batch, 1.0)
    assert (recorder.recorded, recorder.replayed) == (1, 2), "the recording is still there"
    for _ in range(WARM_UP + 1):
        step(short, 1.0)
    assert (recorder.recorded, recorder.replayed) == (2, 3), "a form that comes often is recorded"


def test_recorded_anew_in_another_mode_and_not_for_another_rate() -> None:
    recorder = Counting()
    step, model, optimizer = captured(recorder)
    made = list(batches(WARM_UP + 3, unlabelled=False))
    for batch in made[:-2]:
        step(batch, 1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    step(made[-2], 0.5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "a rate of 0"
    assert recorder.recorded == 1
    model.eval()
    step(made[-1], 0.5)
    assert recorder.recorded == 2


def test_recorded_anew_with_another_budget() -> None:
    recorder = Counting()
    step, model, _ = captured(recorder, "vadd-kl")
    made = list(batches(WARM_UP + 3, unlabelled=False))
    for batch in made[:-1]:
        step(batch, 1.0)
    assert recorder.recorded == 1
    adversarial_layers(model)[0].delta *= 2
    step(made[-1], 1.0)
    assert recorder.recorded == 2


def test_a_loaded_optimiser_is_not_updated_behind_its_back() -> None:
    recorder = Counting()
    step, _, optimizer = captured(recorder)
    made = list(batches(WARM_UP + 2, unlabelled=False))
    for batch in made[:-1]:
        step(batch, 1.0)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(made[-1], 1.0)
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    assert {float(state["step"]) for state in optimizer.state.values()} == {WARM_UP + 2}


def test_values_are_not_overwritten_by_the_next_replay() -> None:
    recorder = Counting()
    step, _, _ = captured(recorder)
    losses = [step(batch, 1.0)["loss"] for batch in batches(STEPS, unlabelled=False)]
    assert len(set(map(float, losses))) == STEPS


def test_what_cannot_be_recorded_is_an_error_of_its_own() -> None:
    class Failing(Recorder):
        def record(self, step: object, generators: object) -> Callable[[], dict[str, Tensor]]:
            raise RuntimeError("operation not permitted when stream is capturing")

    model = network()
    step = CapturedStep(Objective(model, {}), torch.optim.Adam(model.parameters()), recorder=Failing())
    made = list(batches(WARM_UP + 1, unlabelled=False))
    for batch in made[:-1]:
        step(batch, 1.0)
    with pytest.raises(CaptureError, match="could not be recorded as a CUDA graph: operation not permitted"):
        step(made[-1], 1.0)


def test_streams_serve_only_while_they_serve() -> None:
    model = nn.Sequential(AdversarialDropout(0.5, 0.2), nn.Linear(10, 3))
    streams = MaskStreams(torch.device("cpu"))
    x, regularizer = torch.rand(4, 10), VirtualAdversarialDropout()
    for serving in (True, False):
        torch.manual_seed(4)
        if serving:
            with streams.serving():
                first = regularizer(model, x)
        else:
            assert torch.equal(first, regularizer(model, x)), "the same seed, drawn at the same point"
    assert len(streams.generators) == 1


def test_a_search_that_was_not_there_before_cannot_be_recorded() -> None:
    model = nn.Sequential(AdversarialDropout(0.5, 0.2), nn.Linear(10, 3))
    with (
        MaskStreams(torch.device("cpu")).serving(recorded=True),
        pytest.raises(CaptureError, match="expected each step to make the same searches"),
    ):
        VirtualAdversarialDropout()(model, torch.rand(4, 10))


def test_a_mask_frozen_in_a_recording_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    search = Search(nn.Sequential(AdversarialDropout(0.5, 0.2)), torch.rand(4, 10))
    with pytest.raises(InvalidValueError, match="expected base masks from generators that outlive the step"):
        search._generator(0, torch.device("cuda"))

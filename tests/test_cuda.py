"""What differs on a GPU: ties, generators, devices, recorded steps, memory. Skipped where there is none."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from experiments.run.test_captured import TERMS
from experiments.runs import small
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
    sample_mask,
)
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.models.conv_large import ConvLarge
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.run.captured import WARM_UP, CapturedStep, CudaGraphs, Recorder
from adversarial_dropout.experiments.run.run import choose_step
from adversarial_dropout.experiments.run.step import Batch, GpuMemoryError, Objective, eager_step
from adversarial_dropout.experiments.terms import Term, Vadd, by_kind
from adversarial_dropout.regularizers.base import Regularizer

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

REGULARIZERS = (
    VirtualAdversarialDropout(),
    VirtualAdversarialDropout(divergence="qe"),
    SupervisedAdversarialDropout(),
    AdversarialTraining(),
    VirtualAdversarialTraining(),
    PiModel(),
    EntropyMinimization(),
)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), AdversarialDropout(0.5, 0.05), nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 3)
    )


def assert_near(value: Tensor, expected: Tensor, tolerance: float) -> None:
    """They differ by at most this share of the largest entry."""
    largest = max(float(expected.detach().abs().max()), 1e-3)
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("units", [1, 7, 2048, 65536])
def test_ties_go_to_the_lower_index_as_on_the_cpu(units: int) -> None:
    mask = torch.rand(64, units) < 0.5
    jacobian = torch.randint(-2, 3, (64, units)).float()
    for flips in (1, 5, units):
        on_gpu = adversarial_mask(mask.cuda(), jacobian.cuda(), max_flips=flips)
        assert torch.equal(on_gpu.cpu(), adversarial_mask(mask, jacobian, max_flips=flips))


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
def test_loss_and_gradients_are_those_of_the_cpu(regularizer: Regularizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, without noise but the same base mask and the same direction on both sides."""
    model = network().double()
    model[4] = nn.Identity()  # No dropout but that of the layer.
    x, other, direction = torch.randn(3, 32, 8).double()
    y, mask = torch.randint(3, (32,)), torch.rand(32, 64) < 0.5
    monkeypatch.setattr(torch, "randn_like", lambda like, **_: direction.to(like))
    results = []
    for device in ("cpu", "cuda"):
        copied = copy.deepcopy(model).to(device).eval()
        target = copied(other.to(device))
        copied.train(isinstance(regularizer, SupervisedAdversarialDropout | VirtualAdversarialDropout))
        layer = copied[2]
        assert isinstance(layer, AdversarialDropout)
        layer._last_mask = mask.to(device)
        loss = regularizer(copied, x.to(device), y.to(device), target=target)
        gradients = torch.autograd.grad(loss, list(copied.parameters()), materialize_grads=True)
        results.append([loss.cpu(), *(gradient.cpu() for gradient in gradients)])
    assert any(gradient.any() for gradient in results[0][1:])
    for here, there in zip(*results, strict=True):
        assert_near(there, here, 1e-9)


@pytest.mark.parametrize("regularizer", [*REGULARIZERS, VirtualAdversarialDropout(noise="shared")], ids=repr)
def test_same_seed_same_loss_and_gradients(regularizer: Regularizer) -> None:
    model = network().cuda()
    x, y = torch.randn(32, 8).cuda(), torch.randint(3, (32,)).cuda()

    def call() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        loss = regularizer(model, x, y)
        return (loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    for first, second in zip(call(), call(), strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()


def test_search_leaves_the_generator_of_the_device_as_it_was() -> None:
    model = network().cuda()
    (layer,) = (module for module in model if isinstance(module, AdversarialDropout))
    x, states = torch.randn(32, 8).cuda(), []
    for delta in (0.0, 0.05):
        layer.delta = delta
        torch.manual_seed(0)
        VirtualAdversarialDropout()(model, x)
        states.append(torch.cuda.get_rng_state())
    assert torch.equal(*states)


def test_masks_and_errors() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    assert sample_mask((4, 5), 0.5, generator=generator).is_cuda
    with pytest.raises(ValueError, match="finite"):
        adversarial_mask(torch.ones(2, 3).cuda(), torch.full((2, 3), torch.nan).cuda(), max_flips=1)


STEPS = WARM_UP + 5


def watched_graphs() -> mock.Mock:
    return mock.Mock(wraps=CudaGraphs(torch.device("cuda", torch.cuda.current_device())))


class Noisy(nn.Module):
    """Adds noise and stores it, pass by pass; in a recording these tensors change with every replay."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        self.seen.append(noise.detach())
        return x + 0.1 * noise


def made_batches(number: int, *, rows: int = 16) -> list[Batch]:
    return [
        Batch(torch.randn(rows, 8).cuda(), torch.randint(3, (rows,)).cuda(), torch.randn(2 * rows, 8).cuda())
        for _ in range(number)
    ]


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def eager_and_recorded(
    model: nn.Module, terms: dict[str, Term], made: list[Batch], recorder: Recorder | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Losses, parameters and Adam's moments, all noise included, with a ramp, a rate and a β₁ that change."""
    results = []
    for captured in (False, True):
        copied = copy.deepcopy(model)
        objective, optimizer = Objective(copied, terms), adam(copied)
        step = CapturedStep(objective, optimizer, recorder=recorder) if captured else eager_step(objective, optimizer)
        torch.manual_seed(1)
        values = []
        for turn, batch in enumerate(made):
            optimizer.param_groups[0].update(lr=1e-3 * 0.9**turn, betas=(0.9 if turn < STEPS - 1 else 0.8, 0.999))
            values += list(step(batch, 1 / (turn + 2)).values())
        moments = [value for state in optimizer.state.values() for value in state.values()]
        results.append([*values, *copied.parameters(), *moments])
    return zip(*results, strict=True)


@pytest.mark.parametrize("method", [method for method in TERMS if "entmin" not in method])
def test_a_recorded_step_is_the_step(method: str) -> None:
    recorder = watched_graphs()
    for eager, recorded in eager_and_recorded(network().cuda(), TERMS[method], made_batches(STEPS), recorder):
        torch.testing.assert_close(eager, recorded, rtol=1e-6, atol=1e-6)
    assert recorder.record.call_count == 2, "once, and again for another β₁"


@pytest.mark.parametrize("method", presets.find("paper/mnist-1000").methods)
def test_a_recorded_step_is_the_step_on_the_network_of_table_3(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = presets.get("paper/mnist-1000", method, "paper")
    images, labels = torch.rand(STEPS, 128, 1, 28, 28).cuda(), torch.randint(10, (STEPS, 32)).cuda()
    made = [Batch(seen[:32], known, seen[32:]) for seen, known in zip(images, labels, strict=True)]
    for eager, recorded in eager_and_recorded(config.model.build((1, 28, 28), 10).cuda(), config.terms, made):
        assert_near(recorded, eager, 1e-5)


def test_base_masks_differ_from_replay_to_replay() -> None:
    model = network().cuda()
    layer = model[2]
    assert isinstance(layer, AdversarialDropout)
    step = CapturedStep(Objective(model, TERMS["sadd"]), adam(model))
    masks: list[Tensor] = []
    seeds: list[int] = []
    for batch in made_batches(STEPS + 20):
        step(batch, 1.0)
        assert layer._last_mask is not None
        masks.append(layer._last_mask.clone())
        seeds += [generator.initial_seed() for generator in step._streams.generators]
    replayed = masks[WARM_UP + 1 :]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(replayed))
    assert len(set(seeds)) == len(seeds)
    assert 0.47 < float(torch.stack(replayed).float().mean()) < 0.53


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_noise_within_a_replay(noise: str) -> None:
    """The search and the adversarial pass see the same; with shared noise the target pass too. Replays differ."""
    noisy = Noisy()
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), AdversarialDropout(0.5, 0.05), noisy, nn.Linear(64, 3)).cuda()
    term = Vadd(noise=noise)  # type: ignore[arg-type]
    step = CapturedStep(Objective(model, by_kind(term)), adam(model))
    made = made_batches(STEPS)
    for batch in made[:WARM_UP]:
        step(batch, 1.0)
    noisy.seen.clear()
    before: list[Tensor] = []
    for batch in made[WARM_UP:]:
        step(batch, 1.0)
        torch.cuda.synchronize()
        learned, target, search, adversarial = (tensor.clone() for tensor in noisy.seen[-4:])
        assert torch.equal(search, adversarial)
        assert torch.equal(target, search) == (noise == "shared")
        assert not torch.equal(learned[:8], target[:8])
        assert all(not torch.equal(old, new) for old, new in zip(before, (learned, target, search), strict=False))
        before = [learned, target, search]


def test_a_rate_of_0_holds_without_another_recording() -> None:
    model = network().cuda()
    optimizer, recorder = adam(model), watched_graphs()
    step = CapturedStep(Objective(model, TERMS["vadd-kl"]), optimizer, recorder=recorder)
    *first, last = made_batches(STEPS)
    for batch in first:
        step(batch, 1.0)
    before = copy.deepcopy(model.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    values = step(last, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert float(values["loss"]) == float(values["ce"]), "a ramp of 0"
    assert recorder.record.call_count == 1


def test_another_form_of_batch_between_replays() -> None:
    made = [*made_batches(WARM_UP + 1), *made_batches(1, rows=5), *made_batches(2)]
    for eager, recorded in eager_and_recorded(network().cuda(), TERMS["vadd-kl"], made):
        torch.testing.assert_close(eager, recorded, rtol=1e-6, atol=1e-6)


def test_a_loss_that_is_not_finite_shows_in_the_values_of_a_replay() -> None:
    model = network().cuda()
    step = CapturedStep(Objective(model, TERMS["vadd-kl"]), adam(model))
    for batch in made_batches(WARM_UP + 1):
        assert step(batch, 1.0)["loss"].isfinite()
    (bad,) = made_batches(1)
    assert not step(dataclasses.replace(bad, images=bad.images * torch.nan), 1.0)["loss"].isfinite()


def test_a_run_that_diverges_ends_with_its_epoch(tmp_path: Path) -> None:
    with pytest.raises(loop.DivergedError, match="finite"):
        loop.run(small("vadd-kl", epochs=20, steps=8, learning_rate=1e20), tmp_path)


def test_a_mask_is_not_frozen_in_a_users_graph() -> None:
    model, x = network().cuda(), torch.randn(32, 8).cuda()
    vadd = VirtualAdversarialDropout()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        vadd(model, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.graph(torch.cuda.CUDAGraph())
    with pytest.raises(InvalidValueError, match="generators that outlive the step"), graph:
        vadd(model, x)


def test_out_of_memory_says_what_to_lower() -> None:
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 2**30
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    try:
        model = ConvLarge(p=0.5, delta=0.05).build((3, 32, 32), 10).cuda()
        step = choose_step(Objective(model, {}), adam(model), capture=True)
        batch = Batch(torch.rand(2048, 3, 32, 32).cuda(), torch.arange(2048).cuda() % 10)
        message = r"with 2048 images in this process \(.* GiB, of which .*Lower --training\.batch-labelled, for example"
        with pytest.raises(GpuMemoryError, match=message):
            step(batch, 1.0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()

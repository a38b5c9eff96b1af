"""The random numbers that each pass sees, and the draws that follow."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)

from .recording import FORMS, METHODS, Net, Recorder, Run, batch, build, in_form

STD = 0.2
HELD = pytest.mark.parametrize("held", [False, True])


def noisy(form: str, held: bool) -> Net:
    return build(form, std=STD, generator=torch.Generator().manual_seed(1) if held else None)


def pattern(runs: list[Run]) -> list[int]:
    """For each run, the index of the first run with equal noise."""
    return [next(i for i, other in enumerate(runs) if torch.equal(other.noise, run.noise)) for run in runs]


@HELD
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("method", "below", "above"),
    [
        ("vadd", [0, 1], [0, 1, 1]),
        ("vadd-shared", [0], [0, 0, 0]),
        ("sadd", [0], [0, 0]),
        ("pi", [0, 1], [0, 1]),
        ("vat", [0, 0, 0], [0, 0, 0]),
        ("at", [0, 0], [0, 0]),
    ],
)
def test_noise_of_a_model_that_runs_in_parts(
    form: str, method: str, below: list[int], above: list[int], held: bool
) -> None:
    net = noisy(form, held)
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    assert (pattern(net.below.runs), pattern(net.above.runs)) == (below, above)


@HELD
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("vadd", [0, 1, 1]),
        ("vadd-shared", [0, 0, 0]),
        ("sadd", [0, 0]),
        ("pi", [0, 1]),
        ("vat", [0, 0, 0]),
        ("at", [0, 0]),
    ],
)
def test_noise_of_a_whole_model(method: str, expected: list[int], held: bool) -> None:
    """Hooks keep it whole."""
    net = noisy("opaque", held)
    net.model.register_forward_hook(lambda *args: None)
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    assert (pattern(net.below.runs), pattern(net.above.runs)) == (expected, expected)


@HELD
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("method", "above"), [("vadd", [0, 1, 1]), ("vat", [0, 1, 1]), ("pi", [0, 1])])
def test_noise_with_a_target(form: str, method: str, above: list[int], held: bool) -> None:
    net = noisy(form, held)
    x, _ = batch()
    out = net.model(x)
    METHODS[method]()(net.model, x, target=out)
    assert pattern(net.above.runs) == above


@HELD
def test_noise_of_the_three_calls(held: bool) -> None:
    net = noisy("sequential", held)
    head = nn.Sequential(net.layer, net.above, net.head)
    h = net.below(net.stem(batch()[0]))
    out = head(h)
    VirtualAdversarialDropout(noise="shared")(head, h, target=out)
    assert pattern(net.above.runs) == [0, 1, 1]


@pytest.mark.parametrize("steps", [1, 3])
def test_all_passes_of_vat_share_the_dropout_mask_too(steps: int) -> None:
    net = build()
    VirtualAdversarialTraining(steps=steps)(net.model, batch()[0])
    masks = [run.mask for run in net.above.runs]
    assert len(masks) == steps + 2
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_both_passes_of_pi_draw_a_mask() -> None:
    net = build()
    PiModel()(net.model, batch()[0])
    assert not torch.equal(net.above.runs[0].mask, net.above.runs[1].mask)


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout])
@pytest.mark.parametrize("method", ["vadd", "sadd"])
def test_ordinary_dropout_above_the_layer_is_noise_like_any_other(
    method: str, dropout: Callable[[float], nn.Module]
) -> None:
    """With nothing to flip, the search and the adversarial pass give the same output."""
    behind = Recorder()
    model = nn.Sequential(AdversarialDropout(0.0, 0.0), dropout(0.5), behind, nn.Linear(40, 3))
    METHODS[method]()(model, torch.rand(6, 40) + 1, torch.randint(3, (6,)))
    seen = [run.seen for run in behind.runs]
    assert torch.equal(seen[-1], seen[-2])
    assert not torch.equal(seen[-1], torch.ones(6, 40))
    if method == "vadd":
        assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
@HELD
def test_the_same_seed_gives_the_same_result(form: str, method: str, held: bool) -> None:
    x, y = batch()

    def run(seed: int) -> tuple[float, list[Tensor]]:
        net = noisy(form, held)
        torch.manual_seed(seed)
        loss = METHODS[method]()(net.model, x, y)
        return loss.item(), net.grads(loss)

    (loss, gradients), (same_loss, same_gradients), (other_loss, _) = run(3), run(3), run(4)
    assert loss == same_loss
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert loss != other_loss


@HELD
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("method", "given"), [("vadd", False), ("vadd", True), ("vadd-shared", False), ("sadd", False)]
)
def test_later_draws_do_not_depend_on_the_search(form: str, method: str, given: bool, held: bool) -> None:
    x, y = batch()
    states = []
    for delta in (0.0, 0.3, 1.0):
        net = noisy(form, held)
        net.layer.delta = delta
        torch.manual_seed(3)
        target = net.model(x) if given else None
        METHODS[method]()(net.model, x, y, target=target)
        held_state = net.above.generator.get_state() if net.above.generator else torch.zeros(1)
        states.append((torch.get_rng_state(), held_state))
    for state in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(state, states[0], strict=True))


@pytest.mark.parametrize(
    ("method", "form", "below", "above"),
    [
        ("vadd", "sequential", 2, 2),
        ("vadd", "opaque", 2, 2),
        ("vadd-shared", "sequential", 1, 1),
        ("vadd-shared", "opaque", 1, 1),
        ("sadd", "sequential", 1, 1),
        ("sadd", "opaque", 1, 1),
        ("pi", "opaque", 2, 2),
        ("vat", "opaque", 1, 1),
        ("at", "opaque", 1, 1),
    ],
)
def test_how_far_a_generator_moves_on(method: str, form: str, below: int, above: int) -> None:
    """By the draws of the passes with separate noise; the search and the masks draw nothing from it."""
    held, expected = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    net = build(form, std=STD, generator=held)
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    assert below == above
    for _ in range(below + above):
        torch.randn(5, 10, dtype=torch.float64, generator=expected)
    assert torch.equal(held.get_state(), expected.get_state())


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_base_masks_take_one_draw_from_the_default_generator_whatever_their_size(method: str) -> None:
    """A separate generator draws the masks; the default one only seeds it."""
    after = set()
    for rows, layers in ((2, 1), (7, 1), (7, 3)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 10), *[AdversarialDropout(0.5, 0.3) for _ in range(layers)])
        torch.manual_seed(3)
        METHODS[method]()(model, torch.randn(rows, 6, generator=torch.Generator()), torch.zeros(rows).long())
        after.add(torch.rand(()).item())
    torch.manual_seed(3)
    assert len(after) == 1
    assert after != {torch.rand(()).item()}


def test_masks_of_two_calls_differ_and_do_not_repeat_the_default_stream() -> None:
    net = build(delta=0.0)
    x, y = batch(30)
    reg = SupervisedAdversarialDropout()
    for _ in range(2):
        reg(net.model, x, y)
    one, two = net.above.runs[1].mask, net.above.runs[3].mask
    assert 0.3 < (one == two).float().mean() < 0.7


def test_several_generators_are_all_replayed() -> None:
    """Both recorders of ``build`` have the same generator; a third recorder has another."""
    net = noisy("opaque", held=True)
    third = Recorder(STD, torch.Generator().manual_seed(9))
    model = in_form("opaque", [third], [net.model]).double()
    model.register_forward_hook(lambda *args: None)  # So that each pass runs whole.
    x, y = batch()
    SupervisedAdversarialDropout()(model, x, y)
    for recorder in (net.below, net.above, third):
        assert pattern(recorder.runs) == [0, 0]
        assert recorder.runs[0].noise.any()

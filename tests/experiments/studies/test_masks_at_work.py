"""What the search finds in a trained model, against a direct computation and against random flips."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, flip_budget
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.studies.inspection.masks_at_work import RANDOM_MASKS, MasksAtWork, observe
from adversarial_dropout.experiments.trained.trained import Trained

from ..runs import seen, small


@pytest.fixture(scope="module", params=["plain", "vadd-qe"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CutNetwork:
    folder = tmp_path_factory.mktemp("trained")
    config = small(request.param, epochs=1, steps=60)
    record = loop.run(config, folder)
    assert record.error < 25
    model = Trained.load(record).model
    assert isinstance(model, CutNetwork)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    data = sources.digits()
    return seen(data, data.test[:200])


@pytest.fixture(scope="module")
def work(trained: CutNetwork, images: Tensor) -> MasksAtWork:
    return observe(trained, images)


def parts(model: CutNetwork) -> tuple[AdversarialDropout, Tensor, Tensor]:
    """The layer, and the weight and bias of the output, in float64."""
    layer, output = model.upper
    assert isinstance(layer, AdversarialDropout)
    assert isinstance(output, nn.Linear)
    return layer, output.weight.double(), output.bias.double()


def probabilities(model: CutNetwork, images: Tensor, mask: Tensor) -> Tensor:
    """Class probabilities under ``mask`` with inverted rescaling, in float64."""
    layer, weight, bias = parts(model)
    h: Tensor = model.eval().under(images).double() * mask / (1 - layer.p)
    return (h @ weight.T + bias).softmax(dim=1).detach()


def kl(before: Tensor, after: Tensor) -> Tensor:
    return (before * (before.log() - after.log())).sum(dim=1)


def test_the_search_beats_the_largest_of_twenty_random_masks(work: MasksAtWork) -> None:
    assert work.summary["mean"] > work.summary["mean_of_largest"] > work.summary["mean_random"] > 0


def test_probabilities_and_divergences(trained: CutNetwork, images: Tensor, work: MasksAtWork) -> None:
    before = probabilities(trained, images, work.base)
    after = probabilities(trained, images, work.found)
    torch.testing.assert_close(work.before.double(), before, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(work.after.double(), after, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(work.divergence.double(), kl(before, after), rtol=1e-3, atol=1e-6)
    for mask, moved, divergence in zip(work.random, work.after_random, work.divergence_random, strict=True):
        other = probabilities(trained, images, mask)
        torch.testing.assert_close(moved.double(), other, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(divergence.double(), kl(before, other), rtol=1e-3, atol=1e-6)


def test_the_flips_are_the_best_of_the_linearised_problem(
    trained: CutNetwork, images: Tensor, work: MasksAtWork
) -> None:
    # ∂KL/∂ε at ε = 1 without rescaling, in closed form: (q - p) W ∘ h with q the prediction and p the target.
    h = trained.eval().under(images).double()
    layer, weight, bias = parts(trained)
    target = probabilities(trained, images, work.base)
    jacobian = (((h @ weight.T + bias).softmax(dim=1) - target) @ weight) * h
    gain = ((1 - 2 * work.base.double()) * jacobian).detach()
    budget = flip_budget(layer.delta, 256)
    best = gain.clamp(min=0).topk(budget, dim=1).values.sum(dim=1)
    reached = (gain * (work.base != work.found)).sum(dim=1)
    torch.testing.assert_close(reached, best, rtol=1e-4, atol=1e-9)


def test_random_masks_have_as_many_flips_as_were_found(trained: CutNetwork, work: MasksAtWork) -> None:
    flips = (work.base != work.found).sum(dim=1)
    assert 1 <= flips.max() <= flip_budget(parts(trained)[0].delta, 256)
    assert work.random.shape == (RANDOM_MASKS, 200, 256)
    assert RANDOM_MASKS == 20
    assert ((work.base != work.random).sum(dim=2) == flips).all()
    assert work.summary["flips"] == pytest.approx(float(flips.double().mean()))
    assert len({mask.numpy().tobytes() for mask in work.random}) == RANDOM_MASKS
    # Each unit is as likely as another: 200 images · 20 masks · flips draws over 256 units.
    counts = (work.base != work.random).sum(dim=(0, 1)).double()
    assert float(counts.mean()) * 0.4 < counts.min()
    assert counts.max() < float(counts.mean()) * 1.8


def test_the_base_mask_is_drawn_as_in_training(trained: CutNetwork, images: Tensor, work: MasksAtWork) -> None:
    assert abs(float(work.base.double().mean()) - 0.5) < 0.01  # 51,200 draws
    again, other = observe(trained, images), observe(trained, images, seed=1)
    assert torch.equal(again.base, work.base)
    assert torch.equal(again.random, work.random)
    assert torch.equal(again.divergence, work.divergence)
    assert not torch.equal(other.base, work.base)
    assert not torch.equal(other.random, work.random)


def test_summaries(work: MasksAtWork) -> None:
    assert work.summary["mean"] == pytest.approx(work.divergence.sum().item() / 200, rel=1e-5)
    assert work.summary["mean_random"] == pytest.approx(work.divergence_random.sum().item() / 4000, rel=1e-5)
    largest = [max(work.divergence_random[:, image].tolist()) for image in range(200)]
    assert work.summary["mean_of_largest"] == pytest.approx(sum(largest) / 200, rel=1e-5)


@pytest.mark.parametrize("flags", ["training", "evaluation", "mixed"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(flags: str, fails: bool, trained: CutNetwork, images: Tensor) -> None:
    trained.train(flags == "training")
    if flags == "mixed":
        list(trained.under.children())[2].train()
    modes = [module.training for module in trained.modules()]
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError):
            observe(trained, images[:, :, :3])
    else:
        observe(trained, images[:5])
    assert [module.training for module in trained.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_units_of_another_granularity(images: Tensor) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        AdversarialDropout(0.5, 0.25, granularity="channel"),
        nn.Flatten(),
        nn.Linear(12 * 36, 10),
    )
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    work = observe(model, images[:6])
    assert work.base.shape == work.found.shape == (6, 12)
    flips = (work.base != work.found).sum(dim=1)
    assert 1 <= flips.max() <= 3
    assert ((work.base != work.random).sum(dim=2) == flips).all()
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "got none"),
        ([AdversarialDropout(0.0)], "one AdversarialDropout layer with p > 0, got .*p=0.0"),
        (
            [AdversarialDropout(0.5), nn.ReLU(), AdversarialDropout(0.5)],
            "one AdversarialDropout layer.*got .*p=0.5.*p=0.5",
        ),
    ],
)
def test_models_that_cannot_be_observed(layers: list[nn.Module], message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3)).train()
    with pytest.raises(InvalidValueError, match=message):
        observe(model, torch.rand(2, 4))
    assert all(module.training for module in model.modules())


def test_a_budget_of_nothing_moves_nothing(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), AdversarialDropout(0.5, 0.0), nn.Linear(20, 3))
    work = observe(model, images[:4])
    assert torch.equal(work.base, work.found)
    assert (work.random == work.base).all()
    assert work.summary["flips"] == 0
    assert work.summary["mean"] == pytest.approx(0, abs=1e-7)


def test_the_weights_of_a_run_can_be_observed(tmp_path: Path, images: Tensor) -> None:
    record = loop.run(small("vadd-kl", epochs=1, steps=1), tmp_path)
    work = observe(Trained.load(record).model, images[:3])
    assert work.divergence.shape == (3,)

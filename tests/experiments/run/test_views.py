"""Which images each pass of a step sees, which pass is whose target, and how many passes there are."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import DataConfig, TrainingConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.splits import make_split
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.experiments.run.batches import batches, steps_of_a_run, steps_of_an_epoch
from adversarial_dropout.experiments.run.step import Batch, Objective
from adversarial_dropout.experiments.terms import At, Entmin, Pi, Sadd, Term, Vadd, Vat, by_kind
from adversarial_dropout.regularizers.passes import cut

UNITS, FLIPS = 12, 3
EPS = 0.5


class Recorder(nn.Module):
    """Passes on what it is given, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return x


@dataclasses.dataclass
class Net:
    """A small float64 network with noise below its layer, and what went in, into the head, and out, pass by pass."""

    inputs: Recorder = dataclasses.field(default_factory=Recorder)
    into_head: Recorder = dataclasses.field(default_factory=Recorder)
    outputs: Recorder = dataclasses.field(default_factory=Recorder)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        under = nn.Sequential(self.inputs, nn.Linear(6, UNITS), nn.Softplus(), GaussianNoise(0.1))
        head = nn.Sequential(self.into_head, nn.Linear(UNITS, 8), nn.Tanh(), nn.Linear(8, 3), self.outputs)
        self.model = CutNetwork(under, AdversarialDropout(0.5, FLIPS / UNITS), head).double()

    @property
    def masks(self) -> list[Tensor]:
        """The mask of each pass; ones in a search."""
        return [seen != 0 for seen in self.into_head.seen]

    def step(self, batch: Batch, *terms: Term) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(7)
        loss, values = Objective(self.model, by_kind(*terms))(batch, 0.5)
        return loss, values


SHARED, INDEPENDENT = Vadd(weight=3.0, noise="shared"), Vadd(weight=3.0, noise="independent")
AT, SADD = At(weight=3.0, eps=EPS), Sadd(weight=3.0)
VAT, PI, ENTMIN = Vat(weight=3.0, eps=EPS), Pi(weight=3.0, divergence="kl"), Entmin(weight=3.0)
PI_QE = Pi(weight=3.0, divergence="qe")


def batch(*, unlabelled: bool, second: bool) -> Batch:
    """Four labelled images of six pixels, seven others, and a second view of those that the terms see."""
    generator = torch.Generator().manual_seed(1)

    def images(n: int) -> Tensor:
        return torch.randn(n, 6, generator=generator).double()

    labelled, others = images(4), images(7)
    return Batch(
        images=labelled,
        labels=torch.tensor([0, 1, 2, 0]),
        unlabelled=others if unlabelled else None,
        second=images(7 if unlabelled else 4) if second else None,
    )


def entropy(logits: Tensor) -> Tensor:
    q = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return -(q * q.log()).sum(dim=1).mean()


def check(net: Net, loss: Tensor, by_hand: Callable[[Net], Tensor]) -> None:
    """``by_hand`` gives the same loss and the same gradients from the same seed."""
    expected_net = Net()
    torch.manual_seed(7)
    expected = by_hand(expected_net)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(loss, list(net.model.parameters()))
    by_hand_gradients = torch.autograd.grad(expected, list(expected_net.model.parameters()))
    torch.testing.assert_close(gradients, by_hand_gradients, rtol=1e-10, atol=1e-14)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("divergence", ["kl", "qe"])
def test_shared_vadd_without_unlabelled_images_starts_from_the_pass_of_the_cross_entropy(divergence: Any) -> None:
    shared = Vadd(weight=3.0, noise="shared", divergence=divergence)
    step, net = batch(unlabelled=False, second=False), Net()
    loss, values = net.step(step, shared)

    def by_hand(other: Net) -> Tensor:
        under, upper = cut(other.model)
        h = under(step.images)
        out = upper(h)
        regularizer = shared.build()
        value: Tensor = F.cross_entropy(out, step.labels) + 0.5 * 3.0 * regularizer(upper, h, target=out)
        return value

    check(net, loss, by_hand)
    # And from the logits alone: target, search, adversarial pass.
    target, _, adversarial = (logits.softmax(dim=1) for logits in net.outputs.seen)
    cross_entropy = -target[torch.arange(4), step.labels].log().mean()
    difference = {
        "kl": (target * (target / adversarial).log()).sum(dim=1).mean(),
        "qe": ((target - adversarial) ** 2).mean(),
    }[divergence]
    torch.testing.assert_close(values["ce"], cross_entropy, rtol=1e-12, atol=0)
    torch.testing.assert_close(values["vadd"], difference, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss.detach(), cross_entropy + 1.5 * difference, rtol=1e-12, atol=0)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("kind", [INDEPENDENT, PI_QE], ids=lambda term: term.kind)
def test_without_unlabelled_images_the_pass_of_the_cross_entropy_is_the_target(kind: Term, second: bool) -> None:
    step, net = batch(unlabelled=False, second=second), Net()
    loss, _ = net.step(step, kind)

    def by_hand(other: Net) -> Tensor:
        target = other.model(step.images)
        x = step.images if step.second is None else step.second
        term = kind.build()(other.model, x, target=target)
        value: Tensor = F.cross_entropy(target, step.labels) + 1.5 * term
        return value

    check(net, loss, by_hand)


@pytest.mark.parametrize("kind", [INDEPENDENT, PI_QE], ids=lambda term: term.kind)
def test_two_views_of_unlabelled_images(kind: Term) -> None:
    step, net = batch(unlabelled=True, second=True), Net()
    loss, _ = net.step(step, kind)

    def by_hand(other: Net) -> Tensor:
        cross_entropy = F.cross_entropy(other.model(step.images), step.labels)
        target = other.model(step.unlabelled)
        assert step.second is not None
        value: Tensor = cross_entropy + 1.5 * kind.build()(other.model, step.second, target=target)
        return value

    check(net, loss, by_hand)


@pytest.mark.parametrize(
    "chosen", [PI, VAT, SHARED, INDEPENDENT, ENTMIN], ids=["pi", "vat", "vadd-shared", "vadd-independent", "entmin"]
)
def test_one_view_of_unlabelled_images_is_left_to_the_term(chosen: Term) -> None:
    step, net = batch(unlabelled=True, second=False), Net()
    loss, _ = net.step(step, chosen)

    def by_hand(other: Net) -> Tensor:
        cross_entropy = F.cross_entropy(other.model(step.images), step.labels)
        value: Tensor = cross_entropy + 1.5 * chosen.build()(other.model, step.unlabelled)
        return value

    check(net, loss, by_hand)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_entropy_is_that_of_the_target(unlabelled: bool) -> None:
    step, net = batch(unlabelled=unlabelled, second=True), Net()
    loss, values = net.step(step, ENTMIN)
    target = net.outputs.seen[1 if unlabelled else 0]
    torch.testing.assert_close(values["entmin"], entropy(target), rtol=1e-10, atol=0)

    def by_hand(other: Net) -> Tensor:
        logits = other.model(step.images)
        target = other.model(step.unlabelled) if unlabelled else logits
        return F.cross_entropy(logits, step.labels) + 1.5 * entropy(target)

    check(net, loss, by_hand)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_entropy_and_agreement_have_one_target(unlabelled: bool) -> None:
    step, net = batch(unlabelled=unlabelled, second=True), Net()
    _, values = net.step(step, INDEPENDENT, ENTMIN)
    target, adversarial = net.outputs.seen[1 if unlabelled else 0], net.outputs.seen[-1]
    torch.testing.assert_close(values["entmin"], entropy(target), rtol=1e-10, atol=0)
    t, q = target.softmax(dim=1), adversarial.softmax(dim=1)
    torch.testing.assert_close(values["vadd"], (t * (t / q).log()).sum(dim=1).mean(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_vat_ignores_the_second_view(unlabelled: bool) -> None:
    step, net = batch(unlabelled=unlabelled, second=True), Net()
    loss, _ = net.step(step, VAT)
    first = step.unlabelled if unlabelled else step.images

    def by_hand(other: Net) -> Tensor:
        cross_entropy = F.cross_entropy(other.model(step.images), step.labels)
        value: Tensor = cross_entropy + 1.5 * VAT.build()(other.model, first)
        return value

    check(net, loss, by_hand)
    without, _ = Net().step(dataclasses.replace(step, second=None), VAT)
    assert torch.equal(without, loss)


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("chosen", [AT, SADD], ids=lambda term: term.kind)
def test_supervised_terms_see_the_labelled_images(chosen: Term, second: bool, unlabelled: bool) -> None:
    step, net = batch(unlabelled=unlabelled, second=second), Net()
    loss, _ = net.step(step, chosen)

    def by_hand(other: Net) -> Tensor:
        logits = other.model(step.images)
        regularizer = chosen.build()
        value: Tensor = 1.5 * regularizer(other.model, step.images, step.labels, target=logits)
        return F.cross_entropy(logits, step.labels) + value

    check(net, loss, by_hand)


@pytest.mark.parametrize(
    "others",
    [(), (SADD,), (VAT,), (AT,), (PI,), (SADD, PI, VAT, AT)],
    ids=lambda terms: "+".join(term.kind for term in terms) or "none",
)
@pytest.mark.parametrize(
    ("unlabelled", "second", "chosen"),
    [(False, False, SHARED), (False, False, INDEPENDENT), (False, True, INDEPENDENT), (True, True, INDEPENDENT)],
)
def test_the_search_starts_from_the_masks_of_the_target_whatever_comes_between(
    unlabelled: bool, second: bool, chosen: Term, others: tuple[Term, ...]
) -> None:
    step, net = batch(unlabelled=unlabelled, second=second), Net()
    net.step(step, ENTMIN, *others, chosen)  # The entropy needs the target first.
    found = net.masks[-1]
    target = next(mask for mask in net.masks if len(mask) == len(found))  # Of the first pass on the same images.
    flips = (target != found).sum(dim=1)
    assert 1 <= flips.max() <= FLIPS, "two masks without relation differ in about six of twelve units"


IMAGES, FIRST, SECOND, MOVED = "images", "first", "second", "moved"


def names(net: Net, step: Batch) -> list[str]:
    """What each pass below the layer saw."""
    known = {IMAGES: step.images, FIRST: step.unlabelled, SECOND: step.second}

    def name(seen: Tensor) -> str:
        for key, tensor in known.items():
            if tensor is not None and torch.equal(seen, tensor):
                return key
        near = step.images if len(seen) == 4 else step.unlabelled
        assert near is not None
        assert (seen - near).abs().max() <= EPS + 1e-12
        return MOVED

    return [name(seen) for seen in net.inputs.seen]


PASSES: dict[str, tuple[tuple[bool, bool], tuple[Term, ...], list[str], int]] = {
    # name: (unlabelled images, second view), terms, what the passes below the layer see, passes above it
    "plain": ((False, False), (), [IMAGES], 1),
    "plain, unlabelled": ((True, False), (), [IMAGES], 1),
    "plain, two views": ((True, True), (), [IMAGES], 1),
    "at": ((False, False), (AT,), [IMAGES, IMAGES, MOVED], 3),
    "at, unlabelled, two views": ((True, True), (AT,), [IMAGES, IMAGES, MOVED], 3),
    "sadd": ((False, False), (SADD,), [IMAGES, IMAGES], 3),
    "sadd, unlabelled": ((True, False), (SADD,), [IMAGES, IMAGES], 3),
    "vat": ((False, False), (VAT,), [IMAGES, IMAGES, MOVED, MOVED], 4),
    "vat, two views": ((False, True), (VAT,), [IMAGES, IMAGES, MOVED, MOVED], 4),
    "vat, unlabelled": ((True, False), (VAT,), [IMAGES, FIRST, MOVED, MOVED], 4),
    "vat, unlabelled, two views": ((True, True), (VAT,), [IMAGES, FIRST, MOVED, MOVED], 4),
    "pi": ((False, False), (PI,), [IMAGES, IMAGES], 2),
    "pi, two views": ((False, True), (PI,), [IMAGES, SECOND], 2),
    "pi, unlabelled": ((True, False), (PI,), [IMAGES, FIRST, FIRST], 3),
    "pi, unlabelled, two views": ((True, True), (PI,), [IMAGES, FIRST, SECOND], 3),
    "shared": ((False, False), (SHARED,), [IMAGES], 3),
    "shared, unlabelled": ((True, False), (SHARED,), [IMAGES, FIRST], 4),
    "independent": ((False, False), (INDEPENDENT,), [IMAGES, IMAGES], 3),
    "independent, two views": ((False, True), (INDEPENDENT,), [IMAGES, SECOND], 3),
    "independent, unlabelled": ((True, False), (INDEPENDENT,), [IMAGES, FIRST, FIRST], 4),
    "independent, unlabelled, two views": ((True, True), (INDEPENDENT,), [IMAGES, FIRST, SECOND], 4),
    "entropy": ((False, False), (ENTMIN,), [IMAGES], 1),
    "entropy, two views": ((False, True), (ENTMIN,), [IMAGES], 1),
    "entropy, unlabelled": ((True, False), (ENTMIN,), [IMAGES, FIRST], 2),
    "entropy, unlabelled, two views": ((True, True), (ENTMIN,), [IMAGES, FIRST], 2),
    "shared + vat": ((False, False), (SHARED, VAT), [IMAGES, IMAGES, MOVED, MOVED], 6),
    "independent + vat, two views": ((False, True), (INDEPENDENT, VAT), [IMAGES, SECOND, IMAGES, MOVED, MOVED], 6),
    "independent + vat + entropy, unlabelled, two views": (
        (True, True),
        (INDEPENDENT, VAT, ENTMIN),
        [IMAGES, FIRST, SECOND, FIRST, MOVED, MOVED],
        7,
    ),
}


@pytest.mark.parametrize("case", PASSES)
def test_passes(case: str) -> None:
    (unlabelled, second), terms, below, above = PASSES[case]
    step, net = batch(unlabelled=unlabelled, second=second), Net()
    net.step(step, *terms)
    assert names(net, step) == below
    assert len(net.outputs.seen) == above


DIGITS = sources.digits()


def steps(data: DataConfig, training: TrainingConfig, *, needs_unlabelled: bool) -> list[Batch]:
    split, pixels = make_split(DIGITS, data, 0), Pixels(data, DIGITS.brightest)
    order = torch.Generator().manual_seed(3)
    made = list(batches(DIGITS, pixels, split, training, order, needs_unlabelled=needs_unlabelled))
    assert len(made) == steps_of_an_epoch(training, len(split.labelled), len(split.unlabelled))
    return made


def is_shifted(view: Tensor, original: Tensor, most: int) -> bool:
    """Whether ``view`` (1, H, W) is ``original`` moved by up to ``most`` pixels each way, with 0 in the gap."""
    _, height, width = original.shape
    framed = F.pad(original, (most,) * 4)
    return any(
        torch.equal(view, framed[:, top : top + height, left : left + width])
        for top in range(2 * most + 1)
        for left in range(2 * most + 1)
    )


@pytest.mark.parametrize(
    ("unlabelled", "needs", "translate", "has_unlabelled", "has_second"),
    [
        (16, True, 1, True, True),
        (16, True, 0, True, False),
        (16, False, 1, False, False),
        (0, True, 1, False, True),
        (0, True, 0, False, False),
        (0, False, 1, False, False),
    ],
)
def test_a_step_makes_the_views_that_are_needed(
    unlabelled: int, needs: bool, translate: int, has_unlabelled: bool, has_second: bool
) -> None:
    training = TrainingConfig(batch_labelled=8, batch_unlabelled=unlabelled, steps_per_epoch=3)
    data = DataConfig(labelled=100, translate=translate)
    made = steps(data, training, needs_unlabelled=needs)
    assert len(made) == 3
    for step in made:
        assert step.images.shape == (8, 1, 8, 8)
        assert (step.unlabelled is not None) == has_unlabelled
        assert (step.second is not None) == has_second
        assert step.unlabelled is None or step.unlabelled.shape == (unlabelled, 1, 8, 8)


@pytest.mark.parametrize("unlabelled", [0, 16])
def test_the_second_view_is_of_the_same_images_in_the_same_order(unlabelled: int) -> None:
    training = TrainingConfig(batch_labelled=16, batch_unlabelled=unlabelled, steps_per_epoch=2)
    plain = steps(DataConfig(), training, needs_unlabelled=True)
    moved = steps(DataConfig(translate=2), training, needs_unlabelled=True)
    differ = 0
    for original, step in zip(plain, moved, strict=True):
        assert torch.equal(original.labels, step.labels)
        stored = original.images if original.unlabelled is None else original.unlabelled
        first = step.images if step.unlabelled is None else step.unlabelled
        assert step.second is not None
        for image, one, two in zip(stored, first, step.second, strict=True):
            assert is_shifted(one, image, 2)
            assert is_shifted(two, image, 2)
            assert not is_shifted(1 - one, image, 2)
            differ += not torch.equal(one, two)
    assert differ >= 24, "25 shifts: of 32 pairs one or two are equal"


@pytest.mark.parametrize(
    ("training", "overlap", "expected"),
    [
        (TrainingConfig(), True, 1297 // 128),
        (TrainingConfig(), False, 1197 // 128),
        (TrainingConfig(batch_unlabelled=0), True, 100 // 32),
        (TrainingConfig(batch_unlabelled=0, batch_labelled=64), True, 1),
        (TrainingConfig(batch_unlabelled=0, batch_labelled=101), True, 1),
        (TrainingConfig(batch_unlabelled=0, steps_per_epoch=7), True, 7),
        (TrainingConfig(steps_per_epoch=40), True, 40),
        (TrainingConfig(least_steps=20), True, 20),
        (TrainingConfig(least_steps=5, most_steps=30), True, 10),
        (TrainingConfig(least_steps=5, most_steps=6), True, 6),
        (TrainingConfig(batch_unlabelled=0, most_steps=2), True, 2),
    ],
)
def test_steps_of_an_epoch(training: TrainingConfig, overlap: bool, expected: int) -> None:
    split = make_split(DIGITS, DataConfig(overlap=overlap), 0)
    assert steps_of_an_epoch(training, len(split.labelled), len(split.unlabelled)) == expected
    config = presets.get("digits-100", "vadd-kl")
    config = dataclasses.replace(config, data=DataConfig(overlap=overlap), training=training)
    assert steps_of_a_run(config, 1297) == training.epochs * expected


def test_labelled_steps_alone_are_one_permutation_after_the_other() -> None:
    training = TrainingConfig(batch_labelled=10, batch_unlabelled=0, steps_per_epoch=20)
    seen = torch.cat([step.images for step in steps(DataConfig(), training, needs_unlabelled=True)])
    keys = [image.numpy().tobytes() for image in seen]
    assert sorted(keys[:100]) == sorted(keys[100:])
    assert len(set(keys[:100])) == 100
    assert keys[:100] != keys[100:]

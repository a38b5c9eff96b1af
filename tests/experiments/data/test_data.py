"""Digits and their splits: what is seen in training, and what never is."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData
from adversarial_dropout.experiments.data.splits import Split, make_split

DIGITS = sources.load(DataConfig(name="digits"))
TEST = set(DIGITS.test.tolist())
FIRST_TEST_ROWS = [2, 4, 7, 9, 13, 15]
TEST_CHECKSUM = 149306639


def split(seed: int = 0, **data: Any) -> Split:
    return make_split(DIGITS, DataConfig(**data), seed)


def rows(tensor: torch.Tensor) -> set[int]:
    values = tensor.tolist()
    assert len(values) == len(set(values)), "a row twice"
    assert tensor.dtype == torch.int64
    return set(values)


def test_digits_are_scikit_learns() -> None:
    bunch = load_digits()
    assert DIGITS.images.shape == (1797, 1, 8, 8)
    assert DIGITS.images.dtype == torch.uint8
    assert DIGITS.labels.dtype == torch.int64
    assert (DIGITS.images.squeeze(1).numpy() == bunch.images).all()
    assert (DIGITS.labels.numpy() == bunch.target).all()
    assert DIGITS.classes == tuple("0123456789")


def test_pixels_are_between_zero_and_one() -> None:
    show = Pixels(DataConfig(), DIGITS.brightest)
    pixels = show(DIGITS.images[[5, 3]])
    assert pixels.dtype == torch.float32
    assert pixels.shape == (2, 1, 8, 8)
    assert torch.equal(pixels * 16, DIGITS.images[[5, 3]].float())
    everything = show(DIGITS.images)
    assert everything.min() == 0
    assert everything.max() == 1


def test_the_test_part_is_fixed() -> None:
    repeated = sources.digits().test
    torch.manual_seed(99)
    assert torch.equal(DIGITS.test, repeated)
    assert torch.equal(DIGITS.test, sources.digits().test)
    assert len(rows(DIGITS.test)) == 500
    # These very rows: numbers quoted in the docs are about them.
    assert DIGITS.test[:6].tolist() == FIRST_TEST_ROWS
    assert int((DIGITS.test * torch.arange(1, 501)).sum()) == TEST_CHECKSUM
    assert torch.bincount(DIGITS.labels[DIGITS.test], minlength=10).min() >= 35


@given(seed=st.integers(0, 10**6), each=st.integers(1, 20), validation=st.sampled_from([0, 1, 300]))
def test_every_split(seed: int, each: int, validation: int) -> None:
    made = split(seed, labelled=10 * each, validation=validation)
    labelled, unlabelled, evaluation = rows(made.labelled), rows(made.unlabelled), rows(made.evaluation)
    assert not TEST & unlabelled
    assert labelled <= unlabelled
    assert not evaluation & unlabelled
    assert len(unlabelled) == 1297 - validation
    assert torch.bincount(DIGITS.labels[made.labelled]).tolist() == [each] * 10
    if validation:
        assert len(evaluation) == validation
        assert not evaluation & TEST
    else:
        assert evaluation == TEST


def test_all_training_rows_are_used_without_validation() -> None:
    assert rows(split().unlabelled) | TEST == set(range(1797))


def test_seeds_differ_and_repeat() -> None:
    first, second, repeated = split(0, validation=200), split(1, validation=200), split(0, validation=200)
    for name in ("labelled", "unlabelled", "evaluation"):
        assert torch.equal(getattr(first, name), getattr(repeated, name))
        assert not torch.equal(getattr(first, name), getattr(second, name))
    overlap = len(rows(first.labelled) & rows(second.labelled))
    assert overlap < 30, "two draws of 100 among 1,097 share about 9"


def test_neighbouring_seeds_are_unrelated() -> None:
    shared = [len(rows(split(seed).labelled) & rows(split(seed + 1).labelled)) for seed in range(20)]
    assert 4 < sum(shared) / 20 < 12, "two draws of 100 among 1,297 share about 7.7"


def test_a_split_uses_no_global_randomness() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = split(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first.labelled, split(4).labelled)


def test_plain_text() -> None:
    made = Split(torch.tensor([3, 17, 20, 21, 22, 25, 26]), torch.arange(300), torch.tensor([], dtype=torch.int64))
    plain = {"labelled": "3, 17, 20-22, 25-26", "unlabelled": "0-299", "evaluation": "", "choosing": ""}
    assert made.to_dict() == plain
    del plain["choosing"]  # As earlier versions wrote it.
    assert torch.equal(Split.from_dict(plain).labelled, made.labelled)
    assert not len(Split.from_dict(plain).choosing)


@given(chosen=st.lists(st.lists(st.integers(0, 40), unique=True), min_size=4, max_size=4))
def test_plain_text_loses_nothing(chosen: list[list[int]]) -> None:
    made = Split(*(torch.tensor(sorted(rows), dtype=torch.int64) for rows in chosen))
    repeated = Split.from_dict(json.loads(json.dumps(made.to_dict())))
    for name in ("labelled", "unlabelled", "evaluation", "choosing"):
        assert torch.equal(getattr(repeated, name), getattr(made, name))
        assert getattr(repeated, name).dtype == torch.int64


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("labelled", "share", "each"), [(100, 0.2, 2), (120, 0.2, 2), (300, 0.5, 15), (100, 0.01, 1)])
def test_labels_that_choose_the_epoch(labelled: int, share: float, each: int, overlap: bool) -> None:
    data = DIGITS
    split = make_split(data, DataConfig(labelled=labelled, choosing=share, overlap=overlap), 3)
    without = make_split(data, DataConfig(labelled=labelled, overlap=overlap), 3)
    assert data.labels[split.choosing].bincount().tolist() == [each] * 10
    together = torch.cat([split.labelled, split.choosing]).sort().values
    assert torch.equal(together, without.labelled), "the others are trained on as before"
    assert not torch.isin(split.choosing, split.unlabelled).any(), "their images are not seen in training"
    assert torch.equal(split.evaluation, without.evaluation)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_part_of_the_unlabelled_images(overlap: bool) -> None:
    def split(unlabelled: int | None, seed: int = 3) -> Split:
        return make_split(DIGITS, DataConfig(labelled=100, unlabelled=unlabelled, overlap=overlap), seed)

    every, some = split(None), split(200)
    assert len(some.unlabelled) == 200
    assert torch.isin(some.unlabelled, every.unlabelled).all()
    assert torch.equal(some.labelled, every.labelled)
    assert torch.equal(some.unlabelled, torch.unique(some.unlabelled))
    assert not torch.equal(some.unlabelled, split(200, seed=4).unlabelled)
    assert torch.equal(split(5000).unlabelled, every.unlabelled)


def test_too_few_labels_to_choose_the_epoch() -> None:
    split = make_split(DIGITS, DataConfig(labelled=90, choosing=0.2), 3)
    assert not len(split.choosing)
    assert torch.equal(split.labelled, make_split(DIGITS, DataConfig(labelled=90), 3).labelled)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"labelled": 105}, "expected data.labelled to be a multiple of the 10 classes of digits, got 105"),
        ({"labelled": 5}, "multiple of the 10 classes of digits, got 5"),
        (
            {"labelled": 1290},
            r"expected 129 labelled examples of each class, but class '\d' of digits has 12\d training",
        ),
        (
            {"labelled": 100, "validation": 1290},
            r"class '\d' of digits has \d training examples with a label; lower data.labelled, or add labels",
        ),
        ({"validation": 1297}, "data.validation below the 1297 labelled training examples of digits, got 1297"),
        ({"validation": 5000}, "data.validation below the 1297 labelled training examples of digits, got 5000"),
    ],
)
def test_requests_that_cannot_be_met(data: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        split(**data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "from one of digits, mnist, svhn, cifar10, a folder .*, got 'digit'; did you mean \"digits\""),
        ("", "got ''"),
    ],
)
def test_unknown_sources_offer_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        sources.load(DataConfig(name=name))


def test_moving_keeps_everything() -> None:
    moved = DIGITS.to(torch.device("cpu"))
    assert torch.equal(moved.images, DIGITS.images)
    assert torch.equal(moved.labels, DIGITS.labels)
    assert torch.equal(moved.test, DIGITS.test)
    assert (moved.brightest, moved.classes) == (16, DIGITS.classes)


def data_with(*labels: int, test: tuple[int, ...] = (), classes: str = "ab") -> ImageData:
    """Data with these labels, row by row; -1 = none."""
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageData(images, torch.tensor(labels), torch.tensor(test, dtype=torch.int64), 255, tuple(classes))


def test_all_labels() -> None:
    data = data_with(0, -1, 1, 0, -1, 1, 1, test=(5,))
    made = make_split(data, DataConfig(labelled=None), 0)
    assert made.labelled.tolist() == [0, 2, 3, 6]
    assert made.unlabelled.tolist() == [0, 1, 2, 3, 4, 6]
    assert made.evaluation.tolist() == [5]
    apart = make_split(data, DataConfig(labelled=None, overlap=False), 0)
    assert apart.labelled.tolist() == [0, 2, 3, 6]
    assert apart.unlabelled.tolist() == [1, 4]


def test_all_labels_of_all_images_leave_none_without() -> None:
    made = make_split(data_with(0, 1, 0, 1, test=(3,)), DataConfig(labelled=None, overlap=False), 0)
    assert made.unlabelled.tolist() == []
    assert made.unlabelled.dtype == torch.int64


@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(12, 20), min_size=2, max_size=4),
    without=st.integers(0, 10),
    each=st.sampled_from([None, 1, 4]),
    validation=st.integers(0, 5),
    overlap=st.booleans(),
)
def test_every_split_of_uneven_classes(
    seed: int, counts: list[int], without: int, each: int | None, validation: int, overlap: bool
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)] + [-1] * without
    shuffled = torch.tensor(labels)[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    firsts = (next(row for row in range(len(labels)) if shuffled[row] == label) for label in range(len(counts)))
    test = tuple(sorted(firsts))
    data = data_with(*shuffled.tolist(), test=test, classes="abcd"[: len(counts)])
    labelled = None if each is None else each * len(counts)
    made = make_split(data, DataConfig(labelled=labelled, validation=validation, overlap=overlap), seed)
    seen, unseen, judged = rows(made.labelled), rows(made.unlabelled), rows(made.evaluation)
    for drawn in (made.labelled, made.unlabelled, made.evaluation):
        assert drawn.tolist() == sorted(drawn.tolist())
    training = set(range(len(labels))) - set(test)
    held_out = judged if validation else set()
    assert judged == set(test) if not validation else len(judged) == validation
    assert held_out <= training
    assert not held_out & (seen | unseen)
    assert seen | unseen == training - held_out
    assert seen <= unseen if overlap else not seen & unseen
    assert all(data.labels[row] >= 0 for row in seen | judged)
    drawn_counts = torch.bincount(data.labels[made.labelled], minlength=len(counts)).tolist()
    if each is not None:
        assert drawn_counts == [each] * len(counts)
    else:
        assert seen == {row for row in training - held_out if data.labels[row] >= 0}


def test_each_example_of_a_class_is_as_likely_to_be_labelled() -> None:
    data = data_with(*([0] * 10 + [1] * 4 + [-1] * 6))
    draws = 2000
    counts = torch.zeros(20)
    for seed in range(draws):
        counts[make_split(data, DataConfig(labelled=4), seed).labelled] += 1
    share = counts / draws
    deviation = 5 * (0.25 / draws) ** 0.5
    assert (share[:10] - 2 / 10).abs().max() < deviation
    assert (share[10:14] - 2 / 4).abs().max() < deviation
    assert share[14:].max() == 0


@pytest.mark.parametrize("evaluated", [1, 2, 3, 7, 499, 500, 501, 10000])
@pytest.mark.parametrize("validation", [0, 500])
def test_part_of_the_evaluation(evaluated: int, validation: int) -> None:
    whole = split(4, validation=validation)
    part = split(4, validation=validation, evaluated=evaluated)
    assert torch.equal(part.labelled, whole.labelled)
    assert torch.equal(part.unlabelled, whole.unlabelled)
    number = min(evaluated, 500)
    expected = [whole.evaluation.tolist()[int(index * 500 / number)] for index in range(number)]
    assert part.evaluation.tolist() == expected


@pytest.mark.parametrize(
    ("data", "config", "message"),
    [
        (
            data_with(0, 0, 0, 1, 1, 2, 2, 2, classes="abc"),
            {"labelled": 9},
            "expected 3 labelled examples of each class, but class 'b' of mine has 2 training examples with a label; ",
        ),
        (
            data_with(0, 0, 1, 1, -1, test=(3,)),
            {"labelled": 4},
            "expected 2 labelled .* class 'b' of mine has 1 training",
        ),
        (
            data_with(0, 0, -1, -1),
            {"labelled": None},
            "expected 1 labelled .* class 'b' of mine has 0 training examples with a label; add labels",
        ),
        (
            data_with(0, 1, 0, 1, test=(1, 3)),
            {"labelled": None},
            "but class 'b' of mine has 0 training examples with a label",
        ),
        (
            data_with(0, 1, 0, classes="abc"),
            {"labelled": None},
            "but class 'c' of mine has 0 training examples with a label",
        ),
        (
            data_with(0, 1, 0, classes="abc"),
            {"labelled": 4},
            "expected data.labelled to be a multiple of the 3 classes of mine",
        ),
        (
            data_with(0, 1, -1, -1),
            {"labelled": 2, "validation": 2},
            "data.validation below the 2 labelled training examples",
        ),
        (
            data_with(0, 1, test=(0, 1)),
            {"labelled": None},
            "expected images for training in mine, got 2 test images only",
        ),
    ],
)
def test_data_that_do_not_suffice(data: ImageData, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make_split(data, DataConfig(name="mine", **config), 0)

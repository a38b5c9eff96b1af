"""Digits and their splits: what is seen in training, and what never is."""

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
    again = sources.digits().test
    torch.manual_seed(99)
    assert torch.equal(DIGITS.test, again)
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
    first, second, again = split(0, validation=200), split(1, validation=200), split(0, validation=200)
    for name in ("labelled", "unlabelled", "evaluation"):
        assert torch.equal(getattr(first, name), getattr(again, name))
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


def test_plain_lists() -> None:
    made = split(validation=3)
    plain = made.to_dict()
    assert list(plain) == ["labelled", "unlabelled", "evaluation"]
    assert plain["evaluation"] == made.evaluation.tolist()


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

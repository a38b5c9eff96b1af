"""Comparisons made by hand: paired differences, outcomes, verdicts in words, the page."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.results.comparison.comparison import (
    Comparison,
    Difference,
    Images,
    Row,
    by_chance,
    interval,
)
from adversarial_dropout.experiments.results.comparison.page import write_comparison
from adversarial_dropout.experiments.results.comparison.verdict import advice, certainty, explained, verdict

from ..runs import record
from .test_report import Page

IMAGES = Images(
    name="photos",
    classes=("cat", "dog"),
    labels=(30, 12),
    unlabelled=500,
    tested=1000,
    evaluated_on="test",
    size=(32, 48),
)


def row(method: str, *errors: float, seconds: float | None = 10.0) -> Row:
    return Row(method, dict(enumerate(errors)), seconds)


def comparison(*trained: Row, beside: Sequence[Row] = (), tested: int = 1000, scale: str = "quick") -> Comparison:
    majority = row("most frequent class", 50.0, 50.0, 50.0, seconds=None)
    return Comparison(dataclasses.replace(IMAGES, tested=tested), trained, (*beside, majority), scale)


PLAIN = row("plain", 20.0, 22.0, 21.0)
BETTER = row("vadd-kl", 15.0, 16.5, 16.5, seconds=50.0)  # By 5, 5.5 and 4.5.


def test_a_paired_difference() -> None:
    found = Difference.of(BETTER, PLAIN, 1000)
    assert found is not None
    assert found.points == (-5.0, -5.5, -4.5)
    assert found.mean == -5.0
    assert found.std == pytest.approx(0.5)
    assert found.wins == 3
    assert str(found) == "-5.00 ± 0.50"
    # At most 16 + 21 % of 1,000 images can be wrong for one method alone: each counts ±1.
    e, f = 0.16, 0.21
    signs = [1.0] * 160 + [-1.0] * 210 + [0.0] * 630
    assert statistics.fmean(signs) == pytest.approx(e - f)
    assert found.chance == pytest.approx(100 * statistics.pstdev(signs) / math.sqrt(1000))


def test_only_common_seeds_are_compared() -> None:
    first, second = Row("vat", {1: 10.0, 3: 30.0, 4: 50.0}), Row("plain", {3: 25.0, 1: 20.0, 0: 99.0})
    found = Difference.of(first, second, 100)
    assert found is not None
    assert found.points == (-10.0, 5.0)
    assert found.wins == 1
    assert Difference.of(first, Row("plain", {0: 1.0}), 100) is None


@pytest.mark.parametrize(
    ("errors", "tested", "outcome"),
    [
        ((15.0, 16.5, 16.5), 1000, "better"),
        ((25.0, 27.0, 27.0), 1000, "worse"),
        ((15.0, 16.5, 16.5), 40, "too few test images"),  # 5 points of 40 images are two images.
        ((15.0, 16.5, 21.5), 1000, "within the spread"),  # Not with the last seed.
        ((19.9, 21.9, 11.0), 1000, "within the spread"),  # With all, but one of them makes all the difference.
        ((20.0, 22.0, 21.0), 1000, "within the spread"),
        ((10.0, 11.0), 1000, "too few repetitions"),
        ((1.0,), 1000, "too few repetitions"),
    ],
)
def test_outcomes(errors: tuple[float, ...], tested: int, outcome: str) -> None:
    found = Difference.of(row("vat", *errors), PLAIN, tested)
    assert found is not None
    assert found.outcome == outcome
    assert found.result == (outcome if outcome in ("better", "worse") else "unclear")


def test_equal_differences_are_clear() -> None:
    found = Difference.of(row("vat", 10.0, 12.0, 11.0), PLAIN, 1000)
    assert found is not None
    assert found.std == 0
    assert found.outcome == "better"


def test_the_interval_of_an_error() -> None:
    # Newcombe, Statistics in Medicine 1998, table I: 81 of 263, and 0 of 20.
    assert interval(100 * 81 / 263, 263) == pytest.approx((25.53, 36.62), abs=0.005)
    assert interval(0.0, 20) == pytest.approx((0.0, 16.11), abs=0.005)
    assert interval(100.0, 20) == pytest.approx((83.89, 100.0), abs=0.005)


def test_what_chance_does() -> None:
    # t with 2 degrees of freedom has the distribution function 1/2 + t / (2 √(2 + t²)).
    assert by_chance(3) == pytest.approx(0.5 - math.sqrt(3) / (2 * math.sqrt(5)))


def test_worth_it() -> None:
    quick = row("pi", 16.0, 18.0, 16.0, seconds=20.0)
    found = verdict(comparison(PLAIN, quick, BETTER))
    assert found.title == "Yes: vadd-kl is worth it on these images"
    first, second = found.sentences
    assert "vadd-kl is wrong on 16.0 % of the images, plain training on 21.0 %" in first
    assert "with 3 of 3 repetitions. Its training takes 5.0 times as long." in first
    assert second == "pi (16.7 %) is not clearly behind, and takes 2.0 times as long as plain training."
    behind = row("pi", 18.0, 19.5, 19.5, seconds=20.0)
    assert len(verdict(comparison(PLAIN, behind, BETTER, tested=10_000)).sentences) == 1


def test_no_gain() -> None:
    found = verdict(comparison(PLAIN, row("vat", 19.0, 23.0, 18.0)))
    assert found.title == "No method is clearly better than plain training on these images"
    assert "The lowest error is that of vat, 20.0 %, but not with every repetition" in found.sentences[1]
    found = verdict(comparison(PLAIN, row("vat", 21.0, 22.0, 23.0)))
    assert found.sentences[1] == "No other method makes fewer mistakes on average."
    found = verdict(comparison(PLAIN, BETTER, tested=40))
    assert "but 40 test images are too few to trust such a difference" in found.sentences[1]


def test_all_are_worse() -> None:
    found = verdict(comparison(PLAIN, row("vat", 25.0, 27.0, 27.0), row("pi", 30.0, 32.0, 31.0)))
    assert found.title == "No: plain training is the best network on these images"


def test_too_few_repetitions() -> None:
    found = verdict(comparison(row("plain", 20.0), row("vat", 10.0)))
    assert found.title == "Too few repetitions to tell"
    assert "that of vat, 10.0 %; plain training has 20.0 %. Each method was trained once" in found.sentences[0]
    assert "repeat this with --seeds 3 or more" in found.sentences[0]


@pytest.mark.parametrize(
    ("errors", "title", "words"),
    [
        ((9.0, 10.0, 10.0), "A simpler method is better on these images: logistic regression", "is ahead of vadd-kl"),
        ((15.0, 16.0, 17.0), "Yes: vadd-kl is worth it on these images", "cannot be told apart from vadd-kl"),
        ((24.0, 25.0, 26.0), "Yes: vadd-kl is worth it on these images", "is behind vadd-kl"),
    ],
)
def test_classifiers_beside(errors: tuple[float, ...], title: str, words: str) -> None:
    beside = [row("logistic regression", *errors, seconds=None)]
    found = verdict(comparison(PLAIN, BETTER, beside=beside))
    assert found.title == title
    assert words in found.sentences[-1]


def test_beside_plain_training_if_no_network_is_better() -> None:
    beside = [row("support vector machine", 12.0, 13.0, 12.0, seconds=None)]
    found = verdict(comparison(PLAIN, row("vat", 19.0, 23.0, 18.0), beside=beside))
    assert found.title == "A simpler method is better on these images: support vector machine"
    assert found.sentences[-1] == "Support vector machine (12.3 %) is ahead of plain."


def test_nothing_is_learnt() -> None:
    found = verdict(comparison(row("plain", 50.0, 51.0, 52.0), row("vat", 55.0, 50.0, 51.0)))
    assert found.title == "Nothing is learnt yet"
    assert "(50.0 %)" in found.sentences[0]


def test_scale_tiny_says_nothing() -> None:
    assert "mean nothing" in verdict(comparison(PLAIN, BETTER, scale="tiny")).title


def test_plain_training_has_failed() -> None:
    assert verdict(comparison(BETTER)).title == "There is nothing to compare with"


def test_the_tables() -> None:
    made = comparison(PLAIN, BETTER)
    assert made.table.texts == [
        ("plain", "21.00 ± 1.00", "3", "", "", "1.0 ×", ""),
        ("vadd-kl", "16.00 ± 0.87", "3", "-5.00 ± 0.50", "3 of 3", "5.0 ×", "better"),
        ("most frequent class", "50.00 ± 0.00", "3", "+29.00 ± 1.00", "0 of 3", "", ""),
    ]
    assert made.figures.csv().splitlines()[2] == f"vadd-kl,3,16.0,{math.sqrt(0.75)},-5.0,0.5,3,5.0,50.0,better"


def test_how_sure_it_is() -> None:
    first, second = certainty(comparison(PLAIN, BETTER))
    low, high = interval(16.0, 1000)
    assert "on 1000 test images, which no method has learned from" in first
    assert f"probably between {low:.1f} % and {high:.1f} %" in first
    assert "about 11 of 100 comparisons" in second
    assert "too few to rank" in certainty(comparison(row("plain", 20.0)))[1]


def test_advice() -> None:
    config = presets.get("images", "vadd-kl")
    given = " ".join(advice(comparison(PLAIN, BETTER), config))
    assert "--model.name pretrained" in given
    assert "--data.flip" in given
    assert "class dog has 12 labelled images" in given
    assert "unlabeled" not in given
    assert "--test" not in given
    assert "--seeds" not in given
    few = dataclasses.replace(IMAGES, labels=(90, 80), unlabelled=0, tested=40)
    pretrained = presets.settings("images", "vadd-kl", network="pretrained").used()
    given = " ".join(advice(Comparison(few, (row("plain", 1.0),), (), "quick"), pretrained))
    assert "--model.name" not in given
    assert "--data.flip" not in given
    assert "Label more" not in given
    assert "unlabeled" in given
    assert "40 are few. --test FOLDER" in given
    assert "--seeds 3" in given


def test_every_method_is_explained() -> None:
    for method in presets.find("images").methods:
        assert explained(method).endswith(".")
        assert "asked for." not in explained(method)
    assert " and the same answer" in explained("vadd-kl+vat")


def test_the_page(tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(made, folder=tmp_path / f"{made.config.method}-{made.config.seed}")
        for seed in range(3)
        for made in (record("plain", 20.0 + seed, seed=seed), record("vadd-kl", 15.0 + seed, seed=seed, seconds=50.0))
    ]
    made = Comparison.of(IMAGES, runs, {seed: {"support vector machine": 30.0} for seed in range(3)})
    assert [(one.method, tuple(one.errors), one.error.mean) for one in made.rows] == [
        ("plain", (0, 1, 2), 21.0),
        ("vadd-kl", (0, 1, 2), 16.0),
        ("support vector machine", (0, 1, 2), 30.0),
    ]
    assert made.cost(made.trained[1]) == 5.0
    write_comparison(made, verdict(made), tmp_path / "page.html", "Left out: vat.")
    page = Page((tmp_path / "page.html").read_text())
    assert page.open == ["html"] or not page.open
    assert "Yes: vadd-kl is worth it on these images" in page.text
    assert "2 classes, 42 labelled and 500 unlabelled images to learn from, 1,000 labelled images" in page.text
    assert "48 × 32 pixels" in page.text
    assert "Left out: vat." in page.text
    assert "-5.00 ± 0.00" in page.cells
    assert all(image["alt"] for image in page.images)
    assert "What to do next" in page.text
    single = dataclasses.replace(made, images=dataclasses.replace(IMAGES, labels=(3, 1)))
    write_comparison(single, verdict(single), tmp_path / "page.html")
    assert "a single label to learn from" in (tmp_path / "page.html").read_text()

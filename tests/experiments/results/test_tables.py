"""Tables, from records made by hand whose numbers are computed by hand."""

import dataclasses
import math
from pathlib import Path

import pytest

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.results.summary import Group, summarise

from ..runs import record

PLAIN = [record("plain", error, seed=seed, seconds=10 + seed) for seed, error in enumerate((7.0, 8.0, 9.0))]
VADD = [record("vadd-qe", error, seed=seed, seconds=30.0) for seed, error in enumerate((4.0, 5.0, 7.5))]
VAT = [record("vat", error, seed=seed, seconds=20.25) for seed, error in enumerate((4.0, 5.0))]
PI = [record("pi", error, seed=seed, seconds=20.0) for seed, error in enumerate((5.2, 5.2))]


def only(groups: list[Group]) -> Group:
    (group,) = groups
    return group


def cells(group: Group) -> dict[str, tuple[str, ...]]:
    return {row[0]: row for row in group.table.texts}


def test_mean_deviation_number_change_seconds_and_remark() -> None:
    group = only(summarise([*PLAIN, *VADD, *VAT, *PI]))
    assert cells(group) == {
        # Sample deviations (n - 1): 1; √3.25 = 1.803; √0.5 = 0.707; 0.
        "plain": ("plain", "8.00 ± 1.00", "3", "", "11.0", ""),
        "vadd-qe": ("vadd-qe", "5.50 ± 1.80", "3", "-31 %", "30.0", "pi and vat ahead"),
        "vat": ("vat", "4.50 ± 0.71", "2", "-44 %", "20.2", ""),
        "pi": ("pi", "5.20 ± 0.00", "2", "-35 %", "20.0", ""),
    }
    row = {row.method: row for row in group.rows}["vadd-qe"]
    assert row.error == pytest.approx((5.5, math.sqrt(3.25)))
    assert row.errors == (4.0, 5.0, 7.5)


@pytest.mark.parametrize(
    ("method", "pi", "vat", "remark"),
    [
        ("vadd-qe", 5.0, 5.0, "pi and vat ahead"),
        ("vadd-qe", 5.0, 7.0, "pi ahead"),
        ("vadd-kl", 7.0, 5.9, "vat ahead"),
        ("vadd-qe+vat", 7.0, 5.0, "vat ahead"),
        ("sadd", 5.9999, 6.0, "pi ahead"),
        ("sadd", 6.0, 6.0, ""),
        ("vadd-qe", 7.0, 7.0, ""),
        ("at", 5.0, 5.0, ""),
    ],
)
def test_nothing_is_hidden(method: str, pi: float, vat: float, remark: str) -> None:
    group = only(summarise([record("plain", 8.0), record(method, 6.0), record("pi", pi), record("vat", vat)]))
    table = cells(group)
    assert table[method][-1] == remark
    assert [table[name][-1] for name in ("plain", "pi", "vat")] == ["", "", ""]


def test_a_single_seed_has_no_spread() -> None:
    group = only(summarise([record("plain", 8.0), record("vadd-qe", 8.6)]))
    assert cells(group)["plain"][1:3] == ("8.00", "1")
    assert cells(group)["vadd-qe"][1:4] == ("8.60", "1", "+7 %")
    assert group.rows[0].error.std is None


@pytest.mark.parametrize("others", [[], [record("plain", 0.0)]])
def test_nothing_to_compare_with(others: list[Record]) -> None:
    group = only(summarise([*others, record("vadd-qe", 5.0)]))
    assert cells(group)["vadd-qe"][3] == ""


def test_what_cannot_be_compared_is_never_mixed() -> None:
    records = [
        record("plain", 8.0),
        record("plain", 50.0, scale="tiny"),
        record("plain", 10.0, evaluated_on="validation"),
        record("plain", 20.0, preset="other"),
        record("plain", 9.0, seed=1),
    ]
    groups = summarise(records)
    assert [(group.preset, group.scale, group.evaluated_on) for group in groups] == [
        ("digits-100", "quick", "test"),
        ("digits-100", "quick", "validation"),
        ("digits-100", "tiny", "test"),
        ("other", "quick", "test"),
    ]
    assert [group.rows[0].errors for group in groups] == [(8.0, 9.0), (10.0,), (50.0,), (20.0,)]
    assert [record for row in groups[0].rows for record in row.records] == [records[0], records[4]]
    for group in groups:
        assert f"{group.preset}, scale {group.scale}: {group.evaluated_on} error" in group.table.title


def test_runs_of_other_settings_are_never_mixed() -> None:
    """The preset's own settings keep its name, also where they are the rarer ones."""

    def changed(seed: int, error: float) -> Record:
        one = record("vadd-qe", error, seed=seed)
        training = dataclasses.replace(one.config.training, epochs=3)
        return dataclasses.replace(one, config=dataclasses.replace(one.config, training=training))

    group = only(summarise([record("vadd-qe", 5.0), changed(1, 9.0), changed(2, 11.0)]))
    rows = {row.method: row.errors for row in group.rows}
    assert rows == {"vadd-qe": (5.0,), "vadd-qe (training.epochs: 50 → 3)": (9.0, 11.0)}


def test_a_copied_record_counts_once() -> None:
    one = record("plain", 5.0)
    (row,) = only(summarise([one, dataclasses.replace(one, folder=Path("/copy")), record("plain", 7.0, seed=1)])).rows
    assert row.errors == (5.0, 7.0)
    with pytest.raises(
        AdversarialDropoutError, match=r"records of one run disagree: /nowhere.*5.00 %.*6.00 %; take one"
    ):
        summarise([one, record("plain", 6.0)])


def test_order_of_the_methods() -> None:
    records = [record(method, 5.0) for method in ("zeta", "vat", "alpha", "plain", "pi")]
    asked = only(summarise(records, ["plain", "pi", "vadd-qe", "vat"]))
    assert [row.method for row in asked.rows] == ["plain", "pi", "vat", "alpha", "zeta"]
    assert [row.method for row in only(summarise(records)).rows] == ["alpha", "pi", "plain", "vat", "zeta"]


def test_nothing_at_all() -> None:
    assert summarise([]) == []


def test_markdown() -> None:
    group = only(summarise([*PLAIN, *VADD, *PI], ["plain", "pi", "vadd-qe"]))
    assert group.table.markdown() == (
        "| method | error in % | n | against plain | seconds per run | remark |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| plain | 8.00 ± 1.00 | 3 |  | 11.0 |  |\n"
        "| pi | 5.20 ± 0.00 | 2 | -35 % | 20.0 |  |\n"
        "| vadd-qe | 5.50 ± 1.80 | 3 | -31 % | 30.0 | pi ahead |"
    )

"""The paper's tables, from records made by hand whose numbers are computed by hand."""

import csv
import dataclasses
import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import ExperimentConfig, Scale
from adversarial_dropout.experiments.records import Record, RecordError
from adversarial_dropout.experiments.results import paper_tables
from adversarial_dropout.experiments.results.page import write_paper_table
from adversarial_dropout.experiments.results.paper_tables import PaperTable, paper_table
from adversarial_dropout.experiments.results.published import PRINTED

from ..calling import rows

METHODS = ("plain", "at", "vat", "pi", "sadd", "vadd-kl", "vadd-qe", "vadd-kl+vat", "vadd-qe+vat")


def ran(preset: str, method: str, *errors: float, scale: Scale = "paper", first: int = 0) -> list[Record]:
    """Runs of a cell with these errors, one per seed from ``first`` on; nothing of them is on disk."""
    return [
        Record(
            folder=Path("/nowhere", preset, scale, method, f"seed-{seed}"),
            config=presets.get(preset, method, scale, seed),
            metrics=[],
            final={"metrics": {"error": error}, "evaluated_on": "test", "seconds": 1.0},
        )
        for seed, error in enumerate(errors, first)
    ]


RUNS = [
    *ran("paper/mnist-1000", "plain", 3.0, 4.0, 2.75),
    *ran("paper/mnist-1000", "vadd-kl", 0.95, 0.97),
    *ran("paper/mnist-1000", "at", 2.5, 2.5),
    *ran("paper/mnist-all", "plain", 0.53),
    *ran("paper/mnist-all", "sadd", 0.5, 0.4, 0.45),
]


def texts(table: PaperTable, method: str) -> tuple[str, ...]:
    (line,) = [line for line in table.table.texts if line[1] == method]
    return line[2:]


def as_dicts(table: PaperTable) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.figures.csv())))


def test_mean_deviation_number_and_difference() -> None:
    table = paper_table("table1", RUNS, "paper")
    assert [line[1] for line in table.table.texts] == list(METHODS[:7]), "the paper's rows"
    # Sample deviations (n - 1): √(0.875 / 2) = 0.661; 0.0141; 0; 0.05.
    assert texts(table, "plain") == ("3.25 ± 0.66", "3", "2.99 ± 0.23", "+0.26", "0.53", "1", "0.53 ± 0.03", "+0.00")
    assert texts(table, "vadd-kl") == ("0.96 ± 0.01", "2", "0.99 ± 0.07", "-0.03", "", "", "0.47 ± 0.01", "")
    assert texts(table, "at") == ("2.50 ± 0.00", "2", "-", "", "", "", "0.51 ± 0.03", ""), "the paper has a dash"
    assert texts(table, "sadd") == ("", "", "-", "", "0.45 ± 0.05", "3", "0.46 ± 0.01", "-0.01")
    assert texts(table, "vat") == ("", "", "1.35 ± 0.14", "", "", "", "0.50 ± 0.01", "")


def test_rows_that_the_paper_does_not_have() -> None:
    """They follow its own where they were run or asked for, with nothing in the paper's columns."""
    runs = [*RUNS, *ran("paper/mnist-all", "vadd-qe+vat", 0.4, 0.6)]
    table = paper_table("table1", runs, "paper", methods=["vadd-kl+vat", "plain"])
    assert table.table.texts[:7] == paper_table("table1", RUNS, "paper").table.texts
    assert table.table.texts[7:] == [
        ("VAdD (KL) + VAT, not in Table 1", "vadd-kl+vat", *("",) * 8),
        ("VAdD (QE) + VAT, not in Table 1", "vadd-qe+vat", *("",) * 4, "0.50 ± 0.14", "2", "", ""),
    ]
    assert {row.method for row in table.body} == set(METHODS)
    (line,) = [line for line in as_dicts(table) if line["method"] == "vadd-qe+vat" and line["labels"] == "60000"]
    assert (line["printed"], line["paper_mean"], line["paper_std"], line["n"]) == ("", "", "", "2")
    (plain,) = [
        line for line in paper_table("table7", [], "paper", methods=["plain"]).table.texts if line[1] == "plain"
    ]
    assert plain == ("Plain (only dropout), not in Table 7", "plain", "", "", "", "")


def test_nothing_at_all() -> None:
    table = paper_table("table7", [], "paper")
    assert texts(table, "vadd-qe+vat") == ("", "", "9.22 ± 0.10", "")
    assert {line["n"] for line in as_dicts(table) if line["method"]} == {"0"}
    assert {line["n"] for line in as_dicts(table) if not line["method"]} == {""}, (
        "nothing is trained for what is quoted"
    )
    assert all(line["mean"] == "" for line in as_dicts(table))


def test_the_order_of_records_does_not_matter() -> None:
    table = paper_table("table1", RUNS, "paper")
    assert paper_table("table1", RUNS[::-1], "paper") == table
    assert paper_table("table1", [*RUNS, *RUNS], "paper") == table, "a copied record counts once"


def test_other_scales_are_never_mixed() -> None:
    runs = [
        *ran("paper/svhn-1000", "vadd-kl", 4.0, 5.0),
        *ran("paper/svhn-1000", "vadd-kl", 60.0, 70.0, 80.0, scale="quick"),
        *ran("paper/svhn-1000", "vadd-kl", 90.0, scale="tiny", first=7),
    ]
    expected: dict[Scale, tuple[str, ...]] = {
        "paper": ("4.50 ± 0.71", "2", "4.16 ± 0.08", "+0.34"),
        "quick": ("70.00 ± 10.00", "3", "4.16 ± 0.08", "+65.84"),
        "tiny": ("90.00", "1", "4.16 ± 0.08", "+85.84"),
    }
    for scale, cells in expected.items():
        table = paper_table("table2", runs, scale)
        assert texts(table, "vadd-kl")[:4] == cells
        assert {line["scale"] for line in as_dicts(table)} == {scale}


def test_families_are_never_mixed() -> None:
    runs = [*ran("paper/svhn-all", "pi", 5.0), *ran("authors/svhn-all", "pi", 3.0, 3.5, 4.0)]
    ours, theirs = (paper_table("table2", runs, "paper", family=family) for family in ("paper", "authors"))
    assert texts(ours, "pi")[4:6] == ("5.00", "1")
    assert texts(theirs, "pi")[4:6] == ("3.50 ± 0.50", "3")
    assert all("authors' code" in name for name in theirs.table.header if "ours" in name)
    assert not any("authors' code" in name for name in ours.table.header)


def test_columns_of_each_table() -> None:
    columns = {
        name: [(cell.source, cell.labels) for cell in paper_tables.columns(name)]
        for name in ("table1", "table2", "table6", "table7")
    }
    cifar = [("cifar10", 4_000), ("cifar10", 50_000)]
    assert columns == {
        "table1": [("mnist", 1_000), ("mnist", 60_000)],
        "table2": [("svhn", 1_000), ("svhn", 73_257), *cifar],
        "table6": cifar[1:],
        "table7": cifar[:1],
    }
    assert [cell.preset for cell in paper_tables.columns("table2", "authors")] == [
        "authors/svhn-1000",
        "authors/svhn-all",
        "authors/cifar10-4000",
        "authors/cifar10-all",
    ]


def test_runs_on_validation_images_are_left_out() -> None:
    (record,) = ran("paper/mnist-all", "plain", 0.1, first=1)
    config = dataclasses.replace(record.config, data=dataclasses.replace(record.config.data, validation=5_000))
    on_validation = dataclasses.replace(record, config=config, final={**record.final, "evaluated_on": "validation"})
    table = paper_table("table1", [*RUNS, on_validation], "paper")
    assert table == paper_table("table1", RUNS, "paper")


def changed(record: Record, **training: object) -> Record:
    """The same with another weight of its terms and other settings of the schedule."""
    config = dataclasses.replace(
        record.config,
        terms={kind: dataclasses.replace(term, weight=7.0) for kind, term in record.config.terms.items()},
        training=dataclasses.replace(record.config.training, **training),  # type: ignore[arg-type]
    )
    return dataclasses.replace(record, config=config)


def test_records_with_other_settings_are_refused_and_told_from_the_others() -> None:
    qe = ran("paper/mnist-all", "vadd-qe", 0.4, 0.5)
    kl = ran("paper/mnist-all", "vadd-kl", 0.4, 0.5)
    plain = ran("paper/mnist-1000", "plain", 3.0, first=7)
    outdated = [changed(record, epochs=3) for record in (*qe, *kl, *plain)]
    with pytest.raises(InvalidValueError) as refused:
        paper_table("table1", [*RUNS, *outdated], "paper")
    assert str(refused.value).splitlines() == [
        "expected runs with the settings of their presets, got others in 5 of 16 folders (preset → run)",
        "In all 5: training.epochs: 100 → 3",
        "and terms.vadd.weight: 30.0 → 7.0:",
        "  /nowhere/paper/mnist-all/paper/vadd-qe/{seed-0,seed-1}",
        "and terms.vadd.weight: 1.0 → 7.0:",
        "  /nowhere/paper/mnist-all/paper/vadd-kl/{seed-0,seed-1}",
        "and nothing else:",
        "  /nowhere/paper/mnist-1000/paper/plain/seed-7",
        "As their presets say, and left as they are:",
        "  /nowhere/paper/mnist-1000/paper/{at,vadd-kl}/{seed-0,seed-1}",
        "  /nowhere/paper/mnist-1000/paper/plain/{seed-0,seed-1,seed-2}",
        "  /nowhere/paper/mnist-all/paper/plain/seed-0",
        "  /nowhere/paper/mnist-all/paper/sadd/{seed-0,seed-1,seed-2}",
        "Take the 5 away, or choose another folder (--out): runs of different settings share no table",
    ]
    # Where they have no place, they do no harm.
    assert paper_table("table1", outdated, "quick") == paper_table("table1", [], "quick")
    assert paper_table("table6", outdated, "paper") == paper_table("table6", [], "paper")
    only = paper_table("table1", [*RUNS, *outdated[:4]], "paper", shown=["paper/mnist-1000"])
    assert only == paper_table("table1", RUNS, "paper", shown=["paper/mnist-1000"])


def test_runs_with_nothing_in_common_are_told_apart() -> None:
    (pi,) = ran("paper/mnist-all", "pi", 0.5)
    (plain,) = ran("paper/mnist-all", "plain", 0.5)
    with pytest.raises(InvalidValueError) as refused:
        paper_table("table1", [changed(pi), changed(plain, epochs=3)], "paper")
    assert str(refused.value).splitlines()[1:5] == [
        "terms.pi.weight: 30.0 → 7.0:",
        "  /nowhere/paper/mnist-all/paper/pi/seed-0",
        "training.epochs: 100 → 3:",
        "  /nowhere/paper/mnist-all/paper/plain/seed-0",
    ]


def test_one_line_for_methods_that_differ_in_the_same_way() -> None:
    qe, pi = (ran("paper/mnist-1000", method, *range(11))[1:] for method in ("vadd-qe", "pi"))
    runs = [dataclasses.replace(record, config=dataclasses.replace(record.config, threads=2)) for record in (*qe, *pi)]
    with pytest.raises(InvalidValueError) as refused:
        paper_table("table1", runs, "paper")
    seeds = ",".join(f"seed-{seed}" for seed in range(1, 11))
    assert str(refused.value).splitlines()[1:3] == [
        "threads: 1 → 2:",
        f"  /nowhere/paper/mnist-1000/paper/{{pi,vadd-qe}}/{{{seeds}}}",
    ]


def test_a_record_of_the_presets_before_drop1_and_drop2_is_refused() -> None:
    """As it lies on the disk: in the earlier layout, and without the fields that were added since."""
    (record,) = ran("paper/mnist-all", "vadd-kl", 0.4)
    plain = record.config.to_dict()
    del plain["model"]["dropout1"], plain["model"]["dropout2"]
    plain["training"] |= {"learning_rate": 0.003, "ramp_up_learning_rate": True, "ramp_down": 50, "beta1_end": 0.5}
    plain["model"] |= {"width": 128, "norm": "batch", "norm_momentum": 0.1, "granularity": "element"}
    shared = {"kind": "vadd", "weight": 1.0, "divergence": "kl", "eps": 1.0, "xi": None, "noise": "shared"}
    plain["terms"] = [{**shared, "ramp": True, "linearize_at": "ones"}]
    old = dataclasses.replace(record, config=ExperimentConfig.from_dict(plain))
    expected = (
        "model.dropout1: 0.5 → 0.0; model.dropout2: 0.5 → 0.0; terms.vadd.noise: independent → shared; "
        "training.beta1_end: None → 0.5; training.learning_rate: 0.001 → 0.003; training.ramp_down: 0 → 50; "
        "training.ramp_up_learning_rate: False → True:"
    )
    with pytest.raises(InvalidValueError) as refused:
        paper_table("table1", [old], "paper")
    assert str(refused.value).splitlines()[1] == expected
    assert "left as they are" not in str(refused.value), "there are none"


def test_two_records_of_one_run_that_disagree_are_refused() -> None:
    (record,) = ran("paper/mnist-1000", "plain", 3.5)
    twin = dataclasses.replace(record, folder=Path("/nowhere/twin"))
    with pytest.raises(
        RecordError, match=r"disagree: \S*/seed-0 has 3.00 % error, /nowhere/twin 3.50 %; take one away"
    ):
        paper_table("table1", [*RUNS, twin], "paper")
    same = dataclasses.replace(RUNS[0], folder=Path("/nowhere/twin"))
    assert paper_table("table1", [*RUNS, same], "paper") == paper_table("table1", RUNS, "paper")


def test_csv_has_full_precision() -> None:
    errors = (1 / 3, 2 / 3 + 1e-12)
    lines = as_dicts(paper_table("table1", ran("paper/mnist-all", "vadd-kl", *errors), "paper"))
    (line,) = [line for line in lines if line["method"] == "vadd-kl" and line["labels"] == "60000"]
    assert float(line["mean"]) == pytest.approx(math.fsum(errors) / 2, rel=1e-15)
    assert float(line["std"]) == pytest.approx((errors[1] - errors[0]) / math.sqrt(2), rel=1e-14)
    assert len(line["mean"]) >= 16
    assert (line["n"], line["paper_mean"], line["paper_std"], line["family"]) == ("2", "0.47", "0.01", "paper")
    assert (line["row"], line["printed"]) == ("VAdD (KL)", "0.47 ± 0.01")
    (few,) = [line for line in lines if line["method"] == "vadd-kl" and line["labels"] == "1000"]
    assert (few["mean"], few["std"], few["n"], few["paper_mean"], few["paper_std"]) == ("", "", "0", "0.99", "0.07")
    (one,) = [
        line for line in as_dicts(paper_table("table1", ran("paper/mnist-all", "pi", 0.1), "paper")) if line["n"] == "1"
    ]
    assert (one["mean"], one["std"]) == ("0.1", "")


def test_more_labels_give_lower_errors_in_all_that_is_printed() -> None:
    for name, pairs in {"table1": ((0, 1),), "table2": ((0, 1), (2, 3))}.items():
        for row in PRINTED[name].rows:
            for few, every in pairs:
                with_few, with_all = row.figures[few], row.figures[every]
                if with_few is not None and with_all is not None:
                    assert with_all.mean < with_few.mean, (name, row.name)


def test_the_scale_is_said() -> None:
    assert paper_table("table1", [], "paper").table.title.startswith("Table 1, the full schedule: test error in %")
    assert paper_table("table1", [], "paper").table.header[2] == "MNIST, 1,000 labels: ours"
    quick = paper_table("table1", [], "quick")
    assert "scale quick, NOT the paper's schedule" in quick.table.title
    assert quick.table.header[2::4] == (
        "MNIST, 1,000 labels: ours after 1,500 steps",
        "MNIST, 60,000 labels: ours after 2,400 steps",
    )
    assert all("after 20 steps" in name for name in paper_table("table2", [], "quick").table.header[2::4])


def shown_in(table: PaperTable, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console()
    with console.capture() as capture:
        for column in table.by_column:
            console.print(column)
    return capture.get()


def test_markdown_and_terminal_show_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table = paper_table("table1", RUNS, "paper")
    ours, notes = table.table.markdown().split("\n\n")
    lines = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in ours.splitlines()]
    assert lines[0] == table.table.header
    assert set(lines[1]) == {"---"}
    assert lines[2:] == table.table.texts
    assert notes == "\n".join(f"- {note}" for note in table.table.notes)
    printed = shown_in(table, 300, monkeypatch)
    by_column = [[*line[:2], *line[first : first + 4]] for first in (2, 6) for line in table.table.texts]
    assert rows(printed) == by_column
    assert all(note in printed.splitlines() for note in table.table.notes)


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", ["table1", "table2", "table6", "table7"])
def test_the_terminal_is_not_too_narrow(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [(cell.preset, method) for cell, method in paper_tables.trained(name)]
    runs = [run for cell in cells for run in ran(*cell, *(10.0 + seed for seed in range(10)), scale="quick")]
    table = paper_table(name, runs, "quick", methods=METHODS)
    printed = shown_in(table, width, monkeypatch)
    assert max(map(len, printed.splitlines())) <= width
    numbers = [row[1:] for row in rows(printed) if any(row[1:])]  # Other lines go on with a long name.
    firsts = range(2, len(table.table.header), 4)
    every = [[line[1], *line[first : first + 4]] for first in firsts for line in table.table.texts]
    assert numbers == [row for row in every if any(row)]


def test_what_must_be_known_stands_beside() -> None:
    notes = {name: " ".join(paper_table(name, [], "paper").table.notes) for name in PRINTED}
    assert "over 8 runs" in notes["table1"]
    assert all("over 5 runs" in notes[name] for name in ("table2", "table6", "table7"))
    for name, said in {
        "table2": ("entropy minimisation", "11.36", "10.04", "Table 7"),
        "table6": ("SAdD in Table 2",),
        "table7": ("entropy minimisation", "11.36", "10.04"),
    }.items():
        assert all(part in notes[name] for part in said)
        marks = {mark for row in PRINTED[name].rows for mark in "¹²" if mark in row.name}
        assert marks == {note[0] for note in PRINTED[name].notes if note[0] in "¹²"}


@pytest.mark.parametrize(
    ("scale", "said"), [("tiny", "the errors mean nothing"), ("quick", "a small budget"), ("paper", "")]
)
def test_the_page(scale: Scale, said: str, tmp_path: Path) -> None:
    table = paper_table("table1", ran("paper/mnist-1000", "plain", 3.0, 4.0, scale=scale), scale)
    write_paper_table(table, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert said in page
    assert bool(said) == ("<strong>" in page)
    assert "3.50 ± 0.71" in page
    assert not re.search(r"<script|<link|https?://|src=", page)


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        ("table3", "paper", "expected table to be one of table1, .*, got 'table3'; did you mean \"table"),
        ("table1", "authors", "expected a family that has table1, got 'authors'; the authors' code has no MNIST"),
    ],
)
def test_no_such_table(name: str, family: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        paper_table(name, [], "paper", family=family)

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
from adversarial_dropout.experiments.analysis import paper_tables
from adversarial_dropout.experiments.analysis.paper_tables import PaperTable, paper_table
from adversarial_dropout.experiments.analysis.published import LITERATURE, PAPER
from adversarial_dropout.experiments.config import Scale
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.report.runs import write_paper_table

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


FOUND = [
    *ran("paper/mnist-1000", "plain", 3.0, 4.0, 2.75),
    *ran("paper/mnist-1000", "vadd-kl", 0.95, 0.97),
    *ran("paper/mnist-1000", "at", 2.5, 2.5),
    *ran("paper/mnist-all", "plain", 0.53),
    *ran("paper/mnist-all", "sadd", 0.5, 0.4, 0.45),
]


def texts(table: PaperTable, method: str) -> tuple[str, ...]:
    (line,) = [line for line in table.lines if line[0] == method]
    return line[1:]


def as_dicts(table: PaperTable) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(paper_tables.as_csv(table))))


def test_mean_deviation_number_and_difference() -> None:
    table = paper_table("table1", FOUND, "paper")
    assert [line[0] for line in table.lines] == list(METHODS)
    # Sample deviations (n - 1): √(0.875 / 2) = 0.661; 0.0141; 0; 0.05.
    assert texts(table, "plain") == ("3.25 ± 0.66", "3", "2.99", "+0.26", "0.53", "1", "0.53", "+0.00")
    assert texts(table, "vadd-kl") == ("0.96 ± 0.01", "2", "0.99 ± 0.07", "-0.03", "", "", "0.47", "")
    assert texts(table, "at") == ("2.50 ± 0.00", "2", "", "", "", "", "", ""), "the paper has no such row"
    assert texts(table, "sadd") == ("", "", "", "", "0.45 ± 0.05", "3", "0.46", "-0.01")
    assert texts(table, "vat") == ("", "", "1.35", "", "", "", "0.50", "")
    assert texts(table, "vadd-qe+vat") == ("",) * 8


def test_nothing_at_all() -> None:
    table = paper_table("table7", [], "paper")
    assert texts(table, "vadd-qe+vat") == ("", "", "9.22 ± 0.10", "", "", "", "4.73", "")
    assert all(line["n"] in ("0", "") and line["mean"] == "" for line in as_dicts(table) if line["source"] == "paper")


def test_the_order_of_records_does_not_matter() -> None:
    table = paper_table("table1", FOUND, "paper")
    assert paper_table("table1", FOUND[::-1], "paper") == table
    assert paper_table("table1", [*FOUND, *FOUND], "paper") == table, "a copied record counts once"


def test_other_scales_are_never_mixed() -> None:
    found = [
        *ran("paper/svhn-1000", "vadd-kl", 4.0, 5.0),
        *ran("paper/svhn-1000", "vadd-kl", 60.0, 70.0, 80.0, scale="quick"),
        *ran("paper/svhn-1000", "vadd-kl", 90.0, scale="tiny", first=7),
    ]
    expected: dict[Scale, tuple[str, ...]] = {
        "paper": ("4.50 ± 0.71", "2", "4.16", "+0.34"),
        "quick": ("70.00 ± 10.00", "3", "4.16", "+65.84"),
        "tiny": ("90.00", "1", "4.16", "+85.84"),
    }
    for scale, cells in expected.items():
        table = paper_table("table6", found, scale)
        assert texts(table, "vadd-kl")[:4] == cells
        assert {line["scale"] for line in as_dicts(table) if line["source"] == "paper"} == {scale}


def test_families_are_never_mixed() -> None:
    found = [*ran("paper/svhn-all", "plain", 5.0), *ran("authors/svhn-all", "plain", 3.0, 3.5, 4.0)]
    ours, theirs = (paper_table("table6", found, "paper", family=family) for family in ("paper", "authors"))
    assert texts(ours, "plain")[4:6] == ("5.00", "1")
    assert texts(theirs, "plain")[4:6] == ("3.50 ± 0.50", "3")
    assert all("authors' code" in name for name in theirs.header if "ours" in name)
    assert not any("authors' code" in name for name in ours.header)


def test_columns_of_each_table() -> None:
    columns = {
        name: [(cell.source, cell.labels) for cell in paper_tables.columns(name)]
        for name in ("table1", "table2", "table6", "table7")
    }
    svhn, cifar = [("svhn", 1_000), ("svhn", 73_257)], [("cifar10", 4_000), ("cifar10", 50_000)]
    assert columns == {
        "table1": [("mnist", 1_000), ("mnist", 60_000)],
        "table2": [*svhn, *cifar],
        "table6": svhn,
        "table7": cifar,
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
    table = paper_table("table1", [*FOUND, on_validation], "paper")
    assert table == paper_table("table1", FOUND, "paper")


def test_a_record_with_other_settings_is_refused() -> None:
    (record,) = ran("paper/mnist-all", "vadd-qe", 0.4)
    (term,) = record.config.terms
    changed = dataclasses.replace(
        record,
        config=dataclasses.replace(
            record.config,
            terms=(dataclasses.replace(term, weight=7.0),),
            training=dataclasses.replace(record.config.training, epochs=3),
        ),
    )
    expected = (
        r"/nowhere/paper/mnist-all/paper/vadd-qe/seed-0 does not have the settings of its preset \(preset → record\): "
        r"terms.vadd.weight: 30.0 → 7.0; training.epochs: 100 → 3"
    )
    with pytest.raises(InvalidValueError, match=expected):
        paper_table("table1", [*FOUND, changed], "paper")
    # Where it has no place, it does no harm.
    assert paper_table("table1", [changed], "quick") == paper_table("table1", [], "quick")
    assert paper_table("table6", [changed], "paper") == paper_table("table6", [], "paper")
    assert paper_table("table1", [changed], "paper", methods=["plain"]).rows.keys() == {"plain"}


def test_methods_are_rows_in_their_order() -> None:
    table = paper_table("table1", FOUND, "paper", methods=["sadd", "plain"])
    assert [line[0] for line in table.lines] == ["sadd", "plain"]
    assert texts(table, "plain") == texts(paper_table("table1", FOUND, "paper"), "plain")


def test_csv_has_full_precision() -> None:
    errors = (1 / 3, 2 / 3 + 1e-12)
    lines = as_dicts(paper_table("table1", ran("paper/mnist-all", "vadd-kl", *errors), "paper"))
    (line,) = [line for line in lines if line["method"] == "vadd-kl" and line["labels"] == "60000"]
    assert float(line["mean"]) == pytest.approx(math.fsum(errors) / 2, rel=1e-15)
    assert float(line["std"]) == pytest.approx((errors[1] - errors[0]) / math.sqrt(2), rel=1e-14)
    assert len(line["mean"]) >= 16
    assert (line["n"], line["paper_mean"], line["paper_std"], line["source"]) == ("2", "0.47", "", "paper")
    (few,) = [line for line in lines if line["method"] == "vadd-kl" and line["labels"] == "1000"]
    assert (few["mean"], few["std"], few["n"], few["paper_mean"], few["paper_std"]) == ("", "", "0", "0.99", "0.07")
    (one,) = [
        line for line in as_dicts(paper_table("table1", ran("paper/mnist-all", "pi", 0.1), "paper")) if line["n"] == "1"
    ]
    assert (one["mean"], one["std"]) == ("0.1", "")


def test_what_others_published_stays_apart() -> None:
    table = paper_table("table2", [], "paper")
    names = {line[0] for line in table.lines}
    assert names == set(METHODS)
    assert table.quoted == [
        ("Π-model", "Laine & Aila, ICLR 2017", "SVHN", "4.82 ± 0.17", "2.54 ± 0.04"),
        ("temporal ensembling", "Laine & Aila, ICLR 2017", "SVHN", "4.42 ± 0.16", "2.74 ± 0.06"),
        ("VAT + entropy minimisation", "Miyato et al., TPAMI 2018", "SVHN", "3.86", ""),
        ("Π-model", "Laine & Aila, ICLR 2017", "CIFAR-10", "12.36 ± 0.31", "5.56 ± 0.10"),
        ("temporal ensembling", "Laine & Aila, ICLR 2017", "CIFAR-10", "12.16 ± 0.24", "5.60 ± 0.10"),
        ("VAT", "Miyato et al., TPAMI 2018", "CIFAR-10", "11.36", "5.81"),
        ("VAT + entropy minimisation", "Miyato et al., TPAMI 2018", "CIFAR-10", "10.55", ""),
    ]
    svhn, cifar = (paper_table(name, [], "paper").quoted for name in ("table6", "table7"))
    assert {row[0] for row in svhn} - {row[0] for row in table.quoted} == {"GAN, feature matching"}
    assert {row[0] for row in cifar} - {row[0] for row in table.quoted} == {"GAN, feature matching", "ladder network"}
    quoted = [line for line in as_dicts(table) if line["source"] not in ("paper", "authors")]
    assert len(quoted) == 12
    assert all(line["mean"] == line["n"] == line["scale"] == "" for line in quoted), "not of our runs"
    assert {(line["data"], line["labels"], line["paper_mean"]) for line in quoted if line["method"] == "Π-model"} == {
        ("svhn", "few", "4.82"),
        ("svhn", "all", "2.54"),
        ("cifar10", "few", "12.36"),
        ("cifar10", "all", "5.56"),
    }


def test_more_labels_give_lower_errors_in_all_that_is_quoted() -> None:
    """A slip of the pen among the figures would show here."""
    for source in ("mnist", "svhn", "cifar10"):
        few, every = PAPER[source, False], PAPER[source, True]
        for method in few.keys() & every.keys():
            assert every[method].mean < few[method].mean, (source, method)
        for row in LITERATURE[source]:
            if row.few is not None and row.all is not None:
                assert row.all.mean < row.few.mean, (source, row.name)


def test_the_scale_is_said() -> None:
    assert paper_table("table1", [], "paper").title.startswith("Table 1, the full schedule: test error in %")
    assert paper_table("table1", [], "paper").header[1] == "MNIST, 1,000 labels: ours"
    quick = paper_table("table1", [], "quick")
    assert "scale quick, NOT the paper's schedule" in quick.title
    assert quick.header[1::4] == (
        "MNIST, 1,000 labels: ours after 1,500 steps",
        "MNIST, 60,000 labels: ours after 300 steps",
    )
    assert all("after 20 steps" in name for name in paper_table("table2", [], "quick").header[1::4])


def test_markdown_and_terminal_show_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    table = paper_table("table1", FOUND, "paper")
    ours, quoted = paper_tables.as_markdown(table).split("\n\n")
    rows = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in ours.splitlines()]
    assert rows[0] == table.header
    assert set(rows[1]) == {"---"}
    assert rows[2:] == table.lines
    assert [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in quoted.splitlines()][2:] == table.quoted
    console = Console()
    with console.capture() as capture:
        for part in paper_tables.as_terminal(table):
            console.print(part)
    shown = [
        tuple(cell.strip() for cell in line.split("│")[1:-1])
        for line in capture.get().splitlines()
        if line.startswith("│")
    ]
    by_column = [(line[0], *line[first : first + 4]) for first in (1, 5) for line in table.lines]
    assert shown == [*by_column, *table.quoted]


@pytest.mark.parametrize(
    ("scale", "said"), [("tiny", "the errors mean nothing"), ("quick", "a small budget"), ("paper", "")]
)
def test_the_page(scale: Scale, said: str, tmp_path: Path) -> None:
    table = paper_table("table1", ran("paper/mnist-1000", "plain", 3.0, 4.0, scale=scale), scale, methods=["plain"])
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

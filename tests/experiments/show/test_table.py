"""A table in each of its forms."""

import csv
import io
import math

import pytest
from rich.console import Console

from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

from ..calling import rows

TABLE = Table(
    ("name", "n", "share", "error in %", "left"),
    [("plain", 12345, 1 / 3, MeanStd(8.0, 1.0), None), ('[b]a|b[/b] :x: "é", =1', 7, math.nan, "-0.5", "")],
    title="What [it] shows",
    notes=("First [note].", "Second."),
)


def printed(table: Table, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_texts() -> None:
    assert TABLE.texts == [
        ("plain", "12,345", "0.3333", "8.00 ± 1.00", ""),
        ('[b]a|b[/b] :x: "é", =1', "7", "nan", "-0.5", ""),
    ]


def test_markdown_has_notes_and_one_cell_a_column() -> None:
    assert TABLE.markdown() == (
        "| name | n | share | error in % | left |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| plain | 12,345 | 0.3333 | 8.00 ± 1.00 |  |\n"
        '| [b]a\\|b[/b] :x: "é", =1 | 7 | nan | -0.5 |  |\n'
        "\n"
        "- First [note].\n"
        "- Second."
    )
    assert Table(("a", "b"), []).markdown() == "| a | b |\n| --- | --- |"


def test_csv_has_full_precision() -> None:
    text = TABLE.csv()
    assert "\r" not in text
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "n", "share", "error in %", "left"],
        ["plain", "12345", "0.3333333333333333", "8.00 ± 1.00", ""],
        ['[b]a|b[/b] :x: "é", =1', "7", "nan", "-0.5", ""],
    ]


def test_terminal_reads_no_markup() -> None:
    text = printed(TABLE)
    assert rows(text) == [list(row) for row in TABLE.texts]
    assert text.splitlines()[0].strip() == TABLE.title
    assert [line.strip() for line in text.splitlines()[-2:]] == list(TABLE.notes)
    assert "│        -0.5 │" in text, "a column of numbers stands to the right"


@pytest.mark.parametrize("width", [40, 60])
def test_the_terminal_breaks_long_texts_and_no_short_word(width: int) -> None:
    table = Table(("preset", "what"), [("paper/mnist-1000", "many words " * 9), ("x", "y" * 200)])
    lines = rows(printed(table, width))
    assert "paper/mnist-1000" in [line[0] for line in lines]
    assert "".join(line[1] for line in lines).count("y") == 200 + 9, "nothing is cut off"
    assert max(map(len, printed(table, width).splitlines())) <= width
    long = Table(("class",), [("z" * 200,)])
    assert printed(long, width).count("z") == 200


def test_without_its_last_column() -> None:
    assert TABLE.without_last.header == ("name", "n", "share", "error in %")
    assert TABLE.without_last.texts == [row[:-1] for row in TABLE.texts]
    assert (TABLE.without_last.title, TABLE.without_last.notes) == (TABLE.title, TABLE.notes)

"""Tables 1, 2, 6 and 7: `reproduce` prints the paper's rows, columns and figures, each in its cell and no others."""

import csv
import html
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adversarial_dropout.experiments.commands import reproduce
from adversarial_dropout.experiments.commands.reproduce import Reproduce
from adversarial_dropout.experiments.config import ExperimentConfig

from .. import small_data
from ..calling import printed_by, rows

PrintedCell = tuple[str, str, str]
"""Row, data set and number of labels."""

# Every figure of the four tables, typed from the paper apart from the program: tables.csv.
FIGURES = """\
table,dataset,labels,method,source,mean,std
1,MNIST,1000,plain,ours,2.99,0.23
1,MNIST,1000,VAT,ours,1.35,0.14
1,MNIST,1000,Pi,ours,1.00,0.08
1,MNIST,1000,VAdD-KL,ours,0.99,0.07
1,MNIST,1000,VAdD-QE,ours,0.99,0.09
1,MNIST,60000,plain,ours,0.53,0.03
1,MNIST,60000,AT,ours,0.51,0.03
1,MNIST,60000,VAT,ours,0.50,0.01
1,MNIST,60000,Pi,ours,0.50,0.02
1,MNIST,60000,SAdD,ours,0.46,0.01
1,MNIST,60000,VAdD-KL,ours,0.47,0.01
1,MNIST,60000,VAdD-QE,ours,0.46,0.02
2,SVHN,1000,Pi,Laine&Aila2016,4.82,
2,SVHN,73257,Pi,Laine&Aila2016,2.54,
2,CIFAR10,4000,Pi,Laine&Aila2016,12.36,
2,CIFAR10,50000,Pi,Laine&Aila2016,5.56,
2,SVHN,1000,TemporalEnsembling,Laine&Aila2016,4.42,
2,SVHN,73257,TemporalEnsembling,Laine&Aila2016,2.74,
2,CIFAR10,4000,TemporalEnsembling,Laine&Aila2016,12.16,
2,CIFAR10,50000,TemporalEnsembling,Laine&Aila2016,5.60,
2,CIFAR10,4000,Sajjadi,Sajjadi2016,11.29,
2,SVHN,1000,VAT,Miyato2017,3.86,
2,CIFAR10,4000,VAT,Miyato2017,10.55,
2,CIFAR10,50000,VAT,Miyato2017,5.81,
2,SVHN,1000,Pi,ours,4.35,0.04
2,SVHN,73257,Pi,ours,2.53,0.05
2,CIFAR10,4000,Pi,ours,12.62,0.29
2,CIFAR10,50000,Pi,ours,5.77,0.11
2,SVHN,1000,VAT,ours,3.74,0.09
2,SVHN,73257,VAT,ours,2.69,0.04
2,CIFAR10,4000,VAT,ours,11.96,0.10
2,CIFAR10,50000,VAT,ours,5.65,0.17
2,SVHN,73257,SAdD,ours,2.46,0.05
2,CIFAR10,50000,SAdD,ours,5.46,0.16
2,SVHN,1000,VAdD-KL,ours,4.16,0.08
2,SVHN,73257,VAdD-KL,ours,2.31,0.01
2,CIFAR10,4000,VAdD-KL,ours,11.68,0.19
2,CIFAR10,50000,VAdD-KL,ours,5.27,0.10
2,SVHN,1000,VAdD-QE,ours,4.26,0.14
2,SVHN,73257,VAdD-QE,ours,2.37,0.03
2,CIFAR10,4000,VAdD-QE,ours,11.32,0.11
2,CIFAR10,50000,VAdD-QE,ours,5.24,0.12
2,SVHN,1000,VAdD-KL+VAT,ours,3.55,0.05
2,SVHN,73257,VAdD-KL+VAT,ours,2.23,0.03
2,CIFAR10,4000,VAdD-KL+VAT,ours,10.07,0.11
2,CIFAR10,50000,VAdD-KL+VAT,ours,4.40,0.12
2,SVHN,1000,VAdD-QE+VAT,ours,3.55,0.07
2,SVHN,73257,VAdD-QE+VAT,ours,2.34,0.05
2,CIFAR10,4000,VAdD-QE+VAT,ours,9.22,0.10
2,CIFAR10,50000,VAdD-QE+VAT,ours,4.73,0.04
6,CIFAR10,50000,NetworkInNetwork,2013,8.81,
6,CIFAR10,50000,All-CNN,2014,7.25,
6,CIFAR10,50000,DeepSupervisedNet,2015,7.97,
6,CIFAR10,50000,HighwayNetwork,2015,7.72,
6,CIFAR10,50000,Pi,2016,5.56,
6,CIFAR10,50000,TemporalEnsembling,2016,5.60,
6,CIFAR10,50000,VAT,2017,5.81,
6,CIFAR10,50000,Pi,ours,5.77,0.11
6,CIFAR10,50000,VAT,ours,5.65,0.17
6,CIFAR10,50000,AdD,ours,5.46,0.16
6,CIFAR10,50000,VAdD-KL,ours,5.27,0.10
6,CIFAR10,50000,VAdD-QE,ours,5.24,0.12
6,CIFAR10,50000,VAdD-KL+VAT,ours,4.40,0.12
6,CIFAR10,50000,VAdD-QE+VAT,ours,4.73,0.04
7,CIFAR10,4000,LadderNetwork,2015,20.40,
7,CIFAR10,4000,CatGAN,2015,19.58,
7,CIFAR10,4000,GAN-FeatureMatching,2016,18.63,
7,CIFAR10,4000,Pi,2016,12.36,
7,CIFAR10,4000,TemporalEnsembling,2016,12.16,
7,CIFAR10,4000,Sajjadi,2016,11.29,
7,CIFAR10,4000,VAT,2017,10.55,
7,CIFAR10,4000,Pi,ours,12.62,0.29
7,CIFAR10,4000,VAT,ours,11.96,0.10
7,CIFAR10,4000,VAdD-KL,ours,11.68,0.19
7,CIFAR10,4000,VAdD-QE,ours,11.32,0.11
7,CIFAR10,4000,VAdD-KL+VAT,ours,10.07,0.11
7,CIFAR10,4000,VAdD-QE+VAT,ours,9.22,0.10
"""
PAPER_FOLDER = os.environ.get("ADVERSARIAL_DROPOUT_PAPER")

# The rows in the paper's order, by what FIGURES call them.
ROWS: dict[str, dict[tuple[str, str], str]] = {
    "table1": {
        ("plain", "ours"): "Plain (only dropout)",
        ("AT", "ours"): "AT",
        ("VAT", "ours"): "VAT",
        ("Pi", "ours"): "Π model",
        ("SAdD", "ours"): "SAdD",
        ("VAdD-KL", "ours"): "VAdD (KL)",
        ("VAdD-QE", "ours"): "VAdD (QE)",
    },
    "table2": {
        ("Pi", "Laine&Aila2016"): "Π model (Laine and Aila 2016)",
        ("TemporalEnsembling", "Laine&Aila2016"): "Temporal ensembling (Laine and Aila 2016)",
        ("Sajjadi", "Sajjadi2016"): "Sajjadi et al. (2016)",
        ("VAT", "Miyato2017"): "VAT (Miyato et al. 2017) ¹",
        ("Pi", "ours"): "Π model (authors' implementation)",
        ("VAT", "ours"): "VAT (authors' implementation)",
        ("SAdD", "ours"): "SAdD",
        ("VAdD-KL", "ours"): "VAdD (KL)",
        ("VAdD-QE", "ours"): "VAdD (QE)",
        ("VAdD-KL+VAT", "ours"): "VAdD (KL) + VAT ²",
        ("VAdD-QE+VAT", "ours"): "VAdD (QE) + VAT",
    },
    "table6": {
        ("NetworkInNetwork", "2013"): "Network in Network (2013)",
        ("All-CNN", "2014"): "All-CNN (2014)",
        ("DeepSupervisedNet", "2015"): "Deep Supervised Net (2015)",
        ("HighwayNetwork", "2015"): "Highway Network (2015)",
        ("Pi", "2016"): "Π model (2016)",
        ("TemporalEnsembling", "2016"): "Temporal ensembling (2016)",
        ("VAT", "2017"): "VAT (2017)",
        ("Pi", "ours"): "Π model (authors' implementation)",
        ("VAT", "ours"): "VAT (authors' implementation)",
        ("AdD", "ours"): "AdD ¹",
        ("VAdD-KL", "ours"): "VAdD (KL)",
        ("VAdD-QE", "ours"): "VAdD (QE)",
        ("VAdD-KL+VAT", "ours"): "VAdD (KL) + VAT",
        ("VAdD-QE+VAT", "ours"): "VAdD (QE) + VAT",
    },
    "table7": {
        ("LadderNetwork", "2015"): "Ladder network (2015)",
        ("CatGAN", "2015"): "CatGAN (2015)",
        ("GAN-FeatureMatching", "2016"): "GAN with feature matching (2016)",
        ("Pi", "2016"): "Π model (2016)",
        ("TemporalEnsembling", "2016"): "Temporal ensembling (2016)",
        ("Sajjadi", "2016"): "Sajjadi et al. (2016)",
        ("VAT", "2017"): "VAT (2017) ¹",
        ("Pi", "ours"): "Π model (authors' implementation)",
        ("VAT", "ours"): "VAT (authors' implementation)",
        ("VAdD-KL", "ours"): "VAdD (KL)",
        ("VAdD-QE", "ours"): "VAdD (QE)",
        ("VAdD-KL+VAT", "ours"): "VAdD (KL) + VAT ²",
        ("VAdD-QE+VAT", "ours"): "VAdD (QE) + VAT",
    },
}
COLUMNS = {
    "table1": [("MNIST", "1000"), ("MNIST", "60000")],
    "table2": [("SVHN", "1000"), ("SVHN", "73257"), ("CIFAR10", "4000"), ("CIFAR10", "50000")],
    "table6": [("CIFAR10", "50000")],
    "table7": [("CIFAR10", "4000")],
}
METHODS = {
    "Plain (only dropout)": "plain",
    "AT": "at",
    "VAT": "vat",
    "VAT (authors' implementation)": "vat",
    "Π model": "pi",
    "Π model (authors' implementation)": "pi",
    "SAdD": "sadd",
    "AdD": "sadd",
    "VAdD (KL)": "vadd-kl",
    "VAdD (QE)": "vadd-qe",
    "VAdD (KL) + VAT": "vadd-kl+vat",
    "VAdD (QE) + VAT": "vadd-qe+vat",
}
TABLES = pytest.mark.parametrize("name", list(ROWS))


def figures(name: str) -> dict[PrintedCell, str]:
    """What the paper prints in each cell of a table, row by row; a dash where it has no figure."""
    given = {
        (ROWS[name][line["method"], line["source"]], line["dataset"], line["labels"]): line["mean"]
        + (f" ± {line['std']}" if line["std"] else "")
        for line in csv.DictReader(io.StringIO(FIGURES))
        if f"table{line['table']}" == name
    }
    cells = {(row, *column): given.pop((row, *column), "-") for row in ROWS[name].values() for column in COLUMNS[name]}
    assert not given, "every figure has a cell"
    return cells


def trained(name: str) -> set[tuple[str, str]]:
    """Preset and method of each cell with one of the paper's own figures."""
    found = set()
    for (row, data, labels), figure in figures(name).items():
        method = METHODS.get(row.rstrip(" ¹²"))
        if method is not None and figure != "-":
            every = labels in ("60000", "73257", "50000")
            found.add((f"paper/{data.lower()}-{'all' if every else labels}", method))
    return found


@pytest.mark.skipif(PAPER_FOLDER is None, reason="ADVERSARIAL_DROPOUT_PAPER does not name a folder with tables.csv")
def test_the_figures_are_those_of_the_file() -> None:
    assert (Path(PAPER_FOLDER or "") / "tables.csv").read_text() == FIGURES


def test_the_dashes_are_where_the_paper_has_them() -> None:
    dashes = {name: [cell for cell, figure in figures(name).items() if figure == "-"] for name in ROWS}
    assert dashes == {
        "table1": [("AT", "MNIST", "1000"), ("SAdD", "MNIST", "1000")],
        "table2": [
            ("Sajjadi et al. (2016)", "SVHN", "1000"),
            ("Sajjadi et al. (2016)", "SVHN", "73257"),
            ("Sajjadi et al. (2016)", "CIFAR10", "50000"),
            ("VAT (Miyato et al. 2017) ¹", "SVHN", "73257"),
            ("SAdD", "SVHN", "1000"),
            ("SAdD", "CIFAR10", "4000"),
        ],
        "table6": [],
        "table7": [],
    }


@dataclass(frozen=True)
class Printed:
    """What a command printed to the terminal, and the folder that it wrote to."""

    terminal: str
    out: Path


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Printed]:
    """Prints a table at scale tiny for which the cells of one method are trained."""
    root = tmp_path_factory.mktemp("printed")
    for source in small_data.SOURCES:
        small_data.hub_files(root / "data" / source, source)
    done: dict[str, Printed] = {}

    def make(name: str) -> Printed:
        if name not in done:
            command = ("reproduce", name, "--scale", "tiny", "--jobs", "1", "--methods", "pi")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("COLUMNS", "300")
                terminal = printed_by(*command, "--data", root / "data", "--out", root / "runs")
            done[name] = Printed(terminal, root / "runs")
        return done[name]

    return make


def cells_of(name: str, lines: list[list[str]], columns: int) -> dict[PrintedCell, str]:
    """The paper's figure in each cell, from rows of row, method, and ours, n, paper, difference in each column."""
    assert all(len(line) == 2 + 4 * columns for line in lines)
    indices = [(column, 4 + 4 * index) for index, column in enumerate(COLUMNS[name])]
    return {(line[0], *column): line[index] for line in lines for column, index in indices}


def check_ours(line: list[str]) -> None:
    """The rows of the method that was trained have an error each, the others have none."""
    for first in range(2, len(line), 4):
        error, number, _, apart = line[first : first + 4]
        if line[1] == "pi":
            assert re.fullmatch(r"\d+\.\d\d", error)
            assert number == "1"
            assert re.fullmatch(r"[+-]\d+\.\d\d", apart)
        else:
            assert (error, number, apart) == ("", "", "")


@TABLES
def test_markdown(name: str, printed: Callable[[str], Printed]) -> None:
    text = (printed(name).out / f"{name}-tiny.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    titles = [f"{'CIFAR-10' if data == 'CIFAR10' else data}, {int(labels):,} labels" for data, labels in COLUMNS[name]]
    heads = [f"{title}: ours after 2 steps" for title in titles]
    assert lines[0] == ["row", "method", *(cell for head in heads for cell in (head, "n", "paper", "difference"))]
    assert list(cells_of(name, lines[2:], len(heads)).items()) == list(figures(name).items()), "in the paper's order"
    for line in lines[2:]:
        assert line[1] == METHODS.get(line[0].rstrip(" ¹²"), "")
        check_ours(line)


@TABLES
def test_csv(name: str, printed: Callable[[str], Printed]) -> None:
    lines = list(csv.DictReader(io.StringIO((printed(name).out / f"{name}-tiny.csv").read_text())))
    cells = {(line["row"], line["data"].upper(), line["labels"]): line["printed"] for line in lines}
    assert list(cells.items()) == list(figures(name).items())
    assert len(lines) == len(cells)
    for line in lines:
        mean, _, std = line["printed"].partition(" ± ")
        assert line["paper_mean"] == ("" if mean == "-" else str(float(mean)))
        assert line["paper_std"] == (str(float(std)) if std else "")
        assert (line["table"], line["scale"], line["family"]) == (name, "tiny", "paper")


@TABLES
def test_terminal_and_page(name: str, printed: Callable[[str], Printed]) -> None:
    made = printed(name)
    number, expected = len(ROWS[name]), figures(name)
    lines = rows(made.terminal)
    assert len(lines) == number * len(COLUMNS[name])
    for index, column in enumerate(COLUMNS[name]):
        block = lines[number * index : number * (index + 1)]
        assert {(line[0], *column): line[4] for line in block} == {
            cell: figure for cell, figure in expected.items() if cell[1:] == column
        }
        for line in block:
            check_ours(line)
    page = (made.out / f"{name}-tiny.html").read_text()
    (body,) = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    shown = [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]
    assert cells_of(name, shown, len(COLUMNS[name])) == expected
    title = f"Table {name[5:]}, scale tiny, NOT the paper's schedule"
    assert title in made.terminal
    assert title in html.unescape(page)


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[ExperimentConfig]:
    """What a command would train."""
    found: list[ExperimentConfig] = []

    def instead(configs: list[ExperimentConfig], command: Reproduce, *_: object) -> None:
        assert command.out == Path("nowhere")
        found.extend(configs)

    monkeypatch.setattr(reproduce, "run_grid_shown", instead)
    printed_by("reproduce", *arguments, "--out", "nowhere")
    return found


@TABLES
@pytest.mark.parametrize(("scale", "repeats"), [("tiny", 1), ("quick", 3), ("paper", None)])
def test_what_is_trained_if_nothing_else_is_asked_for(
    name: str, scale: str, repeats: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells where one of the paper's own figures stands, as often as the paper repeats them."""
    configs = asked(monkeypatch, name, "--scale", scale)
    number = repeats or (8 if name == "table1" else 5)
    runs = [(config.preset, config.method, config.seed) for config in configs]
    assert len(runs) == len(set(runs))
    assert set(runs) == {(*cell, seed) for cell in trained(name) for seed in range(number)}
    assert {config.scale for config in configs} == {scale}


def test_what_is_trained_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the paper has a dash or no row."""
    configs = asked(monkeypatch, "table7", "--methods", "sadd", "plain", "--seeds", "2")
    assert [(config.preset, config.method, config.seed) for config in configs] == [
        ("paper/cifar10-4000", method, seed) for seed in (0, 1) for method in ("sadd", "plain")
    ]
    (config,) = asked(monkeypatch, "table1", "--methods", "at", "--presets", "paper/mnist-1000", "--seeds", "1")
    assert (config.preset, config.method) == ("paper/mnist-1000", "at")
    authors = asked(monkeypatch, "table6", "--family", "authors", "--scale", "paper")
    assert {config.preset for config in authors} == {"authors/cifar10-all"}
    assert len(authors) == 5 * 7

"""`reproduce`: from the command to the table beside the paper's figures, on small data of the right form."""

import csv
import html
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.training import loop

from . import small_data
from .commands import fails, printed_by, rows

TABLE1 = ("reproduce", "table1", "--scale", "tiny", "--jobs", "1")
METHODS = ("--methods", "plain", "vadd-kl", "--seeds", "2")
# Test errors printed in the paper, with 1,000 and with all labels.
PAPER = {"plain": ("2.99", "0.53"), "vadd-kl": ("0.99 ± 0.07", "0.47")}
CELLS = [("paper/mnist-1000", 1_000), ("paper/mnist-all", 60_000)]


@dataclass(frozen=True)
class Made:
    """A finished table 1 of two methods with two seeds each."""

    data: Path
    out: Path
    printed: str

    @property
    def command(self) -> tuple[object, ...]:
        return (*TABLE1, *METHODS, "--data", self.data, "--out", self.out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("reproduce")
    for source in small_data.SOURCES:
        small_data.hub_files(root / "data" / source, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "300")
        printed = printed_by(*TABLE1, *METHODS, "--data", root / "data", "--out", root / "runs")
        yield Made(root / "data", root / "runs", printed)


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Made:
    """The same in a folder that a test may change."""
    shutil.copytree(made.out, tmp_path / "runs")
    return Made(made.data, tmp_path / "runs", "")


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*") if path.name != ".lock"}


def errors(out: Path, preset: str, method: str) -> list[float]:
    """What the runs themselves say."""
    finals = sorted((out / preset / "tiny" / method).glob("seed-*/final.json"))
    return [json.loads(final.read_text())["metrics"]["error"] for final in finals]


def moments(values: list[float]) -> tuple[float, float]:
    """Mean and sample deviation of two values, by hand."""
    first, second = values
    return (first + second) / 2, abs(first - second) / math.sqrt(2)


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def expected_rows(out: Path) -> list[list[str]]:
    found = []
    for method, figures in PAPER.items():
        row = [method]
        for (preset, _), figure in zip(CELLS, figures, strict=True):
            mean, deviation = moments(errors(out, preset, method))
            row += [f"{mean:.2f} ± {deviation:.2f}", "2", figure, f"{mean - float(figure.split()[0]):+.2f}"]
        found.append(row)
    return found


def test_the_table_in_the_terminal(made: Made) -> None:
    expected = expected_rows(made.out)
    assert rows(made.printed)[:4] == [[row[0], *row[first : first + 4]] for first in (1, 5) for row in expected]
    assert "8 of 8 runs" in made.printed
    assert "Table 1, scale tiny, NOT the paper's schedule" in made.printed
    assert "MNIST, 1,000 labels: ours after 2 steps" in made.printed
    assert f"table: {made.out / 'table1-tiny'}.md, .csv, .html" in made.printed
    assert ["ladder network", "Rasmus et al., NIPS 2015", "MNIST", "0.84 ± 0.08", "0.57 ± 0.02"] in rows(made.printed)


def test_the_table_as_markdown_and_html(made: Made) -> None:
    expected = expected_rows(made.out)
    markdown = (made.out / "table1-tiny.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown]
    assert cells[2:4] == expected
    assert cells[0][0] == "method"
    page = (made.out / "table1-tiny.html").read_text()
    (ours, others) = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    shown = [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", ours)]
    assert shown == [cell for row in expected for cell in row]
    assert "ladder network" in others
    assert "ladder network" not in ours
    assert "the errors mean nothing" in page


def test_the_table_as_csv(made: Made) -> None:
    found = [line for line in lines(made.out / "table1-tiny.csv") if line["source"] == "paper"]
    assert [(line["method"], int(line["labels"])) for line in found] == [
        (method, labels) for method in PAPER for _, labels in CELLS
    ]
    for line in found:
        preset = {str(labels): preset for preset, labels in CELLS}[line["labels"]]
        mean, deviation = moments(errors(made.out, preset, line["method"]))
        assert float(line["mean"]) == pytest.approx(mean, rel=1e-15)
        assert float(line["std"]) == pytest.approx(deviation, rel=1e-12, abs=1e-12)
        assert (line["table"], line["scale"], line["data"], line["n"]) == ("table1", "tiny", "mnist", "2")


def test_each_run_is_its_preset(made: Made) -> None:
    found = records.find_records(made.out)
    assert len(found) == 8
    for record in found:
        config = record.config
        assert config == presets.get(config.preset, config.method, "tiny", config.seed)
    assert {(record.config.preset, record.config.method, record.config.seed) for record in found} == {
        (preset, method, seed) for preset, _ in CELLS for method in PAPER for seed in (0, 1)
    }
    for preset, _ in CELLS:
        assert len({tuple(record.metrics[0].items()) for record in found if record.config.preset == preset}) == 4


def test_a_second_call_repeats_nothing(made: Made) -> None:
    tables = {path: path.read_bytes() for path in made.out.glob("table1-*")}
    before = times(made.out)
    assert len(before) >= 8 * 7
    assert rows(printed_by(*made.command)) == rows(made.printed)
    assert times(made.out) == before
    assert {path: path.read_bytes() for path in made.out.glob("*.*")} == tables


def test_more_seeds_keep_those_that_are_done(copied: Made) -> None:
    before = times(copied.out)
    printed_by(*TABLE1, "--methods", "plain", "--seeds", "3", "--data", copied.data, "--out", copied.out)
    after = times(copied.out)
    assert before.items() <= after.items()
    assert {path.parent.name for path in after.keys() - before.keys()} == {"seed-2"}
    ours = [line for line in lines(copied.out / "table1-tiny.csv") if line["source"] == "paper"]
    assert [(line["method"], line["n"]) for line in ours] == [
        *(("plain", "3"),) * 2,
        *(("vadd-kl", "2"),) * 2,  # What an earlier command has made stays in the table.
    ]


def test_presets_are_columns(made: Made, tmp_path: Path) -> None:
    asked = ("--presets", "paper/mnist-all", "--methods", "plain", "--seeds", "1")
    printed = printed_by(*TABLE1, *asked, "--data", made.data, "--out", tmp_path)
    assert "1 of 1 runs" in printed
    assert [record.config.preset for record in records.find_records(tmp_path)] == ["paper/mnist-all"]
    ours = [line for line in lines(tmp_path / "table1-tiny.csv") if line["source"] == "paper"]
    assert [(line["labels"], line["n"]) for line in ours if line["n"] != "0"] == [("60000", "1")]


def test_the_authors_family(made: Made, tmp_path: Path) -> None:
    asked = ("--family", "authors", "--presets", "authors/svhn-all", "--methods", "vadd-qe", "--seeds", "1")
    command = ("reproduce", "table6", "--scale", "tiny", "--jobs", "1", *asked)
    printed = printed_by(*command, "--data", made.data, "--out", tmp_path)
    (record,) = records.find_records(tmp_path)
    assert record.folder == tmp_path / "authors" / "svhn-all" / "tiny" / "vadd-qe" / "seed-0"
    assert "SVHN, 73,257 labels, authors' code: ours after 2 steps" in printed
    (line,) = [line for line in lines(tmp_path / "table6-authors-tiny.csv") if line["n"] == "1"]
    assert (line["source"], line["data"], line["paper_mean"]) == ("authors", "svhn", "2.37")
    assert float(line["mean"]) == record.error


MISTAKES = {
    "table3": "invalid choice.*table3|table3.*table1",
    "table1 --methods plain vad-kl": "expected methods to be one of plain, .*, got 'vad-kl'; did you mean \"vadd-kl\"",
    "table1 --presets paper/mnist": 'expected presets to be one of paper/mnist-1000, .* did you mean "paper/mnist-',
    "table2 --presets paper/mnist-all": "expected presets to be one of paper/svhn-1000, .*, got 'paper/mnist-all'",
    "table2 --family authors --presets paper/svhn-all": 'did you mean "authors/svhn-all"',
    "table1 --family authors": "expected a family that has table1, got 'authors'; the authors' code has no MNIST",
    "table1 --family paperr": "family",
    "table1 --seeds 0": "expected seeds to be 1 or more, got 0",
    "table1 --seeds -1": "expected seeds to be 1 or more, got -1",
    "table1 --jobs 0": "expected jobs to be 1 or more, got 0",
    "table1 --scale huge": "huge",
    "": "TABLE|table",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = fails(capsys, "reproduce", *command.split())
    assert re.search(MISTAKES[command], printed), printed
    assert code == 2
    assert not list(tmp_path.iterdir())


def test_a_record_of_another_version_is_refused(copied: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.out / "paper" / "mnist-1000" / "tiny" / "vadd-kl" / "seed-1"
    config = json.loads((folder / records.CONFIG).read_text())
    config["training"]["learning_rate"] = 0.25
    (folder / records.CONFIG).write_text(json.dumps(config))
    before = times(copied.out)
    code, printed = fails(capsys, *copied.command)
    assert code in (1, 2)
    assert str(folder) in printed
    assert re.search(r"training.learning_rate: (0.003 → 0.25|0.25 → 0.003)", printed)
    config["training"]["pace"] = config["training"].pop("learning_rate")
    (folder / records.CONFIG).write_text(json.dumps(config))
    code, printed = fails(capsys, *copied.command)
    assert code in (1, 2)
    assert str(folder) in printed
    assert "training.pace: 0.25 → None" in printed
    del before[folder / records.CONFIG]
    assert before.items() <= times(copied.out).items()


def test_a_cell_that_fails_leaves_the_others(copied: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.out / "paper" / "mnist-all" / "tiny" / "plain"
    shutil.rmtree(folder)
    folder.write_text("a file where a folder should be")
    capsys.readouterr()
    code, printed = fails(capsys, *copied.command)
    assert code == 1
    assert "error: 2 of 8 runs failed; the others are kept" in printed
    assert f"{folder / 'seed-0'}: cannot write" in printed
    ours = [line for line in lines(copied.out / "table1-tiny.csv") if line["source"] == "paper"]
    assert [line["n"] for line in ours] == ["2", "0", "2", "2"]


def test_interrupted(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, calls = loop._train, 0

    def third_is_stopped(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_train", third_is_stopped)
        code, printed = fails(capsys, *TABLE1, *METHODS, "--data", made.data, "--out", tmp_path)
    assert code == 130
    assert printed.startswith("stopped; the same command goes on")
    ours = [line for line in lines(tmp_path / "table1-tiny.csv") if line["source"] == "paper"]
    assert [line["n"] for line in ours] == ["1", "0", "1", "0"], "what is finished is shown"


def test_without_data_and_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", nobody)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    asked = ("--methods", "plain", "--seeds", "1", "--out", tmp_path / "runs")
    code, printed = fails(capsys, *TABLE1, *asked, "--presets", "paper/mnist-all")
    assert code == 1
    for part in ("cannot load ylecun/mnist", "train-*.parquet and test-*.parquet", "--data FOLDER"):
        assert part in printed
    assert re.search(r"ylecun/mnist/tree/main/mnist|ylecun/mnist, subset mnist", printed), "which of its files"
    code, printed = fails(capsys, *TABLE1, *asked, "--data", tmp_path / "nowhere")
    assert code == 2
    assert "expected a folder of images or parquet files" in printed
    assert str(tmp_path / "nowhere") in printed
    assert not list((tmp_path / "runs").rglob(records.CONFIG))

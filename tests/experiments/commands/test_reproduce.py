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
from adversarial_dropout.experiments.run import loop

from .. import small_data
from ..calling import fails, printed_by, rows

TABLE1 = ("reproduce", "table1", "--scale", "tiny", "--jobs", "1")
METHODS = ("--methods", "plain", "vadd-kl", "--seeds", "2")
# Test errors printed in the paper, with 1,000 and with all labels, of what is trained here.
PAPER = {"plain": ("2.99 ± 0.23", "0.53 ± 0.03"), "vadd-kl": ("0.99 ± 0.07", "0.47 ± 0.01")}
NAMES = {"plain": "Plain (only dropout)", "vadd-kl": "VAdD (KL)"}
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


def ours(out: Path) -> list[dict[str, str]]:
    """The lines of table 1 in CSV for what was trained."""
    return [line for line in lines(out / "table1-tiny.csv") if line["n"] not in ("", "0")]


def expected_rows(out: Path) -> list[list[str]]:
    found = []
    for method, figures in PAPER.items():
        row = [NAMES[method], method]
        for (preset, _), figure in zip(CELLS, figures, strict=True):
            mean, deviation = moments(errors(out, preset, method))
            row += [f"{mean:.2f} ± {deviation:.2f}", "2", figure, f"{mean - float(figure.split()[0]):+.2f}"]
        found.append(row)
    return found


def test_the_table_in_the_terminal(made: Made) -> None:
    expected = expected_rows(made.out)
    shown = [row for row in rows(made.printed) if row[3]]
    assert shown == [[*row[:2], *row[first : first + 4]] for first in (2, 6) for row in expected]
    assert "8 of 8 runs" in made.printed
    assert "Table 1, scale tiny, NOT the paper's schedule" in made.printed
    assert "MNIST, 1,000 labels: ours after 2 steps" in made.printed
    assert f"table: {made.out / 'table1-tiny'}.md, .csv, .html" in made.printed


def test_the_table_as_markdown_and_html(made: Made) -> None:
    expected = expected_rows(made.out)
    markdown = (made.out / "table1-tiny.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown if line[:1] == "|"]
    assert [row for row in cells[2:] if row[3]] == expected
    assert cells[0][:2] == ["row", "method"]
    page = (made.out / "table1-tiny.html").read_text()
    (body,) = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    shown = [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", body)]
    assert shown == [cell for row in cells[2:] for cell in row]
    assert "the errors mean nothing" in page


def test_the_table_as_csv(made: Made) -> None:
    found = ours(made.out)
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
    assert [(line["method"], line["n"]) for line in ours(copied.out)] == [
        *(("plain", "3"),) * 2,
        *(("vadd-kl", "2"),) * 2,  # What an earlier command has made stays in the table.
    ]


def test_presets_are_columns(made: Made, tmp_path: Path) -> None:
    asked = ("--presets", "paper/mnist-all", "--methods", "plain", "--seeds", "1")
    printed = printed_by(*TABLE1, *asked, "--data", made.data, "--out", tmp_path)
    assert "1 of 1 runs" in printed
    assert [record.config.preset for record in records.find_records(tmp_path)] == ["paper/mnist-all"]
    assert {line["labels"] for line in lines(tmp_path / "table1-tiny.csv")} == {"60000"}
    assert [(line["labels"], line["n"]) for line in ours(tmp_path)] == [("60000", "1")]


def test_a_method_that_the_paper_does_not_have_there(made: Made, tmp_path: Path) -> None:
    asked = ("--presets", "paper/mnist-1000", "--methods", "sadd", "vadd-qe+vat", "--seeds", "1")
    printed = printed_by(*TABLE1, *asked, "--data", made.data, "--out", tmp_path)
    found = {row[0]: row[1:] for row in rows(printed) if row[3]}
    assert set(found) == {"SAdD", "VAdD (QE) + VAT, not in Table 1"}
    assert found["SAdD"][2:] == ["1", "-", ""], "a dash in the paper"
    assert found["VAdD (QE) + VAT, not in Table 1"][2:] == ["1", "", ""]


def test_the_authors_family(made: Made, tmp_path: Path) -> None:
    asked = ("--family", "authors", "--presets", "authors/svhn-all", "--methods", "vadd-qe", "--seeds", "1")
    command = ("reproduce", "table2", "--scale", "tiny", "--jobs", "1", *asked)
    printed = printed_by(*command, "--data", made.data, "--out", tmp_path)
    (record,) = records.find_records(tmp_path)
    assert record.folder == tmp_path / "authors" / "svhn-all" / "tiny" / "vadd-qe" / "seed-0"
    assert "SVHN, 73,257 labels, authors' code: ours after 2 steps" in printed
    (line,) = [line for line in lines(tmp_path / "table2-authors-tiny.csv") if line["n"] == "1"]
    assert (line["family"], line["data"], line["printed"]) == ("authors", "svhn", "2.37 ± 0.03")
    assert float(line["mean"]) == record.error


MISTAKES = {
    "table3": "invalid choice.*table3|table3.*table1",
    "table1 --methods": "expected methods, at least one of plain, at, .*, got none",
    "table2 --presets paper/mnist-1000": "expected presets to be one of paper/svhn-1000, .*, got 'paper/mnist-1000'",
    "table6 --presets paper/cifar10-4000": "expected presets to be one of paper/cifar10-all, got 'paper/cifar10-4000'",
    "table1 --methods plain vad-kl": "expected methods to be one of plain, .*, got 'vad-kl'; did you mean \"vadd-kl\"",
    "table1 --presets paper/mnist": 'expected presets to be one of paper/mnist-1000, .* did you mean "paper/mnist-',
    "table2 --presets paper/mnist-all": "expected presets to be one of paper/svhn-1000, .*, got 'paper/mnist-all'",
    "table2 --family authors --presets paper/svhn-all": 'did you mean "authors/svhn-all"',
    "table1 --family authors": "expected a family that has table1, got 'authors'; the authors' code has no MNIST",
    "table1 --family paperr": "family",
    "table1 --seeds 0": "expected seeds to be a whole number, 1 or more, got 0",
    "table1 --seeds -1": "expected seeds to be a whole number, 1 or more, got -1",
    "table1 --jobs 0": "expected jobs to be a whole number, 1 or more, got 0",
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


def change(folder: Path, **training: object) -> None:
    """Write a run's config as an earlier version did that had no drop1 and drop2, with other settings of the schedule.

    All networks had the same settings then, all terms had, and all were in the record, used or not.
    """
    config = json.loads((folder / records.CONFIG).read_text())
    for name in ("dropout1", "dropout2"):
        config["model"].pop(name, None)
    config["model"] = EARLIER_NETWORK | {name: value for name, value in config["model"].items() if value is not None}
    config["training"] |= {"beta1_end": 0.9, "ramp_up": 1, **training}
    config["terms"] = [{"kind": kind, **EARLIER_TERM, **term} for kind, term in config["terms"].items()]
    (folder / records.CONFIG).write_text(json.dumps(config))


EARLIER_NETWORK = {
    "kernel_size": 3,
    "width": 128,
    "norm": "batch",
    "norm_momentum": 0.1,
    "norm_logits": False,
    "input_noise": 0.0,
    "noise_in_evaluation": False,
    "delta": 0.005,
    "granularity": "element",
}
EARLIER_TERM = {"divergence": "kl", "eps": 1.0, "xi": None, "noise": "independent", "linearize_at": "ones"}
OLD = {"learning_rate": 0.003, "ramp_down": 2, "beta1_end": 0.5}
OLD_SAID = (
    "model.dropout1: 0.5 → 0.0; model.dropout2: 0.5 → 0.0; training.beta1_end: None → 0.5; "
    "training.learning_rate: 0.001 → 0.003; training.ramp_down: 0 → 2: "
)


def test_runs_of_older_presets_are_refused_and_told_from_the_others(
    copied: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    few, every = (copied.out / preset / "tiny" for preset, _ in CELLS)
    for folder in (few / "plain" / "seed-0", few / "vadd-kl" / "seed-0", every / "plain" / "seed-1"):
        change(folder, **OLD)
    shutil.copytree(few / "plain" / "seed-0", few / "plain" / "seed-7")  # Not asked for, but it would be shown.
    config = json.loads((few / "plain" / "seed-7" / records.CONFIG).read_text()) | {"seed": 7}
    (few / "plain" / "seed-7" / records.CONFIG).write_text(json.dumps(config))
    shutil.rmtree(every / "vadd-kl" / "seed-1")  # Nothing is trained before the old runs are out of the way.
    for table in copied.out.glob("table1-*"):
        table.unlink()
    before = times(copied.out)
    code, printed = fails(capsys, *copied.command)
    assert code == 2
    assert printed == (
        "error: expected runs with the settings of their presets, got others in 4 of 8 folders (preset → run) "
        f"{OLD_SAID}{few}/plain/{{seed-0,seed-7}} {few}/vadd-kl/seed-0 {every}/plain/seed-1 "
        f"As their presets say, and left as they are: {few}/{{plain,vadd-kl}}/seed-1 {every}/{{plain,vadd-kl}}/seed-0 "
        "Take the 4 away, or choose another folder (--out): runs of different settings share no table"
    )
    assert times(copied.out) == before
    assert not list(copied.out.glob("table1-*"))
    for folder in (few / "plain" / "seed-0", few / "plain" / "seed-7", few / "vadd-kl" / "seed-0"):
        shutil.rmtree(folder)
    shutil.rmtree(every / "plain" / "seed-1")
    kept = times(copied.out)
    printed_by(*copied.command)
    assert kept.items() <= times(copied.out).items(), "what is left is not trained again"
    assert [line["n"] for line in ours(copied.out)] == ["2"] * 4


def test_a_stopped_run_of_older_presets_is_refused_before_anything_is_trained(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*TABLE1, "--methods", "plain", "--presets", "paper/mnist-1000", "--data", made.data, "--out", tmp_path)
    with pytest.MonkeyPatch.context() as patch:

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(records, "write_metrics", stopped)
        fails(capsys, *command, "--seeds", "1")
    (folder,) = (path.parent for path in tmp_path.rglob(records.CONFIG))
    assert not records.is_finished(folder)
    change(folder, **OLD)
    code, printed = fails(capsys, *command, "--seeds", "2")
    assert code == 2
    assert f"{OLD_SAID}{folder} Take the 1 away" in printed
    assert [path.parent for path in tmp_path.rglob(records.CONFIG)] == [folder]


def test_a_figure_refuses_them_too(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--scale", "tiny", "--jobs", "1", "--seeds", "1", "--images", "20")
    command = ("reproduce", "figure2", *few, "--data", made.data / "mnist", "--out", tmp_path)
    printed_by(*command)
    old, gone = sorted(path.parent for path in tmp_path.rglob(records.FINAL))[:2]
    change(old, learning_rate=0.25)
    shutil.rmtree(gone)
    code, printed = fails(capsys, *command)
    assert code == 2
    assert f" → 0.25: {old} As their presets say" in printed
    assert not gone.exists()


def test_old_runs_do_no_harm_where_they_have_no_place(copied: Made) -> None:
    """At another scale, on held-out images, or begun for a method that is not asked for."""
    tiny = copied.out / "paper" / "mnist-1000" / "tiny"
    quick = copied.out / "paper" / "mnist-1000" / "quick" / "plain" / "seed-0"
    shutil.copytree(tiny / "plain" / "seed-0", quick)
    change(quick, **OLD)
    (quick / records.CONFIG).write_text((quick / records.CONFIG).read_text().replace('"tiny"', '"quick"'))
    held_out, begun = tiny / "vat" / "seed-0", tiny / "pi" / "seed-0"
    for folder, method in ((held_out, "vat"), (begun, "pi")):
        shutil.copytree(tiny / "plain" / "seed-1", folder)
        config = json.loads((folder / records.CONFIG).read_text()) | {"method": method}
        config["data"]["validation"] = 5_000 if method == "vat" else 0
        (folder / records.CONFIG).write_text(json.dumps(config))
    final = json.loads((held_out / records.FINAL).read_text()) | {"evaluated_on": "validation"}
    (held_out / records.FINAL).write_text(json.dumps(final))
    (begun / records.FINAL).unlink()
    before = ours(copied.out)
    printed_by(*copied.command)
    assert ours(copied.out) == before


def test_a_record_of_another_version_is_refused(copied: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.out / "paper" / "mnist-1000" / "tiny" / "vadd-kl" / "seed-1"
    config = json.loads((folder / records.CONFIG).read_text())
    config["training"]["learning_rate"] = 0.25
    (folder / records.CONFIG).write_text(json.dumps(config))
    before = times(copied.out)
    code, printed = fails(capsys, *copied.command)
    assert code == 2
    assert f"training.learning_rate: 0.001 → 0.25: {folder} " in printed
    config["training"]["pace"] = config["training"].pop("learning_rate")
    (folder / records.CONFIG).write_text(json.dumps(config))
    code, printed = fails(capsys, *copied.command)
    assert code == 2
    assert f"training.learning_rate: 0.001 → None; training.pace: None → 0.25: {folder} " in printed
    del before[folder / records.CONFIG]
    assert before.items() <= times(copied.out).items()


def test_a_record_that_says_what_no_run_has_done_is_refused(copied: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.out / "paper" / "mnist-1000" / "tiny" / "vadd-kl" / "seed-1"
    change(folder)
    config = json.loads((folder / records.CONFIG).read_text())
    config["model"]["granularity"] = "channel"
    (folder / records.CONFIG).write_text(json.dumps(config))
    before = times(copied.out)
    code, printed = fails(capsys, *copied.command)
    assert code == 2
    assert "expected runs with the settings of their presets, got others in 1 of 8 folders" in printed
    assert "model.granularity: None → channel; " in printed
    assert before.items() <= times(copied.out).items()


def test_two_records_of_one_run_that_disagree_are_refused(copied: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.out / "paper" / "mnist-1000" / "tiny" / "plain" / "seed-1"
    twin = folder.with_name("seed-1-again")
    shutil.copytree(folder, twin)
    printed_by(*copied.command)
    assert [line["n"] for line in ours(copied.out)] == ["2"] * 4, "a copy counts once"
    final = json.loads((twin / records.FINAL).read_text())
    final["metrics"]["error"] += 1
    metrics = (twin / records.METRICS).read_text().splitlines()
    values = dict(zip(metrics[0].split(","), metrics[-1].split(","), strict=True))
    values["error"] = str(final["metrics"]["error"])
    (twin / records.METRICS).write_text("\n".join([*metrics[:-1], ",".join(values.values())]) + "\n")
    (twin / records.FINAL).write_text(json.dumps(final))
    code, printed = fails(capsys, *copied.command)
    assert code == 1
    assert f"two records of one run disagree: {folder} has" in printed
    assert str(twin) in printed


def test_a_cell_that_fails_leaves_the_others(copied: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.out / "paper" / "mnist-all" / "tiny" / "plain"
    shutil.rmtree(folder)
    folder.write_text("a file where a folder should be")
    capsys.readouterr()
    code, printed = fails(capsys, *copied.command)
    assert code == 1
    assert "error: 2 of 8 runs failed; the others are finished" in printed
    assert f"{folder / 'seed-0'}: cannot write" in printed
    found = {(line["method"], line["labels"]): line["n"] for line in ours(copied.out)}
    assert found == {("plain", "1000"): "2", ("vadd-kl", "1000"): "2", ("vadd-kl", "60000"): "2"}


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
    assert printed.startswith("stopped; the same command resumes")
    found = [(line["method"], line["labels"], line["n"]) for line in ours(tmp_path)]
    assert found == [("plain", "1000", "1"), ("vadd-kl", "1000", "1")], "what is finished is shown"


def test_a_row_that_was_asked_for_is_there_before_its_first_run_is(made: Made, copied: Made) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_train", stopped)
        with pytest.raises(SystemExit):
            printed_by(*TABLE1, "--methods", "vadd-qe+vat", "--data", made.data, "--out", copied.out)
    last = lines(copied.out / "table1-tiny.csv")[-1]
    assert (last["row"], last["n"], last["printed"]) == ("VAdD (QE) + VAT, not in Table 1", "0", "")


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

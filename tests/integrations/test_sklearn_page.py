"""What docs/scikit-learn.md and the example show runs, and the records behind its table are what it says."""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import few_label_tables
import few_labels
import pytest

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.integrations import semi_supervised

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scikit-learn.md").read_text()


def test_the_blocks_of_the_page_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    exec("\n".join(blocks), names)
    assert (names["predicted"] == names["classes"][150:]).mean() > 0.75  # type: ignore[index]
    assert names["probabilities"].shape == (300, 10)  # type: ignore[attr-defined]


def test_the_page_lists_every_method() -> None:
    table = PAGE.split("## Methods")[1].split("##")[0]
    listed = re.findall(r'`"([a-z-]+)"`', "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    assert set(listed) == {"plain", *semi_supervised.METHODS}


def test_the_example_prints_what_unlabelled_rows_bring() -> None:
    script = ROOT / "examples" / "sklearn_table.py"
    assert len(script.read_text().splitlines()) < 120
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    found = dict(re.findall(r"^(\S+): accuracy (0\.\d{3}) with 60 labels of 1,198 rows$", done.stdout, re.MULTILINE))
    assert list(found) == ["plain", "vat", "vadd-qe"]
    assert float(found["vadd-qe"]) > float(found["plain"])


def test_the_study_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--only", "iris", "--seeds", "0", "--tuning-seeds", "100", "--methods", "label spreading", "vadd-kl"]
    monkeypatch.setattr(sys, "argv", ["few_labels.py", "--out", str(tmp_path), *arguments])
    monkeypatch.setattr(few_labels, "STEPS", 4)
    few_labels.main()
    record = read_json(tmp_path / "iris.json")
    assert record["data"] == {"name": "iris", "rows": 100, "labels": 10, "test_rows": 50}
    assert all(len(run["tried"]) == 4 and len(run["accuracies"]) == 1 for run in record["methods"].values())


def test_the_records_are_complete_and_chosen_on_validation() -> None:
    records = [read_json(path) for path in (ROOT / "results" / "few-labels").glob("*.json")]
    assert {record["data"]["name"] for record in records} == set(few_label_tables.DATA)
    for record in records:
        assert set(record["methods"]) == set(few_label_tables.METHODS) == set(few_labels.METHODS)
        assert not set(record["seeds"]) & set(record["tuning_seeds"])
        assert not record["environment"]["commit"].endswith("+")
        for name, run in record["methods"].items():
            assert [one["setting"] for one in run["tried"]] == few_labels.METHODS[name].settings
            means = [statistics.fmean(one["validation_accuracies"]) for one in run["tried"]]
            assert run["setting"] == run["tried"][means.index(max(means))]["setting"]


def test_what_the_page_says_of_the_table() -> None:
    runs = few_label_tables.recorded()
    mean = {cell: statistics.fmean(run["accuracies"]) for cell, run in runs.items()}
    spread = {cell: statistics.stdev(run["accuracies"]) for cell, run in runs.items()}

    def best(data: str) -> str:
        return max(few_label_tables.METHODS, key=lambda method: mean[method, data])

    def gain(method: str, data: str, over: str = "plain") -> float:
        return mean[method, data] - mean[over, data]

    for data in few_label_tables.DATA:
        clear = gain("vadd-kl", data) > max(spread["vadd-kl", data], spread["plain", data])
        assert clear == (data in ("digits", "Rotten Tomatoes")), data
        assert (gain("vadd-qe", data, "vadd-kl") > 0) == (data == "iris")
    assert gain("vadd-kl", "wine") > 2
    assert gain("vadd-kl", "iris") < -2
    assert max(abs(gain("vadd-kl", data)) for data in ("breast cancer", "two moons")) < 1
    assert gain("vat", "two moons") > 3
    assert {best(data) for data in ("iris", "wine", "two moons")} == {"label spreading"}
    assert best("digits") == "vat"
    on_sentences = sorted(few_label_tables.METHODS, key=lambda method: mean[method, "Rotten Tomatoes"])
    assert on_sentences[0] == "label spreading"
    one_layer = [method for method in on_sentences if "two" not in method]
    assert one_layer[-3:] == ["vadd-kl", "vadd-kl+vat", "pi"]
    assert (
        mean["logistic regression", "breast cancer"]
        >= max(mean[method, "breast cancer"] for method in few_label_tables.METHODS[3:]) - 1e-9
    )

"""Confusions, calibration and mistakes, beside slow loops and values by hand."""

import io
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.evaluate import Evaluate
from adversarial_dropout.experiments.results.figures import best_classifier, draw_confusion
from adversarial_dropout.experiments.results.summary import summarise
from adversarial_dropout.experiments.trained.classification import Classification, calibration
from adversarial_dropout.experiments.trained.classification import expected_calibration_error as ece

from .. import small_data
from ..calling import fails, printed_by
from ..pictures import plain, write

CLASSES = ("a", "b", "c")
PROBABILITIES = torch.tensor(
    [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9], [0.9, 0.05, 0.05], [0.3, 0.3, 0.4]], dtype=torch.float64
)
LABELS = torch.tensor([0, 0, 2, 1, 1])


def compared(probabilities: Tensor = PROBABILITIES, labels: Tensor = LABELS) -> Classification:
    rows = torch.arange(len(labels)) * 10
    classes = CLASSES if probabilities.shape[1] == 3 else tuple(f"class {n}" for n in range(probabilities.shape[1]))
    return Classification.of(probabilities, labels, classes, rows, tuple(f"{int(row)}.png" for row in rows))


def slow_ece(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """Guo et al., eq. 3, a sum over bins ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = []
        for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
            best = max(row)
            if Fraction(m - 1, bins) < Fraction(best) <= Fraction(m, bins):
                inside.append((best, row.index(best) == label))
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = math.fsum(best for best, _ in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return 100 * total


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize("classes", [2, 7])
def test_ece_beside_its_definition(bins: int, classes: int) -> None:
    probabilities = (3 * torch.randn(400, classes, dtype=torch.float64)).softmax(dim=1)
    labels = torch.randint(classes, (400,))
    assert ece(calibration(probabilities, labels, bins)) == pytest.approx(slow_ece(probabilities, labels, bins))


def test_ece_by_hand() -> None:
    # Confidences 0.8, 0.7, 0.9, 0.9, 0.4; right, wrong, right, wrong, wrong. One bin: 40 % right of 74 %.
    assert ece(calibration(PROBABILITIES, LABELS, 1)) == pytest.approx(34)
    # (2/3, 11/15]: one of 0.7, wrong. (11/15, 12/15]: 0.8, right. (13/15, 14/15]: 0.9, one of two. (5/15, 6/15]: 0.4.
    assert ece(calibration(PROBABILITIES, LABELS)) == pytest.approx(100 * (0.7 + 0.2 + 2 * 0.4 + 0.4) / 5)
    halves = calibration(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), 2)
    assert [part.examples for part in halves] == [1, 0], "a bin has its upper limit"
    sure = torch.eye(3, dtype=torch.float64)
    assert ece(calibration(sure, torch.arange(3))) == 0
    assert ece(calibration(sure, torch.tensor([1, 2, 0]))) == 100
    bins = calibration(sure, torch.arange(3))
    assert (bins[-1].examples, bins[-1].confidence, bins[-1].accuracy) == (3, 100, 100)
    assert [part.examples for part in bins[:-1]] == [0] * 14
    assert (bins[0].low, bins[-1].high) == (0, 1)


def test_confusions_and_mistakes() -> None:
    made = compared()
    assert made.confusion == ((1, 1, 0), (1, 0, 1), (0, 0, 1)), "true classes in rows"
    assert made.confusions == [("a", "b", 1), ("b", "a", 1), ("b", "c", 1)]
    assert [(one.image, one.row, one.label, one.predicted) for one in made.mistakes] == [
        ("30.png", 30, "b", "a"),
        ("10.png", 10, "a", "b"),
        ("40.png", 40, "b", "c"),
    ]
    assert [one.probability for one in made.mistakes] == [0.9, 0.7, 0.4]
    assert [made.accuracy, made.confidence] == pytest.approx([40, 74])
    assert made.frequent(1).rows == [("a", "b", 1, "50.0")]
    plain = json.loads(json.dumps(made.to_dict(2)))
    assert plain["confusion"] == {"classes": ["a", "b", "c"], "images": [[1, 1, 0], [1, 0, 1], [0, 0, 1]]}
    assert plain["calibration"]["ece"] == pytest.approx(42)
    assert len(plain["calibration"]["bins"]) == 15
    assert plain["mistakes"][0] == {
        "image": "30.png", "row": 30, "label": "b", "predicted": "a", "probability": 0.9
    }  # fmt: skip
    assert len(plain["mistakes"]) == 2


def shown(made: Classification, width: int) -> str:
    console = Console(width=width, record=True, quiet=False, file=io.StringIO())
    Evaluate(run_folder=Path("run"))._show(made, console)
    return console.export_text()


def test_the_matrix_is_shown_where_it_fits() -> None:
    assert "true \\ predicted" in shown(compared(), 80)
    narrow = " ".join(shown(compared(), 20).split())
    assert "true \\ predicted" not in narrow
    assert "most frequent confusions" in narrow
    many = torch.eye(21, dtype=torch.float64).roll(1, 0)
    assert "true \\ predicted" not in shown(compared(many, torch.arange(21)), 1000)
    assert "most frequent confusions" in shown(compared(many, torch.arange(21)), 1000)
    right = shown(compared(torch.eye(21, dtype=torch.float64), torch.arange(21)), 80)
    assert "confusions" not in right
    assert "mistakes" not in right
    assert "expected calibration error 0.00 %: mean confidence 100.00 %, accuracy 100.00 %" in right


@pytest.mark.parametrize("number", [2, 20, 21, 61])
def test_figures_of_any_number_of_classes(number: int) -> None:
    picture = draw_confusion(compared(torch.eye(number, dtype=torch.float64).roll(1, 0), torch.arange(number)))
    assert picture.startswith("<?xml")
    assert picture == draw_confusion(compared(torch.eye(number, dtype=torch.float64).roll(1, 0), torch.arange(number)))


ODD = ("[red]a[/red]", "=1+1", "<script>x</script>", "猫\x1b[31m\u202e$x")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> records.Record:
    """A run on classes and files whose names mean something elsewhere."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "data").mkdir()
    for number, (image, label) in enumerate(small_data.pictures((3, 16, 20), 4, 40)):
        name = "".join(ODD[label].split("/"))
        small_data.write(folder / "data" / name / f"{number}[b]\x1b[2J<i>.png", image)
    printed_by("train", "images", "plain", "--scale", "tiny", "--data", folder / "data", "--out", folder / "runs")
    (record,) = records.find_records(folder / "runs")
    return record


def test_odd_names_are_harmless(odd: records.Record, tmp_path: Path) -> None:
    printed = printed_by("evaluate", odd.folder, "--out", tmp_path / "figures.json", "--mistakes", "1")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["mistakes"]) == 1
    classes = figures["confusion"]["classes"]
    assert sorted(classes) == sorted("".join(name.split("/")) for name in ODD)
    assert all(mistake["image"].startswith(mistake["label"] + "/") for mistake in figures["mistakes"])
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[red]a[red]" in printed
    assert r"猫\x1b[31m\u202e$x" in printed
    printed_by("report", odd.folder, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<i>" not in page
    assert "\x1b" not in page
    assert r"[b]\x1b[2J&lt;i&gt;.png" in page


def test_the_best_run_of_a_group(odd: records.Record) -> None:
    (group,) = summarise([odd])
    best = best_classifier(group)
    assert best is not None
    assert not isinstance(best, str)
    assert best.examples == sum(map(sum, best.compared.confusion)) == 8
    wrong = best.compared.mistakes
    assert len(best.mistakes) == min(8, len(wrong))
    for (picture, words), mistake in zip(best.mistakes, wrong, strict=False):
        assert picture.alt == f"Image of {words}"
        assert f"probability {mistake.probability:.3f}" in words
        assert isinstance(picture.content, bytes)
        assert picture.content[:4] == b"\x89PNG"
    assert "on 8 images, true classes in rows" in best.confusion.alt


def test_an_autoencoder_has_no_classes(tmp_path: Path) -> None:
    printed_by(
        "train", "digits-100", "plain", "--scale", "tiny", "--model.name", "autoencoder", "--out", tmp_path / "runs"
    )
    (record,) = records.find_records(tmp_path / "runs")
    printed = printed_by("evaluate", record.folder, "--out", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()).keys() == {"error", "examples", "classes"}
    assert "calibration" not in printed
    printed_by("report", tmp_path / "runs")
    assert "confuses" not in (tmp_path / "runs" / "report.html").read_text()


def test_mistakes_are_a_number(odd: records.Record, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = fails(capsys, "evaluate", odd.folder, "--mistakes", "-1")
    assert code == 2
    assert "expected mistakes to be a whole number, 0 or more, got -1" in printed
    assert "most confident mistakes" not in printed_by("evaluate", odd.folder, "--mistakes", "0")


def test_evaluating_a_list(odd: records.Record, tmp_path: Path) -> None:
    write(tmp_path / "x.png", plain(9, (20, 16)))
    (tmp_path / "list.csv").write_text("file;label\nx.png;=1+1\n")
    printed_by("evaluate", odd.folder, "--data", tmp_path / "list.csv", "--out", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["classes"].keys() == {"=1+1"}
    assert np.sum(figures["confusion"]["images"]) == 1

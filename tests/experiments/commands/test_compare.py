"""`compare`: from a folder of images to the page that says whether a method is worth it."""

import csv
import io
import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.commands import planning
from adversarial_dropout.experiments.grid.grid import work
from adversarial_dropout.experiments.run import loop

from .. import tiny_backbones
from ..calling import fails, printed_by, rows
from ..results.test_report import Page
from ..runs import record
from ..small_data import FRUIT, image_folder

TINY = ("compare", "--scale", "tiny", "--jobs", "1")
TWO = ("--methods", "vadd-kl", "--seeds", "2")


@dataclass(frozen=True)
class Made:
    """A finished comparison of plain training and VAdD, two seeds each."""

    photos: Path
    out: Path
    printed: str

    @property
    def command(self) -> tuple[object, ...]:
        return (*TINY, *TWO, "--data", self.photos, "--out", self.out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("compare")
    photos = image_folder(root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        printed = printed_by(*TINY, *TWO, "--data", photos, "--out", root / "runs")
    return Made(photos, root / "runs", printed)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*") if path.name != ".lock"}


def errors(out: Path, method: str) -> list[float]:
    """What the runs themselves say."""
    finals = sorted((out / "images" / "tiny" / method).glob("seed-*/final.json"))
    return [json.loads(final.read_text())["metrics"]["error"] for final in finals]


def test_the_table(made: Made) -> None:
    plain, vadd = errors(made.out, "plain"), errors(made.out, "vadd-kl")
    points = [second - first for first, second in zip(plain, vadd, strict=True)]
    shown = {row[0]: row for row in rows(made.printed)}
    assert list(shown) == ["plain", "vadd-kl", "support vector machine", "most frequent class"]
    assert shown["plain"][1] == f"{statistics.fmean(plain):.2f} ± {abs(plain[0] - plain[1]) / math.sqrt(2):.2f}"
    difference = f"{statistics.fmean(points):+.2f} ± {abs(points[0] - points[1]) / math.sqrt(2):.2f}"
    assert shown["vadd-kl"][2:5] == ["2", difference, f"{sum(point < 0 for point in points)} of 2"]
    assert shown["most frequent class"][1] == "66.67 ± 0.00", "of three classes, one is right"
    assert "24 labelled and 6 unlabelled images of 3 classes to learn from, 6 test images" in made.printed
    assert "mean nothing" in made.printed


def test_the_files(made: Made) -> None:
    path = made.out / "compare-tiny"
    (plain, vadd, *_) = csv.DictReader(io.StringIO(path.with_suffix(".csv").read_text()))
    assert float(plain["error"]) == pytest.approx(statistics.fmean(errors(made.out, "plain")))
    assert (vadd["method"], vadd["n"], vadd["outcome"]) == ("vadd-kl", "2", "too few repetitions")
    assert "| vadd-kl |" in path.with_suffix(".md").read_text()
    page = Page(path.with_suffix(".html").read_text())
    assert f"Compared on {made.photos}: 3 classes, 24 labelled and 6 unlabelled images" in page.text
    assert "What the best run confuses" in page.text
    assert any("Confusion matrix" in image["alt"] for image in page.images)
    assert f"page: {path}.html" in made.printed


def test_nothing_is_repeated(made: Made) -> None:
    before, classic = times(made.out), (made.out / "classic" / "tiny" / "seed-0.json").stat().st_mtime_ns
    printed_by(*made.command)
    assert times(made.out) == before
    assert (made.out / "classic" / "tiny" / "seed-0.json").stat().st_mtime_ns == classic
    printed_by(*made.command[:-1], made.out, "--seeds", "1")
    assert times(made.out) == before


def test_a_stopped_one_continues(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell fails: the others are finished and shown, and the same command does the rest."""
    real = loop.run

    def failing(config: object, folder: Path, *arguments: object, **options: object) -> object:
        if folder.parts[-2:] == ("plain", "seed-1"):
            raise RuntimeError("the power is out")
        return real(config, folder, *arguments, **options)  # type: ignore[arg-type]

    command = (*TINY, *TWO, "--data", made.photos, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", failing)
        code, printed = fails(capsys, *command)
    assert code == 1
    assert "1 of 3 runs failed" in printed
    assert "the power is out" in printed
    assert len(errors(tmp_path, "vadd-kl")) == 2
    (plain, vadd, *_) = csv.DictReader(io.StringIO((tmp_path / "compare-tiny.csv").read_text()))
    assert (plain["n"], vadd["n"]) == ("1", "2")
    before = times(tmp_path)
    printed_by(*command)
    after = times(tmp_path)
    assert {path: after[path] for path in before if "plain/seed-1" not in str(path)}.items() <= before.items()
    assert errors(tmp_path, "plain") == errors(made.out, "plain")


def test_settings_are_those_of_all_methods(made: Made, tmp_path: Path) -> None:
    options = ("--data.flip", "--data.resize", "20", "--training.epochs", "1", "--model.delta", "0.2", "--threads", "2")
    printed_by(*TINY, "--data", made.photos, "--out", tmp_path, "--methods", "vadd-kl", "--seeds", "1", *options)
    configs = {run.config.method: run.config for run in records.find_records(tmp_path)}
    assert set(configs) == {"plain", "vadd-kl"}
    for config in configs.values():
        assert (config.data.flip, config.data.resize, config.training.epochs, config.threads) == (True, 20, 1, 2)
    assert configs["vadd-kl"].model.delta == 0.2
    assert configs["plain"].model.delta is None, "it does not search"
    assert configs["vadd-kl"].terms == presets.get("images", "vadd-kl").terms


def test_a_pretrained_backbone(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tiny_backbones.write(tmp_path / "backbone", size=16)
    monkeypatch.chdir(tmp_path)
    command = (*TINY, *TWO, "--data", made.photos, "--out", "out", "--model.name", "pretrained")
    printed = printed_by(*command, "--model.source", "backbone", "--model.delta", "0.2")
    names = [row[0] for row in rows(printed)]
    assert names == ["plain", "vadd-kl", "logistic regression", "self-training", "most frequent class"]
    assert {run.config.model.name for run in records.find_records(tmp_path / "out")} == {"pretrained"}
    assert "What the best run confuses" in (tmp_path / "out" / "compare-tiny.html").read_text()


def test_test_images_and_single_labels(made: Made, tmp_path: Path) -> None:
    photos = image_folder(tmp_path / "photos", each=1)
    test = image_folder(tmp_path / "test", each=4, unlabelled=0, seed=9)
    out = tmp_path / "out"
    printed = printed_by(*TINY, *TWO, "--data", photos, "--test", test, "--out", out)
    assert "3 labelled and 6 unlabelled images of 3 classes to learn from, 12 test images" in printed
    assert "a class has a single label to learn from" in printed
    assert "Some classes have a single label to learn from" in (out / "compare-tiny.html").read_text()


def test_a_folder_may_have_the_name_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not replaced by the data set of that name."""
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "digits")
    printed_by("train", "images", "plain", "--scale", "tiny", "--data", "digits", "--out", "out")
    (run,) = records.find_records(tmp_path / "out")
    assert run.final["data"]["classes"] == list(FRUIT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected images to train on: give --data FOLDER"),
        (("--data", "nowhere"), "nowhere"),
        (("--methods", "vadd-lk"), 'expected methods to be one of .*, got \'vadd-lk\'; did you mean "vadd-kl"'),
        (("--methods", "plain"), "expected a method beside plain training, such as vadd-kl, got none"),
        (("--seeds", "0"), "expected seeds to be a whole number, 1 or more, got 0"),
        (("--minutes", "0"), "expected minutes to be finite and above 0"),
        (("--scale", "long"), "expected scale to be one of tiny, quick, paper, got 'long'"),
        (("--model.name", "autoencoder"), "expected terms for a network that learns images"),
        (("--model.name", "resnet"), "resnet"),
        (("--data.labelled", "7"), "expected data.labelled to be a multiple of the 3 classes"),
        (("--data.labelled", "300"), "expected 100 labelled examples of each class"),
        (("--data.resize", "2"), "expected"),
        (("--training.beta1-end", "0.5", "--training.ramp-down", "0"), "expected training.beta1_end=None, because"),
    ],
)  # fmt: skip
def test_mistakes_of_the_user(
    arguments: tuple[str, ...], message: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = () if not arguments or arguments[0] == "--data" else ("--data", made.photos)
    code, printed = fails(capsys, *TINY, *data, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert re.search(message, printed), printed
    assert not list((tmp_path / "out").rglob("seed-*")), "nothing is trained"


def test_a_single_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = image_folder(tmp_path / "photos", ("apple",))
    code, printed = fails(capsys, *TINY, "--data", photos, "--out", tmp_path / "out")
    assert code == 2
    assert "expected labelled images of two classes or more" in printed
    one_each = image_folder(tmp_path / "one", each=1)
    code, printed = fails(capsys, *TINY, "--data", one_each, "--out", tmp_path / "out")
    assert code == 2
    assert "got none besides the 3 test images; add labels, two for each class at least" in printed
    assert not (tmp_path / "out").exists()


def test_a_list_that_forgets_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = image_folder(tmp_path / "photos")
    named = sorted(photos.rglob("*.png"))[1:]
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in named]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *lines]))
    code, printed = fails(capsys, *TINY, "--data", tmp_path / "list.csv", "--out", tmp_path / "out")
    assert code == 2
    assert "--skip-unlisted" in printed
    assert not (tmp_path / "out").exists()


def test_runs_of_other_settings_or_images(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(made.out)
    code, printed = fails(capsys, *made.command, "--training.epochs", "1")
    assert code == 2
    assert (
        "expected runs with the settings that are asked for, got others in 4 of 4 folders (asked for → run)" in printed
    )
    assert "training.epochs: 1 → 2" in printed
    other = image_folder(tmp_path / "other", seed=8)
    renamed = made.photos.rename(made.photos.with_name("moved"))
    try:
        other.rename(made.photos)
        code, printed = fails(capsys, *made.command)
    finally:
        made.photos.rename(other)
        renamed.rename(made.photos)
    assert code == 2
    assert "holds a run on other data" in printed
    assert times(made.out) == before


def test_the_time_of_a_run() -> None:
    plain, vadd, both = (presets.get("images", method) for method in ("plain", "vadd-kl", "vadd-kl+vat"))
    assert work(plain) < work(vadd) < work(both)

    def measured(method: str, seconds: float) -> records.Record:
        made = record("plain", 1.0, seconds=seconds)
        return records.Record(made.folder, presets.get("images", method), made.metrics, made.final)

    runs = [measured("plain", 10.0), measured("plain", 20.0), measured("vadd-kl", 45.0)]
    slope = 30.0 / (work(vadd) - work(plain))
    assert planning.seconds_of_run(both, runs) == pytest.approx(15.0 + slope * (work(both) - work(plain)))
    assert planning.seconds_of_run(vadd, runs) == pytest.approx(45.0)
    assert planning.seconds_of_run(both, runs[:1]) == pytest.approx(10.0 * work(both) / work(plain))
    quicker = [measured("plain", 10.0), measured("vadd-kl", 5.0)]
    assert planning.seconds_of_run(both, quicker) == pytest.approx(10.0), "more work does not take less time"


def test_what_fits() -> None:
    seconds = {"plain": 100.0, "pi": 150.0, "vat": 400.0, "vadd-kl": 300.0, "vadd-kl+vat": 250.0}
    order = ("vadd-kl", "vadd-kl+vat", "pi", "vat")
    assert planning.that_fit(seconds, 600, order, ("plain", "vadd-kl")) == (
        ["plain", "vadd-kl", "pi"],
        ["vadd-kl+vat", "vat"],
    )
    assert planning.that_fit(seconds, 5, order, ("plain",))[0] == ["plain"]
    assert planning.that_fit(seconds, 1200, order) == (["vadd-kl", "vadd-kl+vat", "pi", "vat"], [])


def test_methods_that_take_too_long_are_left_out(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    command = (*TINY, "--data", made.photos, "--out", tmp_path, "--seeds", "1", "--minutes", "0.0001")
    printed = printed_by(*command)
    assert [row[0] for row in rows(printed)][:2] == ["plain", "vadd-kl"]
    assert re.search(r"Left out, .* than 0.0001 minutes: pi \(about \d+ seconds\), vadd-kl\+vat \(about", printed)
    assert "smaller images are quicker: --data.resize 32" in printed
    assert "Left out, because" in (tmp_path / "compare-tiny.html").read_text()
    assert {run.config.method for run in records.find_records(tmp_path)} == {"plain", "vadd-kl"}

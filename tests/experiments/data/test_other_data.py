"""A run belongs to the data it was trained on, and its folder to it alone."""

import json
from pathlib import Path

import pytest

from adversarial_dropout.experiments import records

from .. import small_data
from ..calling import fails, printed_by

TRAIN = ("train", "images", "plain", "--scale", "tiny")
RUN = Path("images", "tiny", "plain", "seed-0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return small_data.image_folder(tmp_path / "photos", each=5, unlabelled=4, shape=(3, 16, 16))


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    printed_by(*TRAIN, "--data", photos, "--out", tmp_path / "runs")
    return tmp_path / "runs" / RUN


def test_a_finished_run_says_so(run: Path, photos: Path) -> None:
    before = (run / records.FINAL).stat().st_mtime_ns
    assert "of 3 images after 2 epochs" in (printed := printed_by(*TRAIN, "--data", photos, "--out", run.parents[3]))
    assert "(trained before)" in printed
    assert (run / records.FINAL).stat().st_mtime_ns == before


def test_images_that_came_later_are_not_passed_over(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = next(iter(small_data.pictures((3, 16, 16), 3, 1, seed=9)))
    small_data.write(photos / "apple" / "new.png", image)
    code, said = fails(capsys, *TRAIN, "--data", photos, "--out", run.parents[3])
    assert code == 2
    assert f"{run} holds a run on other data" in said
    assert "another folder with --out, or delete this one" in said
    code, said = fails(capsys, "evaluate", run)
    assert code == 2
    assert "expected the data that" in said


def test_moved_data_are_the_same_data(run: Path, photos: Path) -> None:
    """Given by their new location, the error is again that of the evaluation part."""
    own = printed_by("evaluate", run)
    moved = photos.rename(photos.with_name("moved"))
    assert printed_by("evaluate", run, "--data", moved) == own
    assert "of 3 images" in own


def test_an_export_does_not_overwrite_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / records.CONFIG).read_bytes()
    code, said = fails(capsys, "export", run, "--out", run)
    assert code == 2
    assert f"expected a folder for the export alone, got {run}" in said
    assert (run / records.CONFIG).read_bytes() == before


@pytest.mark.parametrize("name", [records.SPLIT, records.LOCATION])
@pytest.mark.parametrize("content", ["{}", '{"labelled": 3, "folder": 4, "skip_bad_images": 5}', "no JSON"])
def test_a_damaged_file_is_named(name: str, content: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).write_text(content)
    code, said = fails(capsys, "evaluate", run)
    assert code == 1
    assert f"cannot read {run / name}: it is damaged or incomplete" in said


def test_a_description_of_the_data_that_is_damaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = json.loads((run / records.FINAL).read_text())
    del final["data"]["shape"]
    (run / records.FINAL).write_text(json.dumps(final))
    code, said = fails(capsys, "predict", run, run)
    assert code == 1
    assert f"cannot read {run / records.FINAL}" in said


def test_nothing_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, *TRAIN, "--out", tmp_path)
    assert code == 2
    assert "give --data FOLDER" in said


def test_one_column_has_one_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("reproduce", "table1", "--scale", "tiny", "--methods", "plain", "--presets", "paper/mnist-1000")
    for seeds, train in ((1, 12), (2, 13)):
        data = small_data.hub_files(tmp_path / f"data-{seeds}", "mnist", train=train)
        command = (*asked, "--jobs", 1, "--seeds", seeds, "--out", tmp_path / "runs", "--data", data)
        if seeds == 1:
            printed_by(*command)
    code, said = fails(capsys, *command)
    assert code in (1, 2)
    assert "holds a run on other data" in said

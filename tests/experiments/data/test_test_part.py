"""``--test``: the test part in a folder or list of its own."""

import json
from pathlib import Path

import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData

from .. import small_data
from ..calling import fails, printed_by
from ..pictures import images as column
from ..pictures import plain, write, write_all, write_parquet


def load(folder: Path, test: Path) -> ImageData:
    return sources.load(DataConfig(name="images"), DataLocation(folder, test=test))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write_all(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png", "unlabeled/4.png")
    return tmp_path / "pets"


def test_all_others_are_for_training(pets: Path, tmp_path: Path) -> None:
    write(tmp_path / "held" / "dog" / "x.png", plain(50))
    write(tmp_path / "held" / "dog" / "y.png", plain(51))
    data = load(pets, tmp_path / "held")
    assert data.images[data.test][:, 0, 0, 0].tolist() == [50, 51]
    assert data.labels[data.test].tolist() == [1, 1], "by name, though it is the only class there"
    assert data.images[data.training][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert data.labels[data.training].tolist() == [0, 0, 1, 1, -1]
    assert [data.name(int(row)) for row in data.test] == ["dog/x.png", "dog/y.png"]
    again = load(pets, tmp_path / "held")
    assert (again.digest, again.names) == (data.digest, data.names), "from the cache"
    write(tmp_path / "held" / "dog" / "y.png", plain(52))
    assert load(pets, tmp_path / "held").digest != data.digest
    assert sources.load(DataConfig(name="images"), DataLocation(pets)).digest != data.digest


def test_lists_and_parquet(pets: Path, tmp_path: Path) -> None:
    write(tmp_path / "t" / "x.png", plain(50))
    (tmp_path / "t" / "list.csv").write_text("file;class\nx.png;dog\n")
    write_parquet(tmp_path / "p" / "train.parquet", image=column(60, 61), label=["dog", "cat"])
    for test, values, labels in ((tmp_path / "t" / "list.csv", [50], [1]), (tmp_path / "p", [60, 61], [1, 0])):
        data = load(pets, test)
        assert data.images[data.test][:, 0, 0, 0].tolist() == values
        assert data.labels[data.test].tolist() == labels


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bird/1.png", "cat/2.png"], "test images of the classes cat, dog, got bird too in .*held, which no training"),
        (["cat/1.png", "unlabeled/2.png"], "a label of each test image, got 1 without one in .*such as .*/2.png"),
        (["train/cat/1.png", "test/cat/2.png"], "expected one part, the test images, in .*got test, train; give a"),
    ],
)
def test_bad_test_parts(names: list[str], message: str, pets: Path, tmp_path: Path) -> None:
    write_all(tmp_path / "held", *names)
    with pytest.raises(InvalidValueError, match=message):
        load(pets, tmp_path / "held")


def test_data_that_have_a_test_part(tmp_path: Path) -> None:
    write_all(tmp_path / "pets", "train/cat/1.png", "train/dog/2.png", "test/dog/3.png")
    write_all(tmp_path / "held", "cat/1.png", "dog/2.png")
    with pytest.raises(InvalidValueError, match=r"no test part in the data with --test .*held, got one; leave --test"):
        load(tmp_path / "pets", tmp_path / "held")
    with pytest.raises(InvalidValueError, match="no --test for digits"):
        sources.load(DataConfig(), DataLocation(test=tmp_path / "held"))


def test_no_image_is_in_both(pets: Path) -> None:
    (pets.parent / "held" / "cat").mkdir(parents=True)
    (pets.parent / "held" / "cat" / "link.png").symlink_to(pets / "dog" / "2.png")
    with pytest.raises(InvalidValueError, match=r"not among the training images in .*pets, got 1 that are, such as"):
        load(pets, pets.parent / "held")


def test_later_commands_find_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_data.image_folder(tmp_path / "data")
    test = small_data.image_folder(tmp_path / "held", ("pear", "apple"), each=4, unlabelled=0, seed=9)
    arguments = ("train", "images", "plain", "--scale", "tiny", "--data", data, "--out", tmp_path / "runs")
    assert "of 8 images" in " ".join(printed_by(*arguments, "--test", test).split())
    (run,) = records.find_records(tmp_path / "runs")
    assert json.loads((run.folder / records.LOCATION).read_text()) == {
        "folder": str(data),
        "test": str(test),
        "skip_bad_images": False,
    }
    assert "of 8 images" in printed_by("evaluate", run.folder, "--out", tmp_path / "own.json")
    names = {mistake["image"] for mistake in json.loads((tmp_path / "own.json").read_text())["mistakes"]}
    assert names <= {f"{path.parent.name}/{path.name}" for path in test.glob("*/*.png")}
    printed_by("evaluate", run.folder, "--data", data, "--out", tmp_path / "same.json")
    assert (tmp_path / "same.json").read_text() == (tmp_path / "own.json").read_text(), "never on training images"
    printed_by("report", tmp_path / "runs")
    code, printed = fails(capsys, *arguments)
    assert code == 2
    assert "holds a run on other data" in printed
    data, test = data.rename(tmp_path / "moved"), test.rename(tmp_path / "moved-test")
    printed_by("evaluate", run.folder, "--data", data, "--test", test, "--out", tmp_path / "moved.json")
    assert (tmp_path / "moved.json").read_text() == (tmp_path / "own.json").read_text()
    code, printed = fails(capsys, "evaluate", run.folder, "--test", test)
    assert code == 2
    assert "expected --test only with --data" in printed


def test_a_class_that_training_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_data.image_folder(tmp_path / "data")
    test = small_data.image_folder(tmp_path / "held", ("pear", "kiwi"), each=2, unlabelled=0)
    code, printed = fails(
        capsys,
        *("train", "images", "plain", "--scale", "tiny", "--data", data, "--test", test, "--out", tmp_path / "r"),
    )
    assert code == 2
    assert "expected test images of the classes apple, cherry, pear, got kiwi too" in printed
    assert not list(tmp_path.glob("r/**/*.csv"))


def test_locations_are_absolute_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert DataLocation(Path("a"), True, Path("b")).absolute() == DataLocation(tmp_path / "a", True, tmp_path / "b")
    assert DataLocation().absolute() == DataLocation()
    assert DataLocation(test=Path("b")).paths == (Path("b"),)
    DataLocation(test=Path("b")).note(tmp_path)
    assert DataLocation.of_run(tmp_path) == DataLocation(test=tmp_path / "b")

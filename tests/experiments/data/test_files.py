"""Data on this machine: which files are images or parquet, of which split and class, and when they have changed."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data import files
from adversarial_dropout.experiments.data.files import Files
from adversarial_dropout.experiments.records import RecordError

from ..pictures import images, write, write_all, write_parquet


def layout(origin: Files) -> dict[str, dict[str, str | None]]:
    """Class by path, by split."""
    assert origin.classes is not None
    return {
        split: {path.relative_to(origin.folder).as_posix(): origin.classes.get(path) for path in paths}
        for split, paths in origin.splits.items()
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["dogs/1.png", "cats/2.png"], {"train": {"cats/2.png": "cats", "dogs/1.png": "dogs"}}),
        (
            ["Train/a/1.png", "Train/b/2.png", "TEST/a/3.png"],
            {"test": {"TEST/a/3.png": "a"}, "train": {"Train/a/1.png": "a", "Train/b/2.png": "b"}},
        ),
        (
            ["train/a/1.png", "train/b/2.png", "val/b/3.png", "unlabeled/4.png", "unlabeled/deep/er/5.png"],
            {
                "train": {"train/a/1.png": "a", "train/b/2.png": "b"},
                "unlabeled": {"unlabeled/4.png": None, "unlabeled/deep/er/5.png": None},
                "val": {"val/b/3.png": "b"},
            },
        ),
        (
            ["a/1.png", "b/2.png", "Unlabelled/3.png"],
            {"train": {"Unlabelled/3.png": None, "a/1.png": "a", "b/2.png": "b"}},
        ),
        (
            ["train/a/1.png", "train/unlabeled/2.png", "test/b/3.png"],
            {"test": {"test/b/3.png": "b"}, "train": {"train/a/1.png": "a", "train/unlabeled/2.png": None}},
        ),
        # The class is the uppermost folder: the same name deeper down is no class.
        (["a/x/1.png", "a/2.png", "b/x/y/3.png"], {"train": {"a/2.png": "a", "a/x/1.png": "a", "b/x/y/3.png": "b"}}),
        # Folders around all of it.
        (["all/of/it/a/1.png", "all/of/it/b/2.png"], {"train": {"a/1.png": "a", "b/2.png": "b"}}),
        # Means of transport, not a split.
        (["bus/1.png", "train/2.png"], {"train": {"bus/1.png": "bus", "train/2.png": "train"}}),
        (["control/1.png", "test/2.png"], {"train": {"control/1.png": "control", "test/2.png": "test"}}),
        (["only/1.png", "only/2.png"], {"train": {"only/1.png": "only", "only/2.png": "only"}}),
    ],
)
def test_classes_and_splits_by_folder(
    names: list[str], expected: dict[str, dict[str, str | None]], tmp_path: Path
) -> None:
    write_all(tmp_path, *names)
    assert layout(files.find(tmp_path)) == expected


@pytest.mark.parametrize(
    ("names", "count", "first"),
    [
        (["1.png", "2.png"], 2, "1.png"),
        (["a/1.png", "b/2.png", "3.png"], 1, "3.png"),
        (["train/a/1.png", "train/b/2.png", "train/3.png", "train/4.png"], 2, "train/3.png"),
        (["train/a/1.png", "train/b/2.png", "test/3.png"], 1, "test/3.png"),
        (["train/a/1.png", "train/b/2.png", "3.png"], 1, "3.png"),
        (["unlabeled/1.png", "2.png"], 1, "2.png"),
    ],
)
def test_an_image_in_no_class_folder(names: list[str], count: int, first: str, tmp_path: Path) -> None:
    write_all(tmp_path, *names)
    message = f"each image in a folder of its class, got {count} outside, such as {tmp_path / first}; make a folder per"
    with pytest.raises(InvalidValueError, match=message):
        files.find(tmp_path)


def test_other_folders_beside_the_splits(tmp_path: Path) -> None:
    write_all(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "more/a/4.png")
    (tmp_path / "notes").mkdir()
    with pytest.raises(InvalidValueError, match=f"beside train/, test/ and unlabeled/ in {tmp_path}, got more; move"):
        files.find(tmp_path)


def test_endings_and_hidden_files(tmp_path: Path) -> None:
    shown = ["a/1.PNG", "a/2.JpEg", "b/3.gif", "b/4.webp", "b/5.TIFF", "b/6.bmp", "b/two.parts.pgm"]
    passed_over = [
        *("a/.7.png", "a/._1.png", ".thumbnails/a/8.png", "b/.cache/9.png", "a/notes.txt", "a/Thumbs.db", "b/l.csv"),
        *("a/weights.h5", "b/manual.pdf", "b/film.mp4", "a/png", "README", "b/archive.png.zip", ".train.parquet"),
    ]
    write_all(tmp_path, *shown, *passed_over)
    assert list(layout(files.find(tmp_path))["train"]) == shown
    assert files.images_in(tmp_path) == [tmp_path / name for name in shown]


def test_any_name_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my [set] of 100%"
    names = ["Ätna und Öl/bild 1.png", "[a-z]*?/x.png", "猫/é.png"]
    write_all(folder, *names)
    assert {path: name.split("/")[0] for path, name in zip(names, names, strict=True)} == layout(files.find(folder))[
        "train"
    ]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_all(tmp_path / "pool", "1.png", "inner/2.png")
    write_all(tmp_path / "data", "b/3.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "pool")
    (tmp_path / "data" / "b" / "4.png").symlink_to(tmp_path / "pool" / "1.png")
    (tmp_path / "data" / "b" / "up").symlink_to("..")
    (tmp_path / "pool" / "inner" / "back").symlink_to(tmp_path / "data")
    assert layout(files.find(tmp_path / "data")) == {
        "train": {"a/1.png": "a", "a/inner/2.png": "a", "b/3.png": "b", "b/4.png": "b"}
    }


def test_a_broken_link_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    write_all(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "3.png").symlink_to(tmp_path / "gone.png")
    origin = files.find(tmp_path)
    assert "b/3.png" in layout(origin)["train"]
    assert origin.identity == files.find(tmp_path).identity


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("train.parquet", "train"),
        ("Train_3.PARQUET", "train"),
        ("test-00000-of-00001.parquet", "test"),
        ("test_1.parquet", "test"),
        ("test2.parquet", "test"),
        ("validation.parquet", "validation"),
        ("unlabeled.parquet", "unlabeled"),
        ("extra-00000-of-00001.parquet", "extra"),
        ("mine.parquet", "train"),
        ("testimonies.parquet", "train"),
        ("0000.parquet", "train"),
        ("test/0000.parquet", "test"),
        ("train/test.parquet", "train"),
    ],
)
def test_splits_of_parquet_files(name: str, split: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / name, image=images(1), label=[0])
    assert files.find(tmp_path) == Files(tmp_path, {split: [path]})


@pytest.mark.parametrize(
    "inner", ["", "data", "plain_text", "set", "set/data", "set/plain_text", "set/what/ever", "what/ever"]
)
def test_places_of_parquet_files(inner: str, tmp_path: Path) -> None:
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    paths = [write_parquet(tmp_path / inner / name, image=images(1), label=[0]) for name in names]
    assert files.find(tmp_path, "set", "plain_text") == Files(tmp_path / inner, {"train": paths})


def test_the_named_one_of_several_sets(tmp_path: Path) -> None:
    for name in ("one/plain/train.parquet", "two/plain/train.parquet"):
        write_parquet(tmp_path / name, image=images(1), label=[0])
    assert files.find(tmp_path, "two").folder == tmp_path / "two" / "plain"
    message = f"expected one data set in {tmp_path}, got parquet files in {tmp_path / 'one/plain'}, {tmp_path / 'two'}"
    with pytest.raises(InvalidValueError, match=f"{message}/plain; give one of these folders"):
        files.find(tmp_path, "three")
    write_all(tmp_path / "two" / "pictures", "a/1.png", "b/2.png")
    assert set(layout(files.find(tmp_path / "two" / "pictures"))["train"].values()) == {"a", "b"}
    assert set(layout(files.find(tmp_path / "two", "pictures"))["train"].values()) == {"a", "b"}


@pytest.mark.parametrize(("inner", "other"), [("data", "old"), ("plain_text", "zebras"), ("set/data", "data2")])
def test_a_usual_place_comes_before_others(inner: str, other: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / inner / "train.parquet", image=images(1), label=[0])
    write_parquet(tmp_path / other / "train.parquet", image=images(1), label=[0])
    write_all(tmp_path / "images", "a/1.png", "b/2.png")
    assert files.find(tmp_path, "set", "plain_text") == Files(tmp_path / inner, {"train": [path]})


def test_the_named_one_of_several_folders_of_images(tmp_path: Path) -> None:
    write_all(tmp_path, "one/a/1.png", "one/b/2.png", "two/c/3.png", "two/d/4.png")
    assert layout(files.find(tmp_path, "two")) == {"train": {"c/3.png": "c", "d/4.png": "d"}}
    assert set(layout(files.find(tmp_path, "three"))["train"].values()) == {"one", "two"}


def test_images_come_before_a_table_further_down(tmp_path: Path) -> None:
    write_all(tmp_path, "a/1.png", "b/2.png")
    write_parquet(tmp_path / "a" / "features" / "x.parquet", feature=[1.0])
    assert files.find(tmp_path).classes is not None


@pytest.mark.parametrize("content", [[], ["notes.txt", "a/b/data.csv"], [".hidden/a/1.png", "a/.1.png"]])
def test_nothing_to_find(content: list[str], tmp_path: Path) -> None:
    write_all(tmp_path, *content)
    message = (
        f"expected images or parquet files in {tmp_path}, got neither; give a folder with train-.*folder of images"
    )
    with pytest.raises(InvalidValueError, match=message):
        files.find(tmp_path, "set")


def test_no_folder(tmp_path: Path) -> None:
    text = write(tmp_path / "notes.txt", b"cats and dogs")
    with pytest.raises(InvalidValueError, match=f"expected a folder of images .*, got {text}, which is a file"):
        files.find(text)
    with pytest.raises(InvalidValueError, match=f"expected a folder of images .*, got {tmp_path / 'x'}, which is not"):
        files.find(tmp_path / "x")


def test_a_folder_that_must_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, "a/1.png", "b/2.png")
    real = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:
        if folder.name == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(RecordError, match=f"cannot read {tmp_path / 'b'}: Permission denied; make it readable"):
        files.find(tmp_path)


def test_the_same_files_have_the_same_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path / "data", "a/1.png", "b/2.png")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    same = [files.find(Path(name)).identity for name in (tmp_path / "data", "data", "./data/../data", "link")]
    assert set(same) == {files.find(tmp_path / "data").identity}


def replaced(path: Path) -> None:
    """Other content of the same size, and the time of the old one, as unpacking an archive again leaves it."""
    old = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("change", ["content", "longer", "added", "removed", "renamed"])
def test_changed_files_have_another_identity(change: str, parquet: bool, tmp_path: Path) -> None:
    if parquet:
        paths = [
            write_parquet(tmp_path / name, image=images(1), label=[0]) for name in ("train-0.parquet", "u.parquet")
        ]
    else:
        paths = write_all(tmp_path, "a/1.png", "b/2.png")
    before = files.find(tmp_path).identity
    other = paths[0].with_stem("other")
    match change:
        case "content":
            replaced(paths[0])
        case "longer":
            paths[0].write_bytes(paths[0].read_bytes() + b"\0")
        case "added":
            other.write_bytes(paths[0].read_bytes())
        case "removed":
            paths[0].unlink()
        case "renamed":
            paths[0].rename(other)
    assert files.find(tmp_path).identity != before


def test_links_that_change_their_class_have_another_identity(tmp_path: Path) -> None:
    write_all(tmp_path, "pool/1.png", "data/a/2.png", "data/b/3.png")
    link = tmp_path / "data" / "a" / "link.png"
    link.symlink_to(tmp_path / "pool" / "1.png")
    before = files.find(tmp_path / "data").identity
    link.rename(tmp_path / "data" / "b" / "link.png")
    assert files.find(tmp_path / "data").identity != before

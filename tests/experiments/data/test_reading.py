"""Reading folders and parquet files: images, labels and classes, and an error for each kind of bad input."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data import files
from adversarial_dropout.experiments.data.pictures import Form
from adversarial_dropout.experiments.data.sources import ImageData, read
from adversarial_dropout.experiments.records import RecordError

from ..pictures import as_tensor, encoded, images, noise, plain, write, write_all, write_parquet


def values(data: ImageData) -> list[int]:
    """What the plain images were, each still of one value."""
    first = data.images.flatten(1)[:, :1]
    assert (data.images.flatten(1) == first).all()
    return [int(value) for value in first]


def read_table(folder: Path, form: Form | None = None, **columns: Any) -> ImageData:
    """Read a table; its images are plain ones, numbered, unless it says otherwise."""
    rows = len(next(iter(columns.values())))
    write_parquet(folder / "train.parquet", **{"image": images(*range(rows)), **columns})
    return read(files.find(folder), form or Form())


def names(data: ImageData) -> list[str | None]:
    """The name of each row's class."""
    return [None if label == -1 else data.classes[label] for label in data.labels.tolist()]


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_all(tmp_path, "train/b/0.png", "train/a/1.png", "train/unlabeled/2.png", "unlabeled/3.png", "test/b/4.png")
    data = read(files.find(tmp_path), Form())
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (5, 1, 4, 4)
    assert data.labels.dtype == data.test.dtype == torch.int64
    assert data.classes == ("a", "b")
    rows = list(zip(values(data), names(data), strict=True))
    assert rows == [(4, "b"), (1, "a"), (0, "b"), (2, None), (3, None)]
    assert data.test.tolist() == [0]
    assert data.bad == ()


def test_two_readings_are_the_same(tmp_path: Path) -> None:
    write_all(tmp_path, *(f"{name}/{index}.png" for name in "dbca" for index in range(5)))
    first, second = (read(files.find(tmp_path), Form()) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert values(first) == [*range(15, 20), *range(5, 15), *range(5)], "folders in order"


@pytest.mark.parametrize("stored", ["bytes", "struct", "struct with a path", "hugging face"])
def test_ways_to_store_images_in_parquet(stored: str, tmp_path: Path) -> None:
    pictures = [noise(seed) for seed in range(3)]
    column: list[Any] = [encoded(picture) for picture in pictures]
    if stored == "struct":
        column = [{"bytes": content} for content in column]
    elif stored == "struct with a path":
        column = [{"bytes": content, "path": f"{index}.png"} for index, content in enumerate(column)]
    path = tmp_path / "train.parquet"
    if stored == "hugging face":
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
        datasets.Dataset.from_dict({"image": pictures, "label": [1, 0, -1]}, features=features).to_parquet(path)
    else:
        write_parquet(path, image=column, label=["y", "x", None])
    data = read(files.find(tmp_path), Form())
    assert torch.equal(data.images, torch.stack([as_tensor(picture) for picture in pictures]))
    assert data.labels.tolist() == [1, 0, -1]
    assert data.classes == ("x", "y")


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([0, 1, 1], ("0", "1"), ["0", "1", "1"]),
        ([7, 100, 20, -1], ("7", "20", "100"), ["7", "100", "20", None]),
        (["dog", "cat", "unlabeled", "", None], ("cat", "dog"), ["dog", "cat", None, None, None]),
        (["10", "9", "zero"], ("9", "10", "zero"), ["10", "9", "zero"]),
        ([1.0, 0.0, None, -1.0], ("0", "1"), ["1", "0", None, None]),
        ([True, False], ("0", "1"), ["1", "0"]),
        ([None, -1, 3, 5], ("3", "5"), [None, None, "3", "5"]),
    ],
)
def test_kinds_of_labels(
    labels: list[Any], classes: tuple[str, ...], expected: list[str | None], tmp_path: Path
) -> None:
    data = read_table(tmp_path, label=labels)
    assert data.classes == classes
    assert names(data) == expected
    assert values(data) == list(range(len(labels)))


def write_named(path: Path, labels: list[int], classes: list[str]) -> None:
    """A parquet file as the hub has them, in which labels are numbers with names."""
    features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": images(*range(len(labels))), "label": labels}, features=features)
    named = datasets.Features({"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=classes)})
    table = rows.data.table.replace_schema_metadata(named.arrow_schema.metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset(table).to_parquet(path)


def test_names_of_labels_keep_their_order(tmp_path: Path) -> None:
    write_named(tmp_path / "train.parquet", [2, 0, -1], ["zebra", "ant", "bee"])
    data = read(files.find(tmp_path), Form())
    assert data.classes == ("zebra", "ant", "bee"), "one that does not occur, too"
    assert names(data) == ["bee", "zebra", None]


def test_splits_may_number_their_labels_differently(tmp_path: Path) -> None:
    write_named(tmp_path / "train.parquet", [0, 1, 2], ["ant", "bee", "unlabeled"])
    write_named(tmp_path / "test.parquet", [0, 1], ["bee", "ant"])
    data = read(files.find(tmp_path), Form())
    assert data.classes == ("bee", "ant")
    assert list(zip(names(data), values(data), strict=True)) == [
        *(("bee", 0), ("ant", 1)),
        *(("ant", 0), ("bee", 1), (None, 2)),
    ]
    assert data.test.tolist() == [0, 1]


def test_a_label_without_a_name(tmp_path: Path) -> None:
    write_named(tmp_path / "train.parquet", [0, 1, 2], ["ant", "bee"])
    with pytest.raises(
        InvalidValueError, match="expected labels from 0 to 1, and -1 for none, got 2 in row 2 of train"
    ):
        read(files.find(tmp_path), Form())


def test_a_label_outside_the_classes(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidValueError, match="expected labels from 0 to 9, and -1 for none, got 10 in row 1 of train"
    ):
        read_table(tmp_path, Form(classes=tuple("0123456789")), label=[0, 10])
    assert read_table(tmp_path, Form(classes=tuple("0123456789")), label=[3, 9]).classes == tuple("0123456789")
    with pytest.raises(
        InvalidValueError, match="expected the classes cat, dog, got bird, cat; give the folder of the data set"
    ):
        read_table(tmp_path, Form(classes=("cat", "dog")), label=["bird", "cat"])
    data = read_table(tmp_path, Form(classes=("dog", "cat", "bird")), label=["bird", "cat"])
    assert data.classes == ("dog", "cat", "bird")
    assert data.labels.tolist() == [2, 1]
    one = read_table(tmp_path, Form(classes=("dog", "cat")), label=["cat", "cat"])
    assert one.labels.tolist() == [1, 1], "in evaluation one class is enough"


@pytest.mark.parametrize(
    ("label", "shown"), [(-2, "-2"), (1.5, "1.5"), (float("inf"), "inf"), (b"cat", "b'cat'"), ([1], r"\[1\]")]
)
def test_a_label_that_is_none(label: object, shown: str, tmp_path: Path) -> None:
    message = f"expected labels that are names, or whole numbers from 0 and -1 for none, got {shown} in row 0 of train"
    with pytest.raises(InvalidValueError, match=message):
        read_table(tmp_path, label=[label, label])


@pytest.mark.parametrize(("image", "label"), [("img", "y"), ("Image", "LABEL"), ("picture", "target")])
def test_other_names_of_columns(image: str, label: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", **{"id": [5, 6], label: [3, 4], image: images(1, 2)})
    data = read(files.find(tmp_path), Form())
    assert (values(data), names(data)) == ([1, 2], ["3", "4"])


def test_a_column_of_the_right_kind_comes_before_one_of_a_usual_name(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Value("string"), "img": datasets.Image(), "y": datasets.Value("int64")}
    )
    rows = {"image": ["of a cat", "of a dog"], "img": [plain(1), plain(2)], "y": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert values(read(files.find(tmp_path), Form())) == [1, 2]


def test_parquet_in_a_folder_of_any_name(tmp_path: Path) -> None:
    data = read_table(tmp_path / "[a-c]* Öl?" / "{x}", label=[0, 1])
    assert values(data) == [0, 1]


def test_columns_known_by_their_kind(tmp_path: Path) -> None:
    kinds = {
        "photo": datasets.Image(),
        "kind": datasets.ClassLabel(names=["x", "y"]),
        "image": datasets.Value("string"),
    }
    rows = {"photo": [plain(1), plain(2)], "kind": [1, 0], "image": ["of a cat", "of a dog"]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InvalidValueError, match=r"encoded images .*, got str in row 0 of train; encode them"):
        read(files.find(tmp_path), Form())
    del kinds["image"], rows["image"]
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(tmp_path / "a.parquet")
    data = read(files.find(tmp_path), Form())
    assert (values(data), names(data)) == ([1, 2], ["y", "x"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0]}, "column of images (image, img, images, picture) in train, got text, label"),
        (
            {"image": images(1), "caption": ["a"]},
            "column of labels (label, labels, class, target, y) in train, got ima",
        ),
    ],
)
def test_no_column(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", **columns)
    with pytest.raises(InvalidValueError) as caught:
        read(files.find(tmp_path), Form())
    assert message in str(caught.value)
    assert str(caught.value).endswith("; rename one")


@pytest.mark.parametrize("kind", [pa.binary_view(), pa.struct({"bytes": pa.binary()})], ids=["view", "struct"])
def test_other_columns_of_encoded_images(kind: pa.DataType, tmp_path: Path) -> None:
    images = [encoded(plain(1)), encoded(plain(2))]
    column = [{"bytes": image} for image in images] if pa.types.is_struct(kind) else images
    table = pa.table({"image": pa.array(column, type=kind), "label": [0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert values(read(files.find(tmp_path), Form())) == [1, 2]


def test_images_that_are_not_encoded(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"encoded images .*, got list in row 0 of train; encode them"):
        read_table(tmp_path, image=[[1, 2], [3, 4]], label=[0, 1])


def test_splits_of_their_own_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", image=images(0, 1), label=["a", "b"])
    write_parquet(tmp_path / "train-1.parquet", image=images(2), label=["c"])
    write_parquet(tmp_path / "test.parquet", img=images(3), label=["b"])
    write_parquet(tmp_path / "unlabeled.parquet", image=images(4), source=["found"])
    write_parquet(tmp_path / "extra.parquet", image=images(5), label=["other"])
    write_parquet(tmp_path / "validation.parquet", image=images(6), label=["other"])
    data = read(files.find(tmp_path), Form())
    assert data.classes == ("a", "b", "c")
    rows = list(zip(values(data), names(data), strict=True))
    assert rows == [(3, "b"), (0, "a"), (1, "b"), (2, "c"), (4, None)], "one order, whatever the order of the files"
    assert data.test.tolist() == [0]


def test_validation_is_for_test_if_there_is_no_other(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", image=images(0, 1), label=["a", "b"])
    write_parquet(tmp_path / "validation.parquet", image=images(2), label=["b"])
    data = read(files.find(tmp_path), Form())
    assert [values(data)[row] for row in data.test.tolist()] == [2]


def test_no_split_for_training(tmp_path: Path) -> None:
    write_parquet(tmp_path / "extra.parquet", image=images(0, 1), label=["a", "b"])
    with pytest.raises(InvalidValueError, match="expected a split train, and one test, got extra"):
        read(files.find(tmp_path), Form())


def test_a_test_image_without_a_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", image=images(0, 1), label=[0, 1])
    write_parquet(tmp_path / "test.parquet", image=images(0, 1), label=[0, -1])
    message = "expected a label of each test image, got none of row 1 of test; call the split unlabeled, or leave"
    with pytest.raises(InvalidValueError, match=message):
        read(files.find(tmp_path), Form())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [3, 3],
            "expected labelled images of two classes or more, got 2 images of 1: 3; put them into a folder per cl",
        ),
        (["cat", None, "cat"], "got 3 images of 1: cat; "),
        ([-1, -1], "got 2 images of 0: none has a label; "),
    ],
)
def test_one_class_or_none(labels: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=message):
        read_table(tmp_path, label=labels)


def test_one_folder_of_images(tmp_path: Path) -> None:
    write_all(tmp_path, "cats/1.png", "cats/2.png", "unlabeled/3.png")
    with pytest.raises(InvalidValueError, match="two classes or more, got 3 images of 1: cats; put them into a folder"):
        read(files.find(tmp_path), Form())


def test_images_that_cannot_be_read_are_named_and_the_others_keep_their_labels(tmp_path: Path) -> None:
    write_all(
        tmp_path, *(f"{split}/{name}/{index}.png" for split in ("train", "test") for name in "ab" for index in "012")
    )
    write(tmp_path / "train/a/1.png", b"")
    write(tmp_path / "train/b/1.png", encoded(noise(1, size=(32, 32)))[:-100])
    (tmp_path / "test/a/0.png").unlink()
    (tmp_path / "test/a/0.png").symlink_to("gone.png")
    data = read(files.find(tmp_path), Form())
    assert sorted(line.split(": ")[0] for line in data.bad) == [
        str(tmp_path / name) for name in ("test/a/0.png", "train/a/1.png", "train/b/1.png")
    ]
    rows = sorted(zip(values(data), names(data), strict=True))
    assert rows == [(0, "a"), (2, "a"), (3, "b"), (5, "b"), (7, "a"), (8, "a"), (9, "b"), (10, "b"), (11, "b")]
    assert sorted(values(data)[row] for row in data.test.tolist()) == [7, 8, 9, 10, 11]


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    column = [*images(0), b"text", None, *images(3)]
    data = read_table(tmp_path, image=column, label=["a", "a", "b", "b"])
    assert [line.split(": ") for line in data.bad] == [
        ["row 1 of train", "not an image, or of an unknown kind"],
        ["row 2 of train", "there is no image"],
    ]
    assert (values(data), names(data)) == ([0, 3], ["a", "b"])


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    message = "expected images, got none that can be read; the first is row 0 of train: not an image"
    with pytest.raises(InvalidValueError, match=message):
        read_table(tmp_path, image=[b"a", b"b"], label=[0, 1])


def test_16_bits_are_told_by_name(tmp_path: Path) -> None:
    write_all(tmp_path, "a/1.png", "b/2.png")
    write(tmp_path / "b/deep.png", encoded(PIL.Image.fromarray(np.full((4, 4), 999, dtype=np.uint16))))
    assert read(files.find(tmp_path), Form()).bad == (
        f"{tmp_path / 'b/deep.png'}: expected 8 bits per channel, got 16 or more; convert it first",
    )


def test_mixed_sizes(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", plain(1, size=(4, 6)))
    write(tmp_path / "b" / "2.png", plain(2, size=(6, 4)))
    message = f"expected images of 4 × 6 pixels, got 6 × 4 in {tmp_path / 'b/2.png'}; resize all with --data.resize 4"
    with pytest.raises(InvalidValueError, match=message):
        read(files.find(tmp_path), Form())
    data = read(files.find(tmp_path), Form((5, 5), resize=True))
    assert data.images.shape == (2, 1, 5, 5)
    assert values(data) == [1, 2]


def test_sizes_and_channels_adapt(tmp_path: Path) -> None:
    pictures = [noise(seed, size=(9, 3)) for seed in range(2)]
    for name, picture in zip("ab", pictures, strict=True):
        write(tmp_path / name / "1.png", picture)
    data = read(files.find(tmp_path), Form())
    assert torch.equal(data.images, torch.stack([as_tensor(picture) for picture in pictures]))
    assert data.images.shape == (2, 3, 3, 9)


def test_the_size_of_a_known_set(tmp_path: Path) -> None:
    message = r"expected images of 28 × 28 pixels, got 4 × 4 in row 0 of train; resize all with --data\.resize 28"
    with pytest.raises(InvalidValueError, match=message):
        read_table(tmp_path, Form((28, 28)), label=[0, 1])
    assert read_table(tmp_path, Form((4, 4), resize=True), label=[0, 1]).images.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text", "cut", "empty"])
def test_a_broken_parquet_file(content: bytes | str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", image=images(0, 1), label=[0, 1])
    if content == "empty":
        write_parquet(path, image=[], label=[])
    else:
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:-20])
    with pytest.raises(RecordError, match=rf"cannot read the parquet files in {tmp_path} \(.+\); check that"):
        read(files.find(tmp_path), Form())


def test_nothing_is_printed_and_nothing_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    datasets.enable_progress_bars()
    read_table(tmp_path / "data", label=[0, 1])
    with contextlib.suppress(InvalidValueError):
        read_table(tmp_path / "data", label=[0, 0])
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "scratch"]
    assert not list((tmp_path / "scratch").iterdir())

"""Lists of images with their classes, as people have them, and what is wrong with others."""

from pathlib import Path

import pytest

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import lists, sources
from adversarial_dropout.experiments.data.location import check_lists
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.records import RecordWarning

from ..calling import fails
from ..pictures import plain, write, write_all

NAMES = ("a 1.png", "in/b.png", "in/c.png", "in/d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, the n-th of value n."""
    write_all(tmp_path / "data", *NAMES)
    return tmp_path / "data"


def listed(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(path: Path, test: Path | None = None) -> ImageData:
    return sources.load(DataConfig(name=str(path)), DataLocation(path, test=test))


def found(path: Path) -> dict[str, tuple[str | None, bool]]:
    """By name: the class of each image, and whether it is for test."""
    data = load(path)
    assert [data.images[row, 0, 0, 0] for row in range(len(data.names))] == [NAMES.index(name) for name in data.names]
    test = set(data.test.tolist())
    classes = [None if label < 0 else data.classes[label] for label in data.labels.tolist()]
    return {name: (label, row in test) for row, (name, label) in enumerate(zip(data.names, classes, strict=True))}


USUAL = "file,label,split\na 1.png,cat,train\nin/b.png,dog,\nin/c.png,,unlabeled\nin/d.png,dog,test\n"
EXPECTED = {"a 1.png": ("cat", False), "in/b.png": ("dog", False), "in/c.png": (None, False), "in/d.png": ("dog", True)}


@pytest.mark.parametrize(
    "text",
    [
        USUAL,
        b"\xef\xbb\xbf" + USUAL.encode(),
        USUAL.encode("utf-16"),
        USUAL.replace("\n", "\r\n"),
        USUAL.replace(",", ";"),
        USUAL.replace(",", "\t"),
        USUAL.replace(",", ", "),
        USUAL.replace("a 1.png", '"a 1.png"').replace("dog", '"dog"'),
        USUAL.replace("file,label", " Image ,CLASS"),
        USUAL.replace("file", "path"),
        USUAL.removesuffix("\n") + "\n\n,,\n",
        USUAL + "in/../in/b.png,dog,train\n",
        USUAL.replace(",,unlabeled", ",-1,train"),
        USUAL.replace(",,unlabeled", ",unlabeled,"),
        USUAL.replace(",,unlabeled", ",dog,unlabelled"),
        USUAL.replace(",test", ",VAL"),
        "id,width,label,file,split\n"
        + "".join(
            f"{number},4,{label},{name},{split}\n"
            for number, (name, label, split) in enumerate(line.split(",") for line in USUAL.splitlines()[1:])
        ),
    ],
)
def test_lists_as_people_have_them(text: str | bytes, folder: Path) -> None:
    assert found(listed(folder, text)) == EXPECTED


def test_without_a_split_a_fifth_is_held_out(folder: Path) -> None:
    seen = found(listed(folder, "file,label\na 1.png,x\nin/b.png,x\nin/c.png,y\nin/d.png,y\n"))
    assert {name: label for name, (label, _) in seen.items()} == dict(zip(NAMES, "xxyy", strict=True))
    assert [test for _, test in seen.values()].count(True) == 2


def test_names_with_anything_in_them(tmp_path: Path) -> None:
    odd = ['=1+1, "two".png', "[red]<b>.png", "Öl 猫.png", "x;y.png"]
    write_all(tmp_path, *odd)
    rows = "".join(f'"{name.replace(chr(34), 2 * chr(34))}","=class {index % 2}"\n' for index, name in enumerate(odd))
    data = load(listed(tmp_path, "file,label\n" + rows))
    assert data.names == tuple(odd)
    assert data.classes == ("=class 0", "=class 1")


def test_files_anywhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = listed(tmp_path / "lists", f"file,label\n{folder / 'a 1.png'},x\n../data/in/b.png,y\n")
    data = load(path)
    assert data.names == (str(folder / "a 1.png"), "../data/in/b.png")
    assert data.images[:, 0, 0, 0].tolist() == [0, 1]


def test_another_label_is_other_data(folder: Path) -> None:
    before = load(listed(folder, USUAL)).digest
    assert load(listed(folder, USUAL)).digest == before
    assert load(listed(folder, USUAL.replace("in/b.png,dog", "in/b.png,cat"))).digest != before


BAD = {
    "": "expected a header with a column of files .* and a column of labels .* got ''",
    "a 1.png,cat\nin/b.png,dog\n": "expected a header with .*, got 'a 1.png,cat'",
    "file,name\na 1.png,cat\n": "expected a header with .*a column of labels",
    "file,label\n": "expected a header and a line per image in .*, got the header alone",
    "file,path,label\na 1.png,a 1.png,x\n": "expected one column of file, .* got file, path; rename or remove",
    "file,label,class\na 1.png,1,x\n": "expected one column of label, class, .* got label, class",
    "file,label\na 1.png,x\nnone.png,x\nin/no.png,y\n": "got 2 of 3 that are not: .*data/none.png, .*data/in/no.png; ",
    "file,label\nin,x\na 1.png,y\n": "got 1 of 2 that are not: .*data/in; correct",
    "file,label\na 1.png,x\nin/b.png\n": "expected 2 cells in each line of .*, got 1 in line 3; quote names",
    "file,label\na 1.png,x,\nin/b.png,y\n": "expected 2 cells in each line of .*, got 3 in line 2",
    "file,label\n,x\nin/b.png,y\n": "expected a file in each line of .*, got none in line 2",
    "file,label\na 1.png,x\nin/b.png,y\na 1.png,y\n": r"got x \(train\) in line 2 and y \(train\) in line 4 for",
    "file,label\na 1.png,x\nin/b.png,y\na 1.png,\n": r"got x \(train\) in line 2 and no label \(train\) in line 4",
    "file,label,split\na 1.png,x,train\na 1.png,x,test\n": r"got x \(train\) in line 2 and x \(test\) in line 3",
    "file,label,split\na 1.png,x,train\nin/b.png,y,trian\n": "split train, test or unlabeled .*got 'trian' in line 3",
    "file,label,split\na 1.png,x,test\nin/b.png,y,val\n": "expected one test part in .*, got the splits test, val",
    "file,label,split\na 1.png,x,test\nin/b.png,,test\n": "a label of each test image, got none in line 3 of",
    'file,label\na 1.png,"x\nin/b.png,y\n': "expected a list in CSV, got unexpected end of data in line 3",
    "file,label\na 1.png,x\nin/b.png,x\n": "labelled images of two classes or more",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_lists(text: str, folder: Path) -> None:
    with pytest.raises(InvalidValueError, match=BAD[text]):
        load(listed(folder, text))


def test_other_encodings(folder: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"expected a list in UTF-8, got other bytes in line 2 of .*save it as"):
        load(listed(folder, b"file,label\na 1.png,\xd6l\n"))


def test_images_that_a_list_does_not_name(folder: Path) -> None:
    path = listed(folder, "file,label\nin/b.png,x\nin/c.png,y\n")
    config = DataConfig(name=str(path))
    message = r"beside those of the list in the list too, got 1 that it does not name: .*in/d.png; add them"
    with pytest.raises(InvalidValueError, match=message):
        check_lists(config)
    with pytest.warns(
        RecordWarning, match=r"^1 images that the list does not name are passed over, such as .*in/d.png"
    ):
        check_lists(config, skip_unlisted=True)
    check_lists(config, DataLocation(path, test=listed(folder, "file,label\nin/d.png,x\n", "test.csv")))
    check_lists(DataConfig(name="mnist"), DataLocation(folder))


def test_folders_that_no_list_uses_are_no_error(folder: Path) -> None:
    write(folder / "in" / "other" / "e.png", plain(5))
    path = listed(folder, "file,label\nin/b.png,x\nin/c.png,y\nin/d.png,y\n")
    with pytest.warns(RecordWarning, match=r"1 images .* passed over, such as .*other/e.png"):
        check_lists(DataConfig(name=str(path)))
    check_lists(DataConfig(name=str(path)), DataLocation(test=folder / "in" / "other"))


def test_nothing_is_trained_before(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in (
        ("file,label\na 1.png,x\nin/b.png,y\nin/c.png,y\n", "--skip-unlisted"),
        ("file,label\na 1.png,x\nnone.png,y\n", "none.png; correct these names"),
    ):
        arguments = ("train", "images", "plain", "--scale", "tiny", "--out", tmp_path / "runs")
        code, printed = fails(capsys, *arguments, "--data", listed(folder, text))
        assert code == 2
        assert said in printed
        assert not (tmp_path / "runs").exists()


def test_images_alone(folder: Path) -> None:
    path = listed(folder, "path\nin/c.png\na 1.png\nin/c.png\n")
    assert lists.images(path) == [folder / "in/c.png", folder / "a 1.png", folder / "in/c.png"]

"""Where data come from: a known set, a folder, the hub. What is decoded is cached; damage to that is harmless."""

import errno
import os
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.data.files import Hub
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.records import RecordWarning

from .. import small_data
from ..pictures import encoded, images, noise, plain, write, write_all, write_parquet


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, which is not there yet."""
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "cache" / "here"))
    return tmp_path / "cache" / "here"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images, the n-th of value n."""
    write_all(tmp_path / "pets", *(f"{name}/{index}.png" for name in ("cats", "dogs") for index in range(5)))
    return tmp_path / "pets"


def load(folder: Path, name: str = "images", *, skip_bad_images: bool = False, **config: Any) -> ImageData:
    return sources.load(DataConfig(name=name, **config), DataLocation(folder, skip_bad_images))


def equal(first: ImageData, second: ImageData) -> bool:
    tensors = all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "labels", "test"))
    return tensors and (first.brightest, first.classes) == (second.brightest, second.classes)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> NoReturn:
        raise AssertionError("decoded again")

    monkeypatch.setattr(sources, "read", read)


def test_a_folder_becomes_data(pets: Path) -> None:
    data = load(pets)
    assert data.images.dtype == torch.uint8
    assert data.images[:, 0, 0, 0].tolist() == list(range(10))
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert (data.shape, data.brightest, data.classes) == ((1, 4, 4), 255, ("cats", "dogs"))


def test_without_a_test_part_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    counts = {"few": 3, "some": 10, "many": 27}
    write_all(tmp_path, *(f"{name}/{index:02}.png" for name, count in counts.items() for index in range(count)))
    write_all(tmp_path / "unlabeled", *(f"{index}.png" for index in range(9)))
    data = load(tmp_path)
    held_out = [data.classes[label] for label in data.labels[data.test].tolist()]
    assert {name: held_out.count(name) for name in counts} == {"few": 1, "some": 2, "many": 5}
    assert data.test.tolist() == sorted(set(data.test.tolist()))
    assert len(data.training) == 49 - 8
    assert not torch.isin(data.training, data.test).any()
    torch.manual_seed(5)
    assert torch.equal(load(tmp_path, labelled=20, resize=4).test, data.test), "in every run the same"
    many = [row for row in data.test.tolist() if data.classes[int(data.labels[row])] == "many"]
    first = data.labels.tolist().index(data.classes.index("many"))
    assert many != list(range(first, first + 5)), "at random"


def test_with_a_test_part_nothing_else_is_held_out(tmp_path: Path) -> None:
    write_all(tmp_path, "train/a/0.png", "train/b/1.png", "test/a/2.png")
    data = load(tmp_path)
    assert data.images[data.test, 0, 0, 0].tolist() == [2]
    assert sorted(data.images[data.training, 0, 0, 0].tolist()) == [0, 1]


def test_bad_images_stop_and_are_named(pets: Path, cache: Path) -> None:
    for index in range(12):
        write(pets / "cats" / f"bad-{index:02}.png", b"text")
    with pytest.raises(InvalidValueError) as caught:
        load(pets)
    lines = str(caught.value).splitlines()
    assert lines[0] == "expected images that can be read, got 12 of 22 that cannot:"
    assert lines[1:11] == [
        f"  {pets}/cats/bad-{index:02}.png: not an image, or of an unknown kind" for index in range(10)
    ]
    assert lines[11:] == ["  ...", "Repair or remove them, or leave them out with --skip-bad-images"]
    assert not cache.exists()


def test_bad_images_are_left_out_on_request(
    pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = write(pets / "cats" / "2.png", encoded(plain(2))[:40])
    for _ in range(2):
        with pytest.warns(RecordWarning, match=f"an image that cannot be read is left out: {bad}"):
            data = load(pets, skip_bad_images=True)
        assert data.images[:, 0, 0, 0].tolist() == [0, 1, *range(3, 10)]
        assert data.labels.tolist() == [0] * 4 + [1] * 5
        forbid_reading(monkeypatch)
    with pytest.raises(InvalidValueError, match=f"got 1 of 10 that cannot:\n  {bad}: "):
        load(pets)


def test_what_was_decoded_is_kept(pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(pets)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    forbid_reading(monkeypatch)
    assert equal(load(pets), first)
    assert equal(load(pets, labelled=2, whiten=True, flip=True), first)
    with pytest.raises(AssertionError, match="decoded again"):
        load(pets, resize=3)


def test_another_resize_is_kept_apart(pets: Path, cache: Path) -> None:
    shapes = [load(pets, resize=size).shape for size in (3, 5, 3, 5)]
    assert shapes == [(1, 3, 3), (1, 5, 5)] * 2
    assert len(list(cache.iterdir())) == 2


def test_a_file_that_changed_is_decoded_again(pets: Path, cache: Path) -> None:
    path = pets / "cats" / "1.png"
    old = path.stat()
    assert load(pets).images[1, 0, 0, 0] == 1
    write(path, plain(2))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_size == old.st_size
    assert load(pets).images[1, 0, 0, 0] == 2
    path.rename(pets / "dogs" / "7.png")
    assert load(pets).labels.tolist() == [0] * 4 + [1] * 6


def damages(path: Path) -> dict[str, bytes]:
    """Ways in which a cached file may be damaged."""
    whole = path.read_bytes()
    tensors = safetensors.torch.load(whole)
    return {
        "nothing": b"",
        "text": b"cats and dogs",
        "zeros": bytes(len(whole)),
        "a half": whole[: len(whole) // 2],
        "all but a byte": whole[:-1],
        "without a note": safetensors.torch.save(tensors),
        "with another note": safetensors.torch.save(tensors, {"adversarial-dropout": "{"}),
        "with half a note": safetensors.torch.save(tensors, {"adversarial-dropout": '{"bad": []}'}),
        "without images": safetensors.torch.save({"labels": tensors["labels"]}, {"adversarial-dropout": "{}"}),
    }


@pytest.mark.parametrize(
    "damage",
    [
        *("nothing", "text", "zeros", "a half", "all but a byte", "without a note", "with another note"),
        *("with half a note", "without images", "a folder"),
    ],
)
def test_damage_to_what_is_kept(damage: str, pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(pets)
    [cached] = cache.iterdir()
    if damage == "a folder":
        cached.unlink()
        cached.mkdir()
        with pytest.warns(RecordWarning, match="the decoded images cannot be cached"):
            assert equal(load(pets), first)
        return
    cached.write_bytes(damages(cached)[damage])
    assert equal(load(pets), first)
    forbid_reading(monkeypatch)
    assert equal(load(pets), first), "mended"


@pytest.mark.parametrize(
    ("code", "cause"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")]
)
def test_no_room_for_the_cache(code: int, cause: str, pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> NoReturn:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        message = f"cannot be cached, and will be decoded again next time: .*{cause}; set ADVERSARIAL_DROPOUT_CACHE"
        with pytest.warns(RecordWarning, match=message):
            data = load(pets)
    assert data.images[:, 0, 0, 0].tolist() == list(range(10))
    assert not list(cache.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(load(pets), data)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file", b"")
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RecordWarning, match="the decoded images cannot be cached"):
        assert len(load(pets).labels) == 10


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path not in sources.cache_folder().parents, "tests keep away from the user's"
    for value, expected in (("", ".cache/adversarial-dropout"), ("~/mine", "mine")):
        monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", value)
        assert sources.cache_folder() == tmp_path / expected
    monkeypatch.delenv("ADVERSARIAL_DROPOUT_CACHE")
    assert sources.cache_folder() == tmp_path / ".cache" / "adversarial-dropout"
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "x"))
    assert sources.cache_folder() == tmp_path / "x"


def test_ways_to_name_a_folder(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(pets)
    monkeypatch.chdir(pets.parent)
    monkeypatch.setenv("HOME", str(pets.parent))
    for name in (str(pets), "pets", "./pets", "pets/", "~/pets", "x/../pets"):
        (pets.parent / "x").mkdir(exist_ok=True)
        assert equal(sources.load(DataConfig(name=name)), expected), name
        assert equal(load(Path(name), name), expected), name
    assert equal(load(Path("pets"), "me/animals"), expected)
    assert equal(load(Path(), "me/pets"), expected), "the hub's name of it, without its owner"
    monkeypatch.chdir(pets)
    assert equal(sources.load(DataConfig(name=".")), expected)


def test_a_folder_with_a_class_of_its_own_name(tmp_path: Path) -> None:
    write_all(tmp_path / "pets", "pets/1.png", "wild/2.png")
    assert load(tmp_path / "pets", str(tmp_path / "pets")).classes == ("pets", "wild")
    assert sources.load(DataConfig(name=str(tmp_path / "pets"))).classes == ("pets", "wild")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "got ''$"),
        ("mnst", "got 'mnst'; did you mean \"mnist\"?"),
        ("/not/there", "got '/not/there'$"),
        ("../not-there", "got '../not-there'"),
        ("a/b/c", "got 'a/b/c'"),
        ("me/set:", "got 'me/set:'"),
        ("me/", "got 'me/'"),
    ],
)
def test_names_of_nothing(name: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        sources.load(DataConfig(name=name))
    assert "from one of digits, mnist, svhn, cifar10, a folder that exists (--data FOLDER), or a hub" in str(
        caught.value
    )


def test_a_file_instead_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "some" / "notes.txt", b"cats and dogs")
    monkeypatch.chdir(tmp_path)
    for name in ("some/notes.txt", str(tmp_path / "some" / "notes.txt")):
        with pytest.raises(InvalidValueError, match=f"expected a folder of images .* got {name}, which is a file"):
            sources.load(DataConfig(name=name))
    with pytest.raises(InvalidValueError, match=r"got absent, which is not there"):
        load(Path("absent"), "mnist")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", Hub("ylecun/mnist", "mnist")),
        ("svhn", Hub("ufldl-stanford/svhn", "cropped_digits")),
        ("cifar10", Hub("uoft-cs/cifar10", "plain_text")),
        ("me/my_set-2.0", Hub("me/my_set-2.0")),
        ("me/set:part_1", Hub("me/set", "part_1")),
    ],
)
def test_names_on_the_hub(name: str, expected: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def read(origin: object, form: object, test: object) -> NoReturn:
        asked.append(origin)
        raise KeyError

    monkeypatch.setattr(sources, "read", read)
    with pytest.raises(KeyError):
        sources.load(DataConfig(name=name))
    assert asked == [expected]


KNOWN = {
    "mnist": (28, 1, "mnist", "image"),
    "svhn": (32, 3, "cropped_digits", "image"),
    "cifar10": (32, 3, "plain_text", "img"),
}


def write_known(folder: Path, size: int, channels: int, image: str = "image", labels: range = range(10)) -> None:
    """Parquet files as the hub has them: two of training images, one of test images."""
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        column = [encoded(noise(label, (size, size), channels)) for label in labels]
        write_parquet(folder / f"{name}.parquet", **{image: column, "label": list(labels)})


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("around", ["", "subset", "name", "name/subset", "name/data"])
def test_known_sets_from_a_folder(name: str, around: str, tmp_path: Path) -> None:
    size, channels, subset, image = KNOWN[name]
    write_known(tmp_path / around.replace("name", name).replace("subset", subset), size, channels, image)
    write_all(tmp_path / "others", "a/1.png", "b/2.png")
    data = load(tmp_path, name)
    assert data.shape == (channels, size, size)
    assert data.classes == small_data.CLASSES[name]
    assert (len(data.training), data.labels[data.test].tolist()) == (20, list(range(10)))
    assert torch.bincount(data.labels).tolist() == [3] * 10


def test_known_sets_keep_their_form(tmp_path: Path) -> None:
    write_known(tmp_path / "grey", 32, 1)
    grey = load(tmp_path / "grey", "svhn").images
    assert grey.shape == (30, 3, 32, 32)
    assert torch.equal(grey[:, :1].expand(-1, 3, -1, -1), grey)
    write_known(tmp_path / "colour", 28, 3)
    assert load(tmp_path / "colour", "mnist").shape == (1, 28, 28)
    assert load(tmp_path / "colour", "cifar10", resize=32).shape == (3, 32, 32)


def test_other_data_for_a_known_set(tmp_path: Path) -> None:
    write_known(tmp_path, 32, 3)
    with pytest.raises(
        InvalidValueError, match="expected images of 28 × 28 pixels, got 32 × 32 in row 0 of test; resize"
    ):
        load(tmp_path, "mnist")
    write_known(tmp_path, 32, 3, labels=range(12))
    with pytest.raises(
        InvalidValueError, match="expected labels from 0 to 9, and -1 for none, got 10 in row 10 of test"
    ):
        load(tmp_path, "cifar10")
    write_all(tmp_path / "two", "a/1.png", "b/2.png")
    with pytest.raises(InvalidValueError, match=r"expected the classes airplane, .*, truck, got a, b; give the folder"):
        load(tmp_path / "two", "cifar10")
    small_data.hub_files(tmp_path / "things", "cifar10", train=1, test=1)
    with pytest.raises(
        InvalidValueError, match=r"expected the classes 0, .*, 9, got airplane, .*, truck; give the folder"
    ):
        load(tmp_path / "things", "svhn")


def test_the_digest_tells_data_apart(tmp_path: Path) -> None:
    write_known(tmp_path / "one", 28, 1)
    data = load(tmp_path / "one", "mnist")
    assert data.digest == load(tmp_path / "one", "mnist").digest
    copy = ImageData(data.images.clone(), data.labels.clone(), data.test.clone(), 255, data.classes)
    assert copy.digest == data.digest
    copy.images[3, 0, 5, 5] ^= 1
    others = [
        copy,
        ImageData(data.images, data.labels.flip(0), data.test, 255, data.classes),
        ImageData(data.images, data.labels, data.test[1:], 255, data.classes),
        ImageData(data.images, data.labels, data.test, 255, tuple("1234567890")),
        ImageData(data.images.view(30, 1, 14, 56), data.labels, data.test, 255, data.classes),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 6


def test_parquet_of_ones_own(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", image=images(*range(7)), label=["x", "y", "x", "y", "x", None, None])
    data = load(tmp_path)
    assert data.classes == ("x", "y")
    assert data.labels.tolist() == [0, 1, 0, 1, 0, -1, -1]
    assert len(data.test) == 2


REAL = os.environ.get("ADVERSARIAL_DROPOUT_DATA")
REAL_SETS = {
    "mnist": ("mnist", (1, 28, 28), 60000, 10000, [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]),
    "cifar10": ("cifar10", (3, 32, 32), 50000, 10000, [6000] * 10),
    "svhn": ("svhn_test_gray_derived", (3, 32, 32), 14879, 4964, None),
}


@pytest.mark.skipif(REAL is None, reason="ADVERSARIAL_DROPOUT_DATA does not name a folder with mnist, cifar10, ...")
@pytest.mark.parametrize("name", REAL_SETS)
def test_real_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL is not None
    inner, shape, training, test, counts = REAL_SETS[name]
    folder = Path(REAL) / inner
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    data = load(folder, name)
    assert data.shape == shape
    assert (len(data.training), len(data.test)) == (training, test)
    assert torch.equal(data.test, torch.arange(test)), "test images come first, whatever they come from"
    assert len(data.classes) == 10
    if counts is not None:
        assert torch.bincount(data.labels).tolist() == counts
    assert data.images.float().mean(dim=(0, 2, 3)).std(unbiased=False) < 20
    forbid_reading(monkeypatch)
    assert load(folder, name).digest == data.digest


@pytest.mark.skipif(REAL is None, reason="ADVERSARIAL_DROPOUT_DATA does not name a folder with mnist, cifar10, ...")
def test_one_real_set_for_another() -> None:
    assert REAL is not None
    with pytest.raises(InvalidValueError, match=r"expected the classes 0, .*, 9, got airplane"):
        load(Path(REAL) / "cifar10", "mnist")

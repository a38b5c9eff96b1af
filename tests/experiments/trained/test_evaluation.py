"""`evaluate` and `predict`: what a trained network says, against the same computed by hand from its files."""

import csv
import io
import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig

from .. import small_data
from ..calling import fails, printed_by, rows
from ..small_data import FRUIT


@dataclass(frozen=True)
class Run:
    """A finished run that has learnt something, and its data."""

    folder: Path
    data: Path

    def probabilities(self, images: Sequence[Tensor]) -> Tensor:
        """By hand: from stored pixels of 0 to 255 to probabilities, with the saved weights."""
        config = ExperimentConfig.from_dict(json.loads((self.folder / records.CONFIG).read_text()))
        x = torch.stack(list(images)).double() / 255
        x = (x - 0.5 if config.data.centre else x).float()
        model = config.model.build((x.shape[1], x.shape[2], x.shape[3]), self.classes)
        model.load_state_dict(safetensors.torch.load_file(self.folder / records.WEIGHTS))
        with torch.no_grad():
            logits: Tensor = model.eval()(x)
        return logits.double().softmax(dim=1)

    @property
    def classes(self) -> int:
        return 3 if "images" in self.folder.parts else 10

    @property
    def error(self) -> float:
        """As it was noted at the end of training."""
        return float(json.loads((self.folder / records.FINAL).read_text())["metrics"]["error"])


STEPS = ("--training.epochs", "1", "--training.steps-per-epoch", "20", "--training.ramp-up", "0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Grey images from parquet."""
    folder = tmp_path_factory.mktemp("digits")
    data = small_data.hub_files(folder / "mnist", "mnist")
    printed_by(
        *("train", "paper/mnist-all", "plain", "--scale", "tiny", *STEPS, "--training.batch-labelled", "16"),
        *("--data", data, "--out", folder),
    )
    return Run(folder / "paper/mnist-all/tiny/plain/seed-0", data)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Coloured images from folders."""
    folder = tmp_path_factory.mktemp("fruit")
    data = small_data.image_folder(folder / "data")
    printed_by("train", "images", "plain", "--scale", "tiny", *STEPS, "--data", data, "--out", folder)
    return Run(folder / "images/tiny/plain/seed-0", data)


def pixels(path: Path, mode: str = "RGB", size: tuple[int, int] | None = None) -> Tensor:
    """An image file as the network is to see it, in another mode or size by Pillow."""
    with PIL.Image.open(path) as opened:
        picture = opened.convert(mode)
    if size is not None:
        picture = picture.resize(size)
    array = np.array(picture)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def share(wrong: Sequence[bool]) -> float:
    return 100 * sum(wrong) / len(wrong)


def by_class(right: Tensor, said: Tensor, names: Sequence[str]) -> dict[str, list[float]]:
    """Error in percent and number, by hand."""
    errors: dict[str, list[float]] = {}
    for label, name in enumerate(names):
        wrong = [int(b) != label for a, b in zip(right, said, strict=True) if int(a) == label]
        if wrong:
            errors[name] = [share(wrong), len(wrong)]
    return errors


def test_the_own_test_part(digits: Run, tmp_path: Path) -> None:
    printed = printed_by("evaluate", digits.folder, "--out", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    test = list(small_data.pictures((1, 28, 28), 10, 20, seed=2))
    said = digits.probabilities([image for image, _ in test]).argmax(dim=1)
    right = torch.tensor([label for _, label in test])
    assert figures["error"] == digits.error
    assert figures["error"] == pytest.approx(share((said != right).tolist()))
    assert 0 <= figures["error"] < 80, "it has learnt something"
    assert figures["examples"] == 20
    assert figures["classes"] == by_class(right, said, small_data.DIGITS)
    assert f"error {digits.error:.2f} % of 20" in " ".join(printed.split())
    shown = rows(printed)
    assert shown[:10] == [[name, f"{error:.2f}", f"{n}"] for name, (error, n) in figures["classes"].items()]
    counts = [[int(((right == i) & (said == j)).sum()) for j in range(10)] for i in range(10)]
    assert shown[10:20] == [[str(i), *map(str, row)] for i, row in enumerate(counts)]
    assert figures["confusion"] == {"classes": list(small_data.DIGITS), "images": counts}


def test_the_own_part_of_images_without_a_test_part(fruit: Run, tmp_path: Path) -> None:
    printed_by("evaluate", fruit.folder, "--out", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["error"] == fruit.error
    assert {name: n for name, (_, n) in figures["classes"].items()} == dict.fromkeys(FRUIT, 2), "a fifth is held out"


def test_other_images_go_by_the_names_of_their_classes(fruit: Run, tmp_path: Path) -> None:
    """Their order is another, one class is missing, and what has no label does not count."""
    other = tmp_path / "other"
    small_data.image_folder(other, ("pear", "apple"), each=7, unlabelled=3, seed=20)
    printed_by("evaluate", fruit.folder, "--data", other, "--out", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    paths = [path for name in FRUIT for path in sorted((other / name).glob("*.png"))]
    said = fruit.probabilities([pixels(path) for path in paths]).argmax(dim=1)
    right = torch.tensor([FRUIT.index(path.parent.name) for path in paths])
    assert figures["examples"] == 14
    assert figures["error"] == pytest.approx(share((said != right).tolist()))
    assert figures["classes"] == by_class(right, said, FRUIT)
    assert figures["classes"].keys() == {"apple", "pear"}


def test_other_parquet_files(digits: Run, tmp_path: Path) -> None:
    small_data.hub_files(tmp_path / "other", "mnist", train=3, test=1)
    printed = printed_by("evaluate", digits.folder, "--data", tmp_path / "other")
    made = [one for seed, n in ((1, 30), (2, 10)) for one in small_data.pictures((1, 28, 28), 10, n, seed=seed)]
    said = digits.probabilities([image for image, _ in made]).argmax(dim=1)
    wrong = [int(a) != label for a, (_, label) in zip(said, made, strict=True)]
    assert f"error {share(wrong):.2f} % of 40" in " ".join(printed.split())


def test_images_that_cannot_be_compared(fruit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_data.image_folder(tmp_path / "unknown", ("apple", "banana", "pear"), each=2)
    code, printed = fails(capsys, "evaluate", fruit.folder, "--data", tmp_path / "unknown")
    assert code == 2
    assert "expected the classes apple, cherry, pear, got apple, banana, pear" in printed
    small_data.image_folder(tmp_path / "large", shape=(3, 20, 20))
    code, printed = fails(capsys, "evaluate", fruit.folder, "--data", tmp_path / "large")
    assert code == 2
    assert "expected images of 20 × 16 pixels, got 20 × 20 in" in printed
    assert "resize it: the training images have this size" in printed
    code, printed = fails(capsys, "evaluate", fruit.folder, "--data", tmp_path / "nowhere")
    assert code == 2
    assert str(tmp_path / "nowhere") in printed


def test_data_that_have_changed(fruit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(fruit.data, data)
    printed_by("train", "images", "plain", "--scale", "tiny", "--data", data, "--out", tmp_path)
    folder = tmp_path / "images/tiny/plain/seed-0"
    assert "% of 6" in " ".join(printed_by("evaluate", folder).split())
    small_data.write(data / "apple" / "000.png", torch.zeros(3, 16, 20, dtype=torch.uint8))
    code, printed = fails(capsys, "evaluate", folder)
    assert code == 2
    assert f"expected the data that {folder} was trained on, got others" in printed
    shutil.rmtree(data)
    code, printed = fails(capsys, "evaluate", folder)
    assert code == 2
    assert str(data) in printed


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_keep_the_order(fruit: Run, tmp_path: Path) -> None:
    files = [fruit.data / "pear" / "005.png", fruit.data / "apple" / "003.png", fruit.data / "cherry" / "004.png"]
    given = [files[0], fruit.data / "unlabeled", files[1], files[2], files[0]]
    expected = [files[0], *sorted((fruit.data / "unlabeled").iterdir()), files[1], files[2], files[0]]
    assert len(expected) == 10
    probabilities = fruit.probabilities([pixels(path) for path in expected])
    predicted = lines(printed_by("predict", fruit.folder, *given))
    assert [line["image"] for line in predicted] == [str(path) for path in expected]
    assert [line["class"] for line in predicted] == [FRUIT[int(label)] for label in probabilities.argmax(dim=1)]
    best = [float(line["probability"]) for line in predicted]
    assert best == pytest.approx(probabilities.max(dim=1).values.tolist(), abs=2e-6)
    printed_by("predict", fruit.folder, *given, "--out", tmp_path / "said.csv")
    assert lines((tmp_path / "said.csv").read_text()) == predicted

    whole = json.loads(printed_by("predict", fruit.folder, *given, "--format", "json"))
    assert [one["image"] for one in whole] == [line["image"] for line in predicted]
    for one, row in zip(whole, probabilities, strict=True):
        order = list(one["probabilities"].values())
        assert order == sorted(order, reverse=True)
        assert math.fsum(order) == pytest.approx(1, abs=1e-6)
        assert {name: one["probabilities"][name] for name in FRUIT} == pytest.approx(
            dict(zip(FRUIT, row.tolist(), strict=True)), abs=1e-6
        )
        assert (one["class"], one["probability"]) == next(iter(one["probabilities"].items()))
    assert len({line["class"] for line in predicted}) > 1, "the images differ for it"


def test_names_with_commas_and_quotes(fruit: Run, tmp_path: Path) -> None:
    path = tmp_path / 'an "apple", red.png'
    shutil.copy(fruit.data / "apple" / "000.png", path)
    assert [line["image"] for line in lines(printed_by("predict", fruit.folder, path))] == [str(path)]
    (one,) = json.loads(printed_by("predict", fruit.folder, path, "--format", "json"))
    assert one["image"] == str(path)


def test_what_cannot_be_read_is_named_and_the_others_are_there(
    fruit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(fruit.data / "apple", folder)
    (folder / "003.png").write_bytes(b"no image")
    (folder / "006.png").write_bytes((folder / "000.png").read_bytes()[:60])
    missing = tmp_path / "missing.png"
    with pytest.raises(SystemExit) as end:
        printed_by("predict", fruit.folder, folder, missing, "--out", tmp_path / "said.csv")
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "3 of 11 images are left out" in printed
    for path in (folder / "003.png", folder / "006.png", missing):
        assert str(path) in printed
    readable = [path for path in sorted(folder.iterdir()) if path.name not in ("003.png", "006.png")]
    predicted = lines((tmp_path / "said.csv").read_text())
    assert [line["image"] for line in predicted] == [str(path) for path in readable]
    expected = fruit.probabilities([pixels(path) for path in readable]).max(dim=1).values.tolist()
    assert [float(line["probability"]) for line in predicted] == pytest.approx(expected, abs=2e-6)


def test_another_size(fruit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((large, _),) = small_data.pictures((3, 40, 50), 3, 1)
    path = small_data.write(tmp_path / "large.png", large)
    code, printed = fails(capsys, "predict", fruit.folder, path)
    assert code == 2
    assert f"50 × 40 in {path}" in printed or re.search(f"{path}.*50 × 40", printed)
    assert "--resize" in printed
    (line,) = lines(printed_by("predict", fruit.folder, path, "--resize"))
    expected = fruit.probabilities([pixels(path, size=(20, 16))])[0]
    assert line["class"] == FRUIT[int(expected.argmax())]
    assert float(line["probability"]) == pytest.approx(float(expected.max()), abs=2e-6)


def test_grey_and_colour(fruit: Run, digits: Run, tmp_path: Path) -> None:
    ((grey, _),) = small_data.pictures((1, 16, 20), 3, 1)
    ((coloured, _),) = small_data.pictures((3, 28, 28), 10, 1)
    one, other = small_data.write(tmp_path / "grey.png", grey), small_data.write(tmp_path / "coloured.png", coloured)
    for run, path, expected in (
        (fruit, one, fruit.probabilities([grey.expand(3, -1, -1)])),
        (digits, other, digits.probabilities([pixels(other, "L")])),
    ):
        (line,) = lines(printed_by("predict", run.folder, path))
        assert float(line["probability"]) == pytest.approx(float(expected.max()), abs=2e-6)


def test_nothing_to_predict(fruit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in ((), (tmp_path,)):
        code, printed = fails(capsys, "predict", fruit.folder, *given)
        assert code == 2
        assert "expected image files, or folders of them" in printed


@pytest.mark.parametrize("command", [("evaluate",), ("predict", "image.png"), ("export",)])
def test_runs_that_cannot_be_used(
    command: tuple[str, ...], digits: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command

    def says(folder: Path) -> str:
        code, printed = fails(capsys, name, folder, *rest)
        assert code in (1, 2)
        assert str(folder) in printed
        return printed

    says(tmp_path / "nowhere")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(digits.folder, unfinished)
    final = json.loads((unfinished / records.FINAL).read_text())
    (unfinished / records.FINAL).unlink()
    says(unfinished)
    del final["data"]
    (unfinished / records.FINAL).write_text(json.dumps(final))
    assert "damaged or incomplete (KeyError('data')); delete this file and give the command" in says(unfinished)
    assert not (unfinished / "export").exists()
    (unfinished / records.FINAL).write_text((digits.folder / records.FINAL).read_text())
    (unfinished / records.WEIGHTS).write_bytes(b"no tensors")
    assert "cannot read the weights" in says(unfinished)


def test_abstaining(fruit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = sorted((fruit.data / "unlabeled").iterdir())
    best = fruit.probabilities([pixels(path) for path in images]).max(dim=1).values
    threshold = float(best.sort().values[2:4].mean())
    expected = [float(value) < threshold for value in best]
    assert sum(expected) == 3
    always = lines(printed_by("predict", fruit.folder, *images))
    capsys.readouterr()
    said = lines(printed_by("predict", fruit.folder, *images, "--threshold", threshold))
    assert "3 of 6 images get no class, with probabilities below" in capsys.readouterr().err
    assert [line["class"] == "" for line in said] == expected
    assert [line["probability"] for line in said] == [line["probability"] for line in always]
    assert all(line in always for line in said if line["class"])
    whole = json.loads(printed_by("predict", fruit.folder, *images, "--threshold", threshold, "--format", "json"))
    assert [one["class"] is None for one in whole] == expected
    out = ("--out", tmp_path / "said.csv")
    assert "3 of 6 images get no class" in printed_by("predict", fruit.folder, *images, "--threshold", threshold, *out)
    assert lines((tmp_path / "said.csv").read_text()) == said


def test_the_most_probable_classes(fruit: Run) -> None:
    images = sorted((fruit.data / "unlabeled").iterdir())
    order = fruit.probabilities([pixels(path) for path in images]).sort(dim=1, descending=True)
    said = lines(printed_by("predict", fruit.folder, *images, "--top", "2", "--threshold", "1"))
    assert list(said[0]) == ["image", "class", "probability", "class_1", "probability_1", "class_2", "probability_2"]
    for line, labels, values in zip(said, order.indices.tolist(), order.values.tolist(), strict=True):
        assert line["class"] == ""
        for rank in (0, 1):
            assert line[f"class_{rank + 1}"] == FRUIT[labels[rank]]
            assert float(line[f"probability_{rank + 1}"]) == pytest.approx(values[rank], abs=2e-6)
    whole = json.loads(printed_by("predict", fruit.folder, *images, "--top", "2", "--format", "json"))
    expected = [[FRUIT[label] for label in labels[:2]] for labels in order.indices.tolist()]
    assert [list(one["probabilities"]) for one in whole] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", "1.5"), "expected threshold to be in [0, 1], got 1.5"),
        (("--threshold", "-0.1"), "expected threshold to be in [0, 1], got -0.1"),
        (("--threshold", "nan"), "expected threshold to be in [0, 1], got nan"),
        (("--top", "0"), "expected top to be a whole number, 1 or more, got 0"),
        (("--top", "4"), "expected --top to be at most the 3 classes of the run, got 4"),
    ],
)
def test_bad_options_of_predict(
    options: tuple[str, ...], message: str, fruit: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = fails(capsys, "predict", fruit.folder, fruit.data, *options)
    assert code == 2
    assert message in printed


def test_predicting_a_list(fruit: Run, tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text(f"id\tpath\n1\t{fruit.data}/pear/005.png\n2\t{fruit.data}/apple/000.png\n")
    said = lines(printed_by("predict", fruit.folder, tmp_path / "list.tsv"))
    assert [line["image"] for line in said] == [f"{fruit.data}/pear/005.png", f"{fruit.data}/apple/000.png"]

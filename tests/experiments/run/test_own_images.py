"""The preset for one's own images on data as people have them."""

from pathlib import Path

import pytest
import torch

from adversarial_dropout.experiments.trained.evaluation import evaluate, outputs
from adversarial_dropout.experiments.trained.trained import Trained

from ..calling import printed_by
from ..small_data import FRUIT, pictures, write

SHAPE = (3, 16, 20)
LABELLED = (40, 12, 4)
"""Labelled images of each class: ten times as many of the first as of the last."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uneven classes; without a label also images of no class: noise, and single colours."""
    folder = tmp_path_factory.mktemp("uneven")
    for part, numbers in (("train", LABELLED), ("test", (20, 20, 20))):
        made = pictures(SHAPE, 3, 3 * max(numbers), seed=len(part))
        for number, (image, label) in enumerate(made):
            if number // 3 < numbers[label]:
                write(folder / part / FRUIT[label] / f"{number:03}.png", image)
    for number, (image, _) in enumerate(pictures(SHAPE, 3, 60, seed=9)):
        write(folder / "unlabeled" / f"{number:03}.png", image)
    draw = torch.Generator().manual_seed(1)
    for number in range(60):
        noise = torch.randint(256, SHAPE, generator=draw, dtype=torch.uint8)
        plain = torch.randint(256, (3, 1, 1), generator=draw, dtype=torch.uint8).expand(SHAPE)
        write(folder / "unlabeled" / f"none-{number:03}.png", plain if number % 2 else noise)
    return folder


@pytest.mark.parametrize("method", ["plain", "vadd-kl", "vadd-qe"])
def test_uneven_classes_and_images_of_no_class(method: str, uneven: Path, tmp_path: Path) -> None:
    options = ("--training.epochs", 5, "--data.jitter", 0.1)
    printed_by("train", "images", method, "--data", uneven, "--out", tmp_path, *options)
    trained = Trained.of(tmp_path / "images" / "quick" / method / "seed-0")
    assert evaluate(trained).error < 20, "chance is 67 %"
    data, rows = trained.data(), trained.split().evaluation
    predicted = outputs(trained.model, trained.pixels, data.images[rows]).argmax(dim=1)
    assert sorted(set(predicted.tolist())) == [0, 1, 2], "the class with four labels is found too"


def test_a_held_out_part_chooses_the_epoch_and_the_command_says_so(uneven: Path, tmp_path: Path) -> None:
    def said(out: str, *options: object) -> str:
        short = ("--training.epochs", 2, "--training.most-steps", 2)
        arguments = ("train", "images", "plain", "--data", uneven, "--out", tmp_path / out, *short, *options)
        return " ".join(printed_by(*arguments, "--training.least-steps", 1).split())

    few = said("few", "--validation", 0.2)
    assert "no label is held out, because a class has fewer than 10: the last epoch is kept" in few
    assert "held out" not in said("none")


def test_enough_labels_choose_the_epoch(tmp_path: Path) -> None:
    for number, (image, label) in enumerate(pictures(SHAPE, 2, 60, seed=1)):
        write(tmp_path / "data" / ("train" if number < 40 else "test") / FRUIT[label] / f"{number}.png", image)
    options = ("--training.epochs", 3, "--training.least-steps", 1, "--validation", 0.2)
    printed = printed_by("train", "images", "plain", "--data", tmp_path / "data", "--out", tmp_path / "runs", *options)
    said = " ".join(printed.split())
    record = Trained.of(tmp_path / "runs" / "images" / "quick" / "plain" / "seed-0").record
    lowest = min(row["validation error"] for row in record.metrics)
    assert record.metrics[record.epoch - 1]["validation error"] == lowest
    assert f"epoch {record.epoch} of 3 is kept: the lowest error, {lowest:.2f} %, of 8 images" in said
    assert f"test error {record.error:.2f} % of 20 images after {record.epoch} epochs" in said

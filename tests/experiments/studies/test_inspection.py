"""`inspect`: what it says of a network against a direct computation, on every kind of run, and its page."""

import csv
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout
from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.models.network import CutNetwork
from adversarial_dropout.experiments.models.small_cnn import SmallCnn
from adversarial_dropout.experiments.presets.stated import Source
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.studies.inspection.inspection import Inspection, inspect
from adversarial_dropout.experiments.studies.inspection.page import draw_units_by_class
from adversarial_dropout.experiments.trained.trained import Trained

from .. import small_data
from ..calling import fails, printed_by
from ..runs import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    loop.run(small("vadd-qe", epochs=1, steps=60), folder)
    return folder


@pytest.fixture(scope="module")
def inspection(run: Path) -> Inspection:
    return inspect(Trained.of(run), images=120)


def head(inspection: Inspection) -> tuple[Tensor, nn.Linear]:
    """Activations below the layer and the linear output, in float64."""
    model = inspection.trained.model
    assert isinstance(model, CutNetwork)
    with torch.no_grad():
        h = model.under(inspection.stored.float() / 16).double()
    output = nn.Linear(256, 10).double()
    output.load_state_dict({name: value.double() for name, value in model.upper[1].state_dict().items()})
    return h, output


def test_images_are_evenly_spaced_ones_of_the_evaluation_part(inspection: Inspection) -> None:
    data = inspection.trained.data()
    rows = inspection.trained.split().evaluation[torch.arange(120) * 500 // 120]
    assert torch.equal(inspection.stored, data.images[rows])
    assert torch.equal(inspection.labels, data.labels[rows])


def test_the_flips_are_those_of_algorithm_1_against_the_own_class(inspection: Inspection) -> None:
    h, output = head(inspection)
    kept = inspection.work.base.double()
    classes = output(h * kept / 0.5).argmax(dim=1)
    at_one = output(h).softmax(dim=1)
    jacobian = ((at_one - F.one_hot(classes, 10)) @ output.weight * h).detach()  # ∂ CE / ∂ε at 1, in closed form.
    gain = (1 - 2 * kept) * jacobian
    budget = round(0.0234375 * 256)
    assert inspection.budget == budget == 6
    best = gain.clamp(min=0).topk(budget, dim=1).values.sum(dim=1)
    torch.testing.assert_close((gain * inspection.flipped).sum(dim=1), best, rtol=1e-4, atol=1e-9)


def test_probabilities_before_and_after(inspection: Inspection) -> None:
    h, output = head(inspection)
    with torch.no_grad():
        before, after, *random = (
            output(h * mask / 0.5).softmax(dim=1)
            for mask in (inspection.work.base, inspection.work.found, *inspection.work.random)
        )
    own = before.argmax(dim=1, keepdim=True)
    for ours, theirs in (
        (inspection.before, before.gather(1, own)),
        (inspection.after, after.gather(1, own)),
        (inspection.after_random[3], random[3].gather(1, own)),
    ):
        torch.testing.assert_close(ours.double(), theirs.squeeze(1), rtol=1e-4, atol=1e-6)
    assert inspection.changed[0] == pytest.approx(float((after.argmax(dim=1) != own.squeeze(1)).double().mean()))
    assert inspection.changed[0] > inspection.changed[1] >= 0
    assert inspection.after.mean() < inspection.after_random.mean() < 1.01 * inspection.before.mean()
    assert ((inspection.before - inspection.after)[inspection.fragile].diff() <= 0).all()


def test_importance_is_the_mean_of_what_each_unit_changes(inspection: Inspection) -> None:
    """|∂ CE(own class) / ∂ε| at ε = 1, by central differences."""
    h, output = head(inspection)
    classes = output(h).argmax(dim=1)
    step = 1e-6
    for unit in (0, 17, 255):
        sides = []
        for sign in (1, -1):
            mask = torch.ones(256, dtype=torch.float64)
            mask[unit] += sign * step
            sides.append(F.cross_entropy(output(h * mask), classes, reduction="none"))
        slope = ((sides[0] - sides[1]) / (2 * step)).abs().mean()
        assert inspection.importance[unit] == pytest.approx(slope.item(), rel=1e-3, abs=1e-8)


def test_how_often_units_are_flipped(inspection: Inspection) -> None:
    flipped = (inspection.work.base != inspection.work.found).tolist()
    often = [sum(row[unit] for row in flipped) / 120 for unit in range(256)]
    assert [often[unit] for unit in inspection.units.tolist()] == sorted(often, reverse=True)
    for label in (0, 7):
        own = [row for row, other in zip(flipped, inspection.labels.tolist(), strict=True) if other == label]
        share = [sum(row[unit] for row in own) / len(own) for unit in range(256)]
        assert inspection.flipped_by_class[label].tolist() == pytest.approx(share)
    rows = list(csv.DictReader(io.StringIO(inspection.by_unit.csv())))
    assert [float(row["flipped"]) for row in rows] == pytest.approx(often)
    for row in rows:
        assert float(row["dropped"]) + float(row["revived"]) == pytest.approx(float(row["flipped"]))


def test_lines_by_class(inspection: Inspection) -> None:
    lines = {line[0]: line for line in inspection.by_class.texts}
    assert list(lines) == ["all", *"0123456789"]
    assert lines["all"][1] == "120"
    assert sum(int(line[1]) for name, line in lines.items() if name != "all") == 120
    own = inspection.labels == 4
    assert lines["4"][3:6] == tuple(
        f"{values.mean():.4f}"
        for values in (inspection.before[own], inspection.after_random[:, own], inspection.after[own])
    )


def test_the_same_seed_gives_the_same(run: Path, inspection: Inspection) -> None:
    again, other = inspect(Trained.of(run), images=120), inspect(Trained.of(run), images=120, seed=1)
    assert torch.equal(again.work.found, inspection.work.found)
    assert torch.equal(again.importance, other.importance)
    assert not torch.equal(other.work.base, inspection.work.base)


def test_flips_can_be_given(run: Path) -> None:
    few, many = inspect(Trained.of(run), flips=1), inspect(Trained.of(run), flips=256)
    assert (few.budget, many.budget) == (1, 256)
    assert few.flipped.sum(dim=1).max() == 1
    assert many.work.summary["flips"] > 20
    assert len(few.labels) == 500, "all images of the evaluation part, where there are fewer than 1,000"


RUNS = {
    "plain": small("plain", epochs=1, steps=2),
    "sadd": small("sadd", epochs=1, steps=2),
    "no base mask": dataclasses.replace(
        small("plain", epochs=1, steps=2),
        model=SmallCnn(p=0.0, input_noise=0.0),
    ),
    "sum": dataclasses.replace(
        small("plain", epochs=1, steps=2),
        model=SmallCnn(rescale="sum", p=0.9),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_any_run_of_the_digits(name: str, tmp_path: Path) -> None:
    config: ExperimentConfig = RUNS[name]
    loop.run(config, tmp_path)
    flips = 6 if config.model.delta is None else None
    printed_by("inspect", tmp_path, "--images", 30, *(() if flips is None else ("--flips", flips)))
    inspection = inspect(Trained.of(tmp_path), images=30, flips=flips)
    assert inspection.budget == 6
    assert inspection.flipped.any()
    assert inspection.after.mean() < inspection.before.mean()
    if name == "no base mask":
        assert inspection.work.base.all()
        assert "keeps all of them (p = 0)" in " ".join((tmp_path / "inspection.html").read_text().split())


class Page(HTMLParser):
    """The images of a page, its table cells and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})


def test_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    printed = printed_by("inspect", run, "--images", "120", "--out", tmp_path / "page.html")
    inspection = inspect(Trained.of(run), images=120)
    text = (tmp_path / "page.html").read_text()
    for line in inspection.by_class.texts:
        assert all(cell in printed for cell in line[:-1])
        assert all(f"<td>{html.escape(cell)}</td>" in text for cell in line[1:])
    images = Page(text).images
    assert len(images) == 3 + 12
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    captions = re.findall(r"<figcaption>(\d): (\d) with ([\d.]+) → ([\d.]+)(?:, now (\d))?</figcaption>", text)
    assert len(captions) == 12
    for image, (label, was, before, after, became) in zip(inspection.fragile.tolist(), captions, strict=False):
        assert int(label) == inspection.labels[image]
        assert int(was) == inspection.work.before[image].argmax()
        assert int(became or was) == inspection.work.after[image].argmax()
        assert (before, after) == (f"{inspection.before[image]:.2f}", f"{inspection.after[image]:.2f}")
    assert not re.search(r'(href|src)="http', text)
    assert (tmp_path / "page-units.csv").read_text() == inspection.by_unit.csv()
    first = (tmp_path / "page.html").read_bytes()
    printed_by("inspect", run, "--images", "120", "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == first


def test_an_autoencoder(tmp_path: Path) -> None:
    data = small_data.hub_files(tmp_path / "mnist", "mnist")
    for method in ("none", "dropout+add"):
        printed_by(
            *("train", "paper/autoencoder", method, "--scale", "tiny", "--data", data, "--out", tmp_path / "runs")
        )
        run = tmp_path / "runs" / "paper" / "autoencoder" / "tiny" / method / "seed-0"
        flips = None if method == "dropout+add" else 76
        inspection = inspect(Trained.of(run), flips=flips)
        assert inspection.budget == 76
        x = inspection.stored.flatten(1).double() / 255
        error = (inspection.work.after.double() - x).square().mean(dim=1)
        torch.testing.assert_close(inspection.after.double(), error, rtol=1e-4, atol=1e-7)
        damage = inspection.after - inspection.before
        assert (damage[inspection.fragile].diff() <= 0).all()
        assert damage.mean() > 0
        printed_by("inspect", run, *(() if flips is None else ("--flips", flips)))
        page = (run / "inspection.html").read_text()
        assert len(Page(page).images) == 3 + 3 * 12
        assert "reconstruction error" in page


@pytest.mark.parametrize(("preset", "source"), [("paper/mnist-1000", "mnist"), ("authors/cifar10-4000", "cifar10")])
def test_the_papers_networks(preset: str, source: Source, tmp_path: Path) -> None:
    data = small_data.hub_files(tmp_path / source, source)
    printed_by("train", preset, "vadd-kl", "--scale", "tiny", "--data", data, "--out", tmp_path / "runs")
    run = tmp_path / "runs" / preset / "tiny" / "vadd-kl" / "seed-0"
    printed_by("inspect", run)
    inspection = inspect(Trained.of(run))
    assert inspection.flipped.any()
    assert inspection.after.mean() <= inspection.before.mean()


def test_images_in_colour_under_their_names(tmp_path: Path) -> None:
    folder = small_data.image_folder(tmp_path / "photos", each=10, shape=(3, 32, 32))
    printed_by("train", "images", "plain", "--scale", "tiny", "--data", folder, "--out", tmp_path / "runs")
    run = tmp_path / "runs" / "images" / "tiny" / "plain" / "seed-0"
    printed_by("inspect", run, "--flips", 3)
    page = (run / "inspection.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in small_data.FRUIT)


def test_bad_calls(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (("--images", "501"), "error: expected images between 1 and the 500 that runs are evaluated on, got 501"),
        (("--images", "0"), "expected images between 1 and the 500"),
        (("--flips", "257"), "error: expected flips between 1 and the 256 units of the layer, got 257"),
        (("--flips", "0"), "expected flips between 1 and the 256 units"),
        (("--seed", "-1"), "expected seed to be a whole number, 0 or more, got -1"),
        (("--out", "final.json"), "expected --out to be a file with the suffix .html, got final.json"),
    ):
        code, said = fails(capsys, "inspect", run, *options)
        assert code == 2
        assert message in re.sub(r"[│╭╮╰╯─\s]+", " ", said)
    code, said = fails(capsys, "inspect", tmp_path)
    assert (code, "expected the folder of a finished run" in said) == (2, True)


def test_a_budget_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small("vadd-qe", epochs=1, steps=1)
    loop.run(dataclasses.replace(config, model=dataclasses.replace(config.model, delta=0.0)), tmp_path)
    code, said = fails(capsys, "inspect", tmp_path)
    assert code == 2
    assert "error: expected a run whose search may flip a unit, got delta=0.0 of 256 units; give --flips" in said
    printed_by("inspect", tmp_path, "--flips", "2")


def test_a_run_that_has_not_searched_has_the_usual_budget(tmp_path: Path) -> None:
    loop.run(small("pi", epochs=1, steps=1), tmp_path)
    assert inspect(Trained.of(tmp_path), images=20).budget == int(0.05 * 256)
    assert inspect(Trained.of(tmp_path), images=20, flips=3).budget == 3


@pytest.mark.parametrize("layers", [[], [AdversarialDropout(), AdversarialDropout()]])
def test_a_network_without_the_layer(layers: list[nn.Module], run: Path) -> None:
    trained = Trained.of(run)
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))
    with pytest.raises(InvalidValueError, match=f"one AdversarialDropout layer in {run}, got {len(layers)}; train"):
        inspect(dataclasses.replace(trained, model=model))


@pytest.mark.parametrize(("part", "reason"), [("under", "its units are all 0"), ("upper", "does not depend on any")])
def test_a_network_with_nothing_to_flip(part: str, reason: str, run: Path) -> None:
    trained = Trained.of(run)
    with torch.no_grad():
        for parameter in getattr(trained.model, part).parameters():
            parameter.zero_()
    with pytest.raises(InvalidValueError, match=f"a unit to flip, but .*{reason}"):
        inspect(trained, images=20)


def test_a_network_that_is_very_sure(run: Path) -> None:
    """Its probabilities are 1 in float32, and its gradients 0; in float64 the search still finds what hurts."""
    trained = Trained.of(run)
    model = trained.model
    assert isinstance(model, CutNetwork)
    with torch.no_grad():
        for parameter in model.upper.parameters():
            parameter.mul_(6)
    inspection = inspect(trained, images=50)
    assert inspection.before.median() > 0.9999
    assert (inspection.flipped.sum(dim=1) == 6).all()
    assert inspection.importance.max() > 0
    assert inspection.after.mean() < inspection.before.mean() - 0.1


def test_noise_in_evaluation_is_the_same_each_time(tmp_path: Path) -> None:
    config = small("plain", epochs=1, steps=2)
    loop.run(dataclasses.replace(config, model=SmallCnn(noise_in_evaluation=True)), tmp_path)
    first, second = (inspect(Trained.of(tmp_path), images=20, flips=6) for _ in range(2))
    assert torch.equal(first.importance, second.importance)
    assert torch.equal(first.work.found, second.work.found)


def test_odd_names_of_classes(tmp_path: Path) -> None:
    names = ("US$ and A$ \\frac", "$x_12$", "n01440_great_white_shark_carcharodon_carcharias")
    folder = small_data.image_folder(tmp_path / "photos", names, each=10, shape=(3, 32, 32))
    printed_by("train", "images", "vadd-qe", "--scale", "tiny", "--data", folder, "--out", tmp_path / "runs")
    run = tmp_path / "runs" / "images" / "tiny" / "vadd-qe" / "seed-0"
    printed_by("inspect", run)
    printed_by("report", tmp_path / "runs")
    page = html.unescape((run / "inspection.html").read_text())
    assert all(f'<th scope="row">{name}</th>' in page for name in names)
    drawn = draw_units_by_class(inspect(Trained.of(run)))
    assert "n01440_great_white_shark_car" in "".join(re.findall(r"<!-- (.*?) -->", drawn))
    assert "$x_12$" in "".join(re.findall(r"<!-- (.*?) -->", drawn))


def test_records_of_other_data_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = json.loads((run / records.FINAL).read_text())
    other = tmp_path / "copy"
    other.mkdir()
    for name in (records.CONFIG, records.SPLIT, records.METRICS, records.WEIGHTS):
        (other / name).write_bytes((run / name).read_bytes())
    final["data"]["sha256"] = "0" * 64
    (other / records.FINAL).write_text(json.dumps(final))
    code, said = fails(capsys, "inspect", other)
    assert code == 2
    assert "expected the data that" in said

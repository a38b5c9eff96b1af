"""The report: one file that needs no other, with figures that say the same to everyone."""

import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.records import Record, RecordError
from adversarial_dropout.experiments.results.page import draw_errors, draw_learning_curves, write_report
from adversarial_dropout.experiments.results.summary import Group, summarise
from adversarial_dropout.experiments.run import loop

from ..runs import record, small

SVG = "data:image/svg+xml;base64,"
PNG = "data:image/png;base64,"
METHODS = ("plain", "pi", "vadd-qe")
RUNS = [record(method, 8.0 - index + seed, seed=seed) for index, method in enumerate(METHODS) for seed in (0, 1)]


class Page(HTMLParser):
    """What a browser sees: tags with their attributes, cells, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    @property
    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def page(runs: list[Record], folder: Path) -> Page:
    path = folder / "report.html"
    write_report(runs, path, METHODS)
    return Page(path.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """A finished run with its weights, of a network that has learnt something."""
    config = small("vadd-qe", epochs=2, steps=20)
    return [loop.run(config, tmp_path_factory.mktemp("trained"))]


def svg(source: str) -> ElementTree.Element:
    assert source.startswith(SVG)
    return ElementTree.fromstring(base64.b64decode(source.removeprefix(SVG)))


def test_it_needs_no_other_file(trained: list[Record], tmp_path: Path) -> None:
    seen = page([*RUNS, *trained], tmp_path)
    assert seen.open == []
    assert not {"script", "link", "iframe", "object", "base", "a"} & {tag for tag, _ in seen.tags}
    for tag, attributes in seen.tags:
        assert not {"href", "srcset", "onload", "style"} & attributes.keys()
        assert ("src" in attributes) == (tag == "img")
    assert "://" not in seen.text
    pictures = [image for image in seen.images if image["src"].startswith(PNG)]
    assert len(pictures) == 8, "the most confident mistakes"
    assert len(seen.images) == 6 + len(pictures)
    for image in seen.images:
        if image in pictures:
            continue
        picture = svg(image["src"])
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        for element in picture.iter():
            links = [value for name, value in element.attrib.items() if name.endswith("href")]
            assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_every_picture_says_what_it_shows(trained: list[Record], tmp_path: Path) -> None:
    seen = page([*RUNS, *trained], tmp_path)
    alts = [image["alt"] for image in seen.images]
    assert alts[:2] == [
        "Errors in percent by method: plain 8.50, pi 7.50, vadd-qe 6.50. Lowest: vadd-qe.",
        "Learning curves: error against epoch, mean over seeds; at the end plain 8.50, pi 7.50, vadd-qe 6.50.",
    ]
    assert alts[4].startswith("Confusion matrix of digits-100 vadd-qe, seed 0 on 500 images, true classes in rows and")
    assert re.search(r"Most frequent confusions: \d taken for \d: \d+; ", alts[4])
    assert all(re.match(r"Image of \d taken for \d, with probability [01]\.\d{3}: row \d+$", alt) for alt in alts[5:-1])
    at_work = alts[-1]
    assert at_work.startswith("Adversarial dropout at work; image of ")
    chances = [float(value) for value in re.findall(r"\d\.\d\d", at_work)]
    assert len(chances) == 9
    assert all(0 <= chance <= 1 for chance in chances)


def test_the_table_is_that_of_the_records(tmp_path: Path) -> None:
    seen = page(RUNS, tmp_path)
    (group,) = summarise(RUNS, METHODS)
    assert seen.cells == [*group.table.header, *(cell for row in group.table.texts for cell in row)]
    assert group.table.title in seen.text
    bold = [index for index, (tag, attributes) in enumerate(seen.tags) if attributes.get("class") == "best"]
    rows = [index for index, (tag, _) in enumerate(seen.tags) if tag == "tr"]
    assert [rows.index(index) for index in bold] == [3], "vadd-qe, in the third row after the header"


def test_where_the_runs_were_made(tmp_path: Path) -> None:
    seen = page(RUNS, tmp_path)
    assert "a processor, 2 cores, no GPU; Linux; Python 3.11; torch 2.13.0; source commit 0123456789abcdef" in seen.text


def test_what_comes_from_records_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&\"'"
    seen = page([record(name, 5.0, preset=name), record("plain", 6.0, preset=name)], tmp_path)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert name in seen.cells
    assert all(name in image["alt"] for image in seen.images)


def test_scale_tiny_means_nothing(tmp_path: Path) -> None:
    warning = "The errors mean nothing."
    assert warning in page([record("plain", 80.0, scale="tiny")], tmp_path).text
    assert warning not in page(RUNS, tmp_path).text
    both = page([*RUNS, record("plain", 80.0, scale="tiny")], tmp_path).text
    assert both.count(warning) == 1
    assert both.index("scale quick: ") < both.index(warning) < both.index("scale tiny: ")


def test_a_report_without_weights_says_so(trained: list[Record], tmp_path: Path) -> None:
    note = "No saved classifier with virtual adversarial dropout and p > 0 is among these runs"
    assert note in page(RUNS, tmp_path).text
    with_weights = page(trained, tmp_path)
    assert note not in with_weights.text
    assert "on 500 images of its evaluation part" in with_weights.text


def test_adversarial_dropout_at_work(trained: list[Record], tmp_path: Path) -> None:
    text = page(trained, tmp_path).text
    assert "The trained model of digits-100 vadd-qe, seed 0" in text
    numbers = re.search(
        r"search flips ([\d.]+) of 256 units.*by ([\d.]+) nats.*give ([\d.]+) nats.* and ([\d.]+) nats", text
    )
    assert numbers is not None
    flips, searched, random, largest = map(float, numbers.groups())
    assert 1 <= flips <= 0.05 * 256
    assert searched > largest > random > 0


def test_a_run_whose_search_may_flip_nothing(tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=1, steps=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, delta=0.0))
    assert "flips 0.0 of 256 units" in page([loop.run(config, tmp_path / "run")], tmp_path).text


def test_a_run_on_validation_data(tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=1, steps=1, validation=50)
    text = page([loop.run(config, tmp_path / "run")], tmp_path).text
    assert "validation error" in text
    assert "on 50 images of its evaluation part" in text


def test_damaged_weights_are_named(trained: list[Record], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in trained[0].folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / records.WEIGHTS).write_bytes(b"no tensors")
    text = page([records.read_record(folder)], tmp_path).text
    assert f"could not be looked at: cannot read the weights {folder / records.WEIGHTS}" in text
    assert text.count("could not be looked at") == 1
    assert "Error by method" in text, "the rest of the report stands"


def test_repetition_gives_the_same_bytes(trained: list[Record], tmp_path: Path) -> None:
    runs = [*RUNS, *trained]
    write_report(runs, tmp_path / "first.html", METHODS)
    torch.manual_seed(77)
    write_report(runs, tmp_path / "second.html", METHODS)
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_it_replaces_the_one_before_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=f"cannot write {tmp_path / 'file' / 'report.html'}"):
        write_report(RUNS[:1], tmp_path / "file" / "report.html")
    (tmp_path / "report.html").write_text("old")
    assert page(RUNS[:1], tmp_path).tags[0][0] == "html"


ODD = {
    "one seed": [record("plain", 8.0)],
    "no error at all": [record("plain", 0.0, curve=(0.0, 0.0)), record("vadd-qe", 0.0, curve=(0.0, 0.0))],
    "all wrong": [record("plain", 100.0, curve=(100.0,))],
    "one epoch": [record("plain", 8.0, curve=())],
    "unequal lengths": [record("plain", 8.0, curve=(50.0,)), record("plain", 9.0, seed=1, curve=(50.0, 20.0, 10.0))],
    "many methods": [record(f"method-{number}", 5.0 + number) for number in range(23)],
    "signs": [record("a & <b> 50 %", 8.0)],
    "some zeros": [record("plain", 0.0, curve=(50.0, 0.0)), record("vadd-qe", 0.2)],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("draw", [draw_errors, draw_learning_curves], ids=["errors", "curves"])
def test_figures_of_odd_records(draw: object, odd: str) -> None:
    assert callable(draw)
    (group,) = summarise(ODD[odd])
    assert isinstance(group, Group)
    picture = draw(group)
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert draw(group) == picture


def test_figures_differ_where_the_numbers_do() -> None:
    (first,), (second,) = summarise(RUNS), summarise([*RUNS[:-1], record("vadd-qe", 3.0, seed=1)])
    assert draw_errors(first) != draw_errors(second)
    assert draw_learning_curves(first) != draw_learning_curves(second)

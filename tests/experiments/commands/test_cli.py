"""The command: what it prints, what it leaves, and how it ends when something is wrong."""

import dataclasses
import errno
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.experiments import cli, presets, records
from adversarial_dropout.experiments.commands.train import Train
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.terms import Vadd

TINY = ("--scale", "tiny")


def train(out: Path, *arguments: str) -> Record:
    """Train by the command line and read the only record below ``out``."""
    cli.main(["train", *arguments, "--out", str(out)])
    (record,) = records.find_records(out)
    return record


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and what stands on stderr; nothing else is said, and never a traceback."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert isinstance(end.value.code, int)
    return end.value.code, " ".join(printed.err.split())


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*") if path.name != ".lock"}


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["demo", *TINY, "--seeds", "1", "--jobs", "1", "--out", str(tmp_path)]
    cli.main(command)
    printed = capsys.readouterr().out
    methods = presets.find("digits-100").methods
    shown = [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]
    assert shown == list(methods)
    assert "7 of 7 runs" in printed
    assert f"report: {tmp_path / 'report.html'}" in printed
    assert {record.config.method for record in records.find_records(tmp_path)} == set(methods)
    page = (tmp_path / "report.html").read_text()
    before = times(tmp_path)
    assert len(before) >= 7 * 6
    cli.main(command)
    assert times(tmp_path) == before, "a second call repeats nothing"
    assert (tmp_path / "report.html").read_text() == page
    table = re.compile(r"^[│┏┡└].*$", re.MULTILINE)
    assert table.findall(capsys.readouterr().out) == table.findall(printed)


def test_train_is_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = train(tmp_path, "digits-100", "vadd-qe+vat", *TINY, "--seed", "3")
    assert record.config == presets.get("digits-100", "vadd-qe+vat", "tiny", 3)
    printed = capsys.readouterr().out
    assert f"test error {record.error:.2f} % of 500 images after 2 epochs" in printed
    assert f"record: {record.folder}" in printed
    assert record.folder == tmp_path / "digits-100" / "tiny" / "vadd-qe+vat" / "seed-3"


def test_train_by_default(tmp_path: Path) -> None:
    assert train(tmp_path, *TINY).config == presets.get("digits-100", "vadd-qe", "tiny", 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("digits-100", "plain", "--scale", "tiny"),
        ("digits-100", "plain", "--scale=tiny"),
        ("--scale", "tiny", "digits-100", "plain"),
        ("digits-100", "--scale", "tiny", "plain"),
        ("--seed", "0", "digits-100", "--scale=tiny", "plain"),
    ],
)
def test_options_may_stand_anywhere(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert train(tmp_path, *arguments).config == presets.get("digits-100", "plain", "tiny", 0)


def test_options_reach_the_record(tmp_path: Path) -> None:
    record = train(
        tmp_path, "digits-100", "vadd-qe+vat", *TINY, "--threads", "2", "--training.epochs", "1",
        "--training.learning-rate", "0.01", "--training.batch-unlabelled", "64", "--model.p", "0.25",
        "--model.delta", "0.1", "--model.rescale", "sum", "--data.labelled", "50", "--data.validation", "100",
        "--terms.vadd.weight", "7", "--terms.vadd.divergence", "kl", "--terms.vadd.noise", "shared",
        "--terms.vadd.no-ramp",
    )  # fmt: skip
    config = record.config
    assert config.threads == 2
    training = config.training
    assert (training.epochs, training.learning_rate, training.batch_unlabelled) == (1, 0.01, 64)
    assert (config.model.p, config.model.delta, config.model.rescale) == (0.25, 0.1, "sum")
    assert (config.data.labelled, config.data.validation) == (50, 100)
    assert config.terms["vadd"] == Vadd(weight=7.0, divergence="kl", noise="shared", ramp=False)
    # What was not asked for is the preset's.
    preset = presets.get("digits-100", "vadd-qe+vat", "tiny")
    assert training.batch_labelled == preset.training.batch_labelled
    assert dataclasses.replace(config.model, p=0.5, delta=preset.model.delta, rescale="inverted") == preset.model
    assert list(config.terms) == ["vadd", "vat"]
    assert config.terms["vat"] == preset.terms["vat"]
    split = Split.from_dict(json.loads((record.folder / records.SPLIT).read_text()))
    assert (len(split.labelled), len(split.evaluation)) == (50, 100)
    assert len(record.metrics) == 1


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["presets"])
    printed = capsys.readouterr().out
    for preset in presets.PRESETS.values():
        assert preset.name in printed
        assert all(method in printed for method in preset.methods)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = train(tmp_path / "runs", "digits-100", "plain", *TINY)
    capsys.readouterr()
    cli.main(["report", str(tmp_path / "runs")])
    printed = capsys.readouterr().out
    assert re.search(rf"│ plain +│ +{record.error:.2f}", printed)
    assert f"report: {tmp_path / 'runs' / 'report.html'}" in printed
    page = (tmp_path / "runs" / "report.html").read_bytes()
    cli.main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "elsewhere" / "page.html")])
    assert (tmp_path / "elsewhere" / "page.html").read_bytes() == page


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["train"], ["train", "digits-100", "plain"], ["presets"], ["report"]]
)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: adversarial-dropout" in printed
    if command[:1] == ["train"]:
        assert "--training.epochs" in printed


def test_help_shows_the_values_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "digits-100", "vadd-qe", "--help"])
    printed = capsys.readouterr().out
    assert "--terms.vadd.weight" in printed
    assert "--terms.vat" not in printed
    (term,) = presets.get("digits-100", "vadd-qe").terms.values()
    assert f"(default: {term.weight})" in printed


MISTAKES = {
    "train digits-10 plain": "the preset to be one of digits-100, .*, got 'digits-10'; did you mean \"digits-100\"",
    "train digits-100 vad-qe": 'expected the method of digits-100 to be one of .* did you mean "vadd-qe"',
    "train digits-100 plain --scale paper": "expected the scale of digits-100 to be one of tiny, quick, got 'paper'",
    "train --scale tiny --data.labelled 105": "data.labelled to be a multiple of the 10 classes",
    "train --scale tiny --data.labelled 5000": "lower data.labelled",
    "train --scale tiny --data.name digit": 'did you mean "digits"',
    "train --scale tiny --model.name cnn": 'did you mean "small-cnn"',
    "train --scale tiny --model.p 1.5": r"model.p to be in \[0, 1\], got 1.5",
    "train --scale tiny --model.delta -1": r"model.delta to be in \[0, 1\], got -1",
    "train --scale tiny --training.epochs 0": "training.epochs to be a whole number, 1 or more, got 0",
    "train --scale tiny --model.delta None": "expected model.delta, the budget of the search of vadd, got none",
    "train digits-100 vat --scale tiny --model.delta 0.1": "model.delta=None, because no term .* searches",
    "train digits-100 plain --scale tiny --training.ramp-up 3": "training.ramp_up=0, because nothing",
    "train --scale tiny --model.name autoencoder": "images, as autoencoder does, got vadd, which is for classes",
    "train --scale tiny --terms.vadd.weight -1": "weight of vadd, 0 or more, got -1",
    "train --scale tiny --seed -1": "seed to be a whole number, 0 or more, got -1",
    f"train --scale tiny --seed {2**64}": "expected .*seed",
    "train --scale tiny --training.learning-rate 1e30 --training.epochs 3": "finite",
    "demo --scale tiny --seeds 0": "expected .*seeds",
    "demo --scale tiny --seeds -1": "expected .*seeds",
    "demo --scale tiny --seeds 1 --jobs 0": "expected .*jobs",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = fails(capsys, *command.split())
    assert re.search(MISTAKES[command], printed), printed
    assert code == 2


def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = fails(capsys, "report", str(tmp_path))
    assert code == 1
    assert printed.startswith(f"error: no finished run below {tmp_path}; train one with `adversarial-dropout train`")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "trian",
        "train --training.epoch 3",
        "train digits-100 plain --terms.vadd.weight 3",
        "train --terms.vadd.eps 1",
        "train digits-100 pi --terms.pi.noise shared",
        "train digits-100 sadd --terms.sadd.divergence kl",
        "train --model.granularity channel",
        "train --model.width 64",
        "train --scale huge",
        "train --training.epochs many",
        "demo digits-100",
    ],
)
def test_what_the_parser_refuses(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = fails(capsys, *command.split())
    assert code == 2
    assert printed
    assert not list(tmp_path.iterdir())


def test_another_config_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, *TINY)
    code, printed = fails(capsys, "train", *TINY, "--training.epochs", "3", "--out", str(tmp_path))
    assert code == 2
    assert "another config (recorded → asked for): training.epochs: 2 → 3" in printed


@pytest.mark.parametrize("command", [("train",), ("demo", "--seeds", "1", "--jobs", "1")])
def test_a_full_disk(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, printed = fails(capsys, *command, *TINY, "--out", str(tmp_path))
    assert code == 1
    assert re.search(f"error: .*cannot write {tmp_path}/.*: No space left on device", printed)


def test_a_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "digits-100", "plain", *TINY)
    (tmp_path / "file").write_text("")
    code, printed = fails(capsys, "report", str(tmp_path), "--out", str(tmp_path / "file" / "page.html"))
    assert code == 1
    assert "error: cannot write" in printed


@pytest.mark.parametrize("command", [("train",), ("demo", "--seeds", "1", "--jobs", "1")])
def test_interrupted(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_train", interrupted)
    code, printed = fails(capsys, *command, *TINY, "--out", str(tmp_path))
    assert code == 130
    assert "stopped; the same command resumes" in printed


@pytest.mark.parametrize("name", ["runs [old]", "runs[/x]"])
def test_folders_with_brackets_are_printed_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    record = train(out, "digits-100", "plain", *TINY)
    assert f"record: {record.folder}" in capsys.readouterr().out
    cli.main(["report", str(out)])
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from adversarial_dropout.experiments import __main__

    monkeypatch.delitem(sys.modules, "adversarial_dropout.experiments.cli", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit, match=r"the command needs tyro; pip install 'adversarial-dropout\[experiments\]'"):
        __main__.main()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("digits-100 sadd --training.steps-per-epoch 20", {"batch_unlabelled": 0, "steps_per_epoch": 20}),
        ("images plain --data pictures/ --training.steps-per-epoch None", {"batch_unlabelled": 64}),
        ("paper/svhn-1000 vadd-kl --scale paper --training.ramp-down 0", {"beta1_end": None}),
        ("paper/svhn-1000 vadd-kl --scale paper --training.optimizer sgd", {"beta1_end": None, "beta1": 0.9}),
        ("--terms.vadd.no-ramp", {"ramp_up": 0}),
        ("digits-100 plain --model.name autoencoder --training.batch-unlabelled 0", {"batch_unlabelled": 0}),
        ("--seed=3 digits-100 --scale=tiny vadd-qe --training.learning_rate=0.5", {"learning_rate": 0.5}),
    ],
)
def test_what_the_preset_had_and_the_run_does_not_use_is_left_out(arguments: str, found: dict[str, object]) -> None:
    command = cli.parse(["train", *arguments.split()])
    assert isinstance(command, Train)
    config = command.config.used(command.given)
    assert {name: getattr(config.training, name) for name in found} == found
    assert config.data.name in ("digits", "svhn", "pictures")

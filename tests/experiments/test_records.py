"""The files of a run: written whole or not at all, read with care."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.data.splits import Split
from adversarial_dropout.experiments.records import RecordError, RecordWarning
from adversarial_dropout.experiments.run import loop

from .runs import result, small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    loop.run(small("vadd-qe", epochs=2), folder)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_writing_makes_folders_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    records.write_bytes(path, b"one")
    records.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [path.name for path in path.parent.iterdir()] == ["file"]


def test_writing_keeps_what_it_replaces_if_asked(tmp_path: Path) -> None:
    path, previous = tmp_path / "file", tmp_path / "previous"
    records.write_bytes(path, b"one", previous=previous)
    assert not previous.exists()
    records.write_bytes(path, b"two", previous=previous)
    records.write_bytes(path, b"three", previous=previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"three", b"two")


def test_a_record_holds_all_that_a_run_was(finished: Path) -> None:
    record = records.read_record(finished)
    assert record.config == small("vadd-qe", epochs=2)
    assert [row["epoch"] for row in record.metrics] == [1.0, 2.0]
    assert list(record.metrics[0]) == ["epoch", "loss", "ce", "vadd", "error"]
    assert record.final["metrics"] == record.metrics[-1], "numbers in full precision"
    assert record.error == record.metrics[-1]["error"]
    assert record.final["evaluated_on"] == "test"
    assert 0 < record.seconds < 60
    split = Split.from_dict(json.loads((finished / records.SPLIT).read_text()))
    assert (len(split.labelled), len(split.unlabelled), len(split.evaluation)) == (100, 1297, 500)
    environment = record.final["environment"]
    assert {"python", "packages", "system", "processor", "cores", "gpu", "commit"} <= environment.keys()
    assert {"adversarial-dropout", "torch", "numpy", "scikit-learn", "accelerate"} <= environment["packages"].keys()


def test_the_commit_is_that_of_the_source() -> None:
    commit = records.environment()["commit"]
    assert commit is None or len(commit.rstrip("+")) == 40


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (records.METRICS, b""),
        (records.METRICS, b"epoch,loss,ce,vadd,error\n1.0,2.3,2.3,0.1,80.0\n2.0,2.3"),
        (records.METRICS, b"epoch,loss\n1.0,2.0,3.0\n"),
        (records.METRICS, b"epoch,error\n1.0,many\n"),
        (records.METRICS, b"\xff\xfe\x00"),
        (records.METRICS, None),
        (records.CONFIG, b""),
        (records.CONFIG, b'{"preset": "digits-100"'),
        (records.CONFIG, b"[]"),
        (records.CONFIG, b"\xff\xfe\x00"),
        (records.CONFIG, None),
        (records.FINAL, b"{"),
        (records.FINAL, b"{}"),
        (records.FINAL, b"[]"),
    ],
)
def test_a_damaged_record_names_its_file(finished: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(AdversarialDropoutError, match=f"{folder / name}.* give the command of the run again"):
        records.read_record(folder)


@pytest.mark.parametrize("change", [{"colour": 1}, {"scale": None, "data": None}])
def test_a_record_of_another_version(finished: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    config = json.loads((folder / records.CONFIG).read_text())
    (folder / records.CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(InvalidValueError, match="expected a config of this version") as caught:
        records.read_record(folder)
    assert str(folder) in str(caught.value), "which of many runs it is"


def in_the_earlier_layout(folder: Path, **model: Any) -> None:
    """Write the config there as it was written when all networks, and all terms, had the same settings."""
    config = json.loads((folder / records.CONFIG).read_text())
    config["model"] |= {"kernel_size": 3, "width": 128, "norm": "batch", "granularity": "element", **model}
    config["training"]["beta1_end"] = config["training"]["beta1"]
    config["terms"] = [{"kind": kind, "eps": 1.0, "xi": None, **term} for kind, term in config["terms"].items()]
    (folder / records.CONFIG).write_text(json.dumps(config))


def test_a_record_in_the_earlier_layout(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    in_the_earlier_layout(folder)
    before = (folder / records.CONFIG).read_bytes()
    assert records.read_record(folder).config == records.read_record(finished).config
    assert loop.run(small("vadd-qe", epochs=2), folder).metrics == records.read_record(finished).metrics
    assert (folder / records.CONFIG).read_bytes() == before, "it is not trained again"


def test_a_record_that_says_what_no_run_has_done(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    in_the_earlier_layout(folder, granularity="channel")
    message = "got granularity='channel' of small-cnn, which had no such setting; delete the run and repeat it"
    with pytest.raises(InvalidValueError, match=message) as caught:
        records.read_record(folder)
    assert str(folder) in str(caught.value), "which of many runs it is"


def test_finding_records(finished: Path, tmp_path: Path) -> None:
    names = ("b/seed-1", "a/seed-2", "a/seed-10")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy_of(finished, tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / records.CONFIG).write_text("{}")
    found = records.find_records(tmp_path)
    assert {record.folder.relative_to(tmp_path).as_posix() for record in found} == set(names)
    assert [record.folder for record in found] == sorted(record.folder for record in found)


def test_nothing_to_find(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RecordError, match=f"no finished run below {folder}; train one with `adversarial-dropout"):
            records.find_records(folder)


def test_epochs_done(finished: Path, tmp_path: Path) -> None:
    assert records.epochs_done(finished) == 2
    assert records.epochs_done(tmp_path) == 0
    (tmp_path / records.METRICS).write_bytes(b"")
    assert records.epochs_done(tmp_path) == 0


def test_a_second_worker_waits_for_the_first(tmp_path: Path) -> None:
    config = small(epochs=2)

    def run() -> None:
        with pytest.warns(RecordWarning, match=f"another process works on {tmp_path / 'shared'}; waiting for it"):
            loop.run(config, tmp_path / "shared")

    second = threading.Thread(target=run)
    with records.locked(tmp_path / "shared"):
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert not (tmp_path / "shared" / records.CONFIG).exists()
    second.join(60)
    loop.run(config, tmp_path / "alone")
    assert result(tmp_path / "shared") == result(tmp_path / "alone")


def test_the_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), records.locked(tmp_path):
        raise KeyError
    done = threading.Event()

    def enter() -> None:
        with records.locked(tmp_path):
            done.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    assert done.wait(10)
    thread.join()


def test_folders_of_runs_do_not_collide() -> None:
    configs = [small(method, seed=seed) for method in ("plain", "vadd-qe", "vadd-qe+vat") for seed in (0, 1, 10)]
    folders = {records.run_folder(Path("out"), config) for config in configs}
    assert len(folders) == 9
    assert Path("out/digits-100/tiny/vadd-qe+vat/seed-10") in folders

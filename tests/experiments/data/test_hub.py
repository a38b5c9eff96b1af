"""Data from the hub; and without it: what was downloaded before, or an error within seconds that says what to do."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from adversarial_dropout.experiments import hub
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import sources
from adversarial_dropout.experiments.records import RecordError

from ..fake_hub import NAME, FakeHub
from ..pictures import images, write, write_parquet

CODE = """
import json, sys, time
from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data import sources
begin = time.monotonic()
try:
    data = sources.load(DataConfig(name=sys.argv[1]))
    result = {"first": data.images[:, 0, 0, 0].tolist(), "labels": data.labels.tolist(), "test": data.test.tolist()}
except AdversarialDropoutError as error:
    result = {"error": str(error)}
print(json.dumps({**result, "seconds": time.monotonic() - begin}))
"""


@dataclass(frozen=True)
class Machine:
    """A machine with its own downloads in ``home``."""

    home: Path

    def load(self, name: str, address: str, **environment: str) -> dict[str, Any]:
        """Load a data set in a new process, which reads the address of the hub at its start."""
        variables = {
            "HF_HOME": str(self.home / "hf"),
            "ADVERSARIAL_DROPOUT_CACHE": str(self.home / "cache"),
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", CODE, name],
            env={**os.environ, "HF_ENDPOINT": address, **variables},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def forget_decoded(self) -> None:
        """Leave only the downloads of ``datasets``."""
        for path in (self.home / "cache").iterdir():
            path.unlink()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine")


@pytest.fixture
def served(tmp_path: Path) -> Callable[[], contextlib.AbstractContextManager[FakeHub]]:
    """A hub with training images 0, 1, 2, 3 and test images 8, 9."""
    folder = tmp_path / "served"
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", image=images(0, 1, 2, 3), label=[1, 0, 1, 0])
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", image=images(8, 9), label=[0, 1])

    @contextlib.contextmanager
    def serving() -> Iterator[FakeHub]:
        fake = FakeHub(folder)
        try:
            yield fake
        finally:
            fake.close()

    return serving


Served = Callable[[], contextlib.AbstractContextManager[FakeHub]]
EXPECTED = {"first": [8, 9, 0, 1, 2, 3], "labels": [0, 1, 1, 0, 1, 0], "test": [0, 1]}


def content(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "seconds"}


def test_from_the_hub_then_without_it(machine: Machine, served: Served) -> None:
    with served() as fake:
        assert content(machine.load(NAME, fake.address)) == EXPECTED
        asked = len(fake.asked)
        assert sum("GET" in line and ".parquet" in line for line in fake.asked) == 2
        assert content(machine.load(NAME, fake.address)) == EXPECTED
        assert len(fake.asked) == asked, "what is decoded needs no hub"
        address = fake.address
    machine.forget_decoded()
    result = machine.load(NAME, address)
    assert content(result) == EXPECTED, "what was downloaded needs none either"
    assert result["seconds"] < 20
    machine.forget_decoded()
    assert content(machine.load(NAME, address, HF_HUB_OFFLINE="1")) == EXPECTED


def test_what_the_hub_does_not_have(machine: Machine, served: Served) -> None:
    with served() as fake:
        result = machine.load("me/absent", fake.address)
        message = "cannot load me/absent from the Hugging Face hub, and there is no folder of that name here: "
        assert result["error"].startswith(f"{message}DatasetNotFoundError: Dataset 'me/absent' doesn't exist")
        assert result["seconds"] < 20
        assert "BuilderConfig 'other' not found" in machine.load(f"{NAME}:other", fake.address)["error"]


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """It takes calls, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_hub() -> str:
    """Nobody is there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["silent_hub", "closed_hub", "no such name"])
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("mnist", "ylecun/mnist/tree/main/mnist"),
        ("svhn", "ufldl-stanford/svhn/tree/main/cropped_digits"),
        ("cifar10", "uoft-cs/cifar10/tree/main/plain_text"),
        ("me/pets", "me/pets/tree/main"),
    ],
)
def test_no_network(
    name: str, address: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = request.getfixturevalue(kind) if kind.endswith("_hub") else "http://hub.invalid"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(RecordError) as caught:
        sources.load(DataConfig(name=name))
    assert time.monotonic() - begin < 5
    identifier = address.partition("/tree")[0]
    assert str(caught.value) == (
        f"cannot load {identifier}: the Hugging Face hub does not answer, and there is no folder of that name here. "
        f"On another machine, download train-*.parquet and test-*.parquet from "
        f"https://huggingface.co/datasets/{address}, put them into a folder here, and give that with --data FOLDER"
    )
    assert not datasets.config.HF_HUB_OFFLINE, "the next one is tried again"


def test_a_slow_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*arguments: object, **options: object) -> list[object]:
        time.sleep(3)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(RecordError, match="the Hugging Face hub does not answer"):
        sources.load(DataConfig(name="mnist"))
    assert time.monotonic() - begin < 2.5


def test_seconds_of_patience() -> None:
    assert 2 <= hub._SECONDS <= 10


def test_a_folder_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "me" / "pets" / "notes.txt", b"")
    write_parquet(tmp_path / "me" / "pets" / "x.parquet", image=images(1, 2), label=["a", "b"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "answers", lambda: pytest.fail("asked the hub"))
    assert sources.load(DataConfig(name="me/pets")).classes == ("a", "b")

"""Checkpoints: nothing is lost, damage is seen, and no code is executed."""

import contextlib
import hashlib
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adversarial_dropout.experiments.records import RecordError, RecordWarning
from adversarial_dropout.experiments.run import checkpoint, loop

from ..runs import checkpoint_state, interrupt, result, small

SIZE = 2_500
"""Less than the size of the files below."""

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "digest alone": lambda content: content[-32:],
    "half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"<html>disk quota exceeded</html>" * 9,
}


def flipped(index: int) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[index] ^= 1 << (index % 8)
        return bytes(changed)

    return damage


for _index in (0, 1, -1, -32, -33, -40, *random.Random(0).sample(range(SIZE), 6)):
    DAMAGES[f"byte {_index} flipped"] = flipped(_index)


def damage(path: Path, how: Callable[[bytes], bytes]) -> None:
    content = path.read_bytes()
    assert len(content) > SIZE
    changed = how(content)
    assert changed != content
    path.write_bytes(changed)


def epoch(state: dict[str, Any] | None) -> int:
    assert state is not None
    value: int = state["epoch"]
    torch.testing.assert_close(state["model"]["weight"], torch.full((5, 3), float(value)), rtol=0, atol=0)
    return value


def test_round_trip(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    state = {
        "epoch": 3,
        "model": {"w": torch.tensor([0.1, -0.0, float("inf"), 1e-45]), "h": torch.rand(2, 3).half()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]},
        "order": generator.get_state(),
        "random": {"cpu": torch.get_rng_state(), "cuda": []},
        "rows": [{"loss": 0.1 + 0.2}],
        "seconds": 1.5,
    }
    expected_order, expected_noise = torch.randperm(9, generator=generator), torch.rand(4)
    checkpoint.save(tmp_path, state)
    read = checkpoint.load(tmp_path)
    assert read is not None
    assert read.keys() == state.keys()
    assert {k: v for k, v in read.items() if k in ("epoch", "rows", "seconds", "optimizer")} == {
        k: v for k, v in state.items() if k in ("epoch", "rows", "seconds", "optimizer")
    }
    assert read["model"]["w"].numpy().tobytes() == state["model"]["w"].numpy().tobytes()  # type: ignore[index]
    assert torch.equal(read["model"]["h"], state["model"]["h"])  # type: ignore[index]
    torch.set_rng_state(read["random"]["cpu"])
    assert torch.equal(torch.rand(4), expected_noise)
    other = torch.Generator()
    other.set_state(read["order"])
    assert torch.equal(torch.randperm(9, generator=other), expected_order)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "absent") is None


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, checkpoint_state(number, number))
    assert epoch(checkpoint.load(tmp_path)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.NAME, checkpoint.PREVIOUS}
    (tmp_path / checkpoint.NAME).unlink()
    assert epoch(checkpoint.load(tmp_path)) == 2


@pytest.mark.parametrize("how", DAMAGES)
def test_the_newest_is_damaged(how: str, tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path, checkpoint_state(number, number))
    newest = tmp_path / checkpoint.NAME
    damage(newest, DAMAGES[how])
    broken = newest.read_bytes()
    with pytest.warns(RecordWarning, match=f"the checkpoint {newest} .*is damaged.*before it.*after epoch 1"):
        state = checkpoint.load(tmp_path)
    assert epoch(state) == 1
    assert (tmp_path / checkpoint.DAMAGED).read_bytes() == broken, "still there to look at"
    # From here on as if nothing had been.
    assert epoch(checkpoint.load(tmp_path)) == 1
    checkpoint.save(tmp_path, checkpoint_state(2, 2))
    assert epoch(checkpoint.load(tmp_path)) == 2


@pytest.mark.parametrize("how", ["empty", "half", "byte 0 flipped"])
def test_both_are_damaged(how: str, tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path, checkpoint_state(number, number))
    newest, previous = tmp_path / checkpoint.NAME, tmp_path / checkpoint.PREVIOUS
    damage(newest, DAMAGES[how])
    damage(previous, DAMAGES[how])
    before = newest.read_bytes(), previous.read_bytes()
    with pytest.raises(RecordError, match=f"{newest}.*{previous}.*delete them to start the run again"):
        checkpoint.load(tmp_path)
    assert (newest.read_bytes(), previous.read_bytes()) == before


def test_the_only_one_is_damaged(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, checkpoint_state(1, 1))
    damage(tmp_path / checkpoint.NAME, DAMAGES["half"])
    with pytest.raises(RecordError, match=f"{tmp_path / checkpoint.NAME}.*delete"):
        checkpoint.load(tmp_path)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def malicious(folder: Path) -> bytes:
    """A checkpoint with the right digest, and code in it."""
    file = io.BytesIO()
    torch.save({"epoch": 1, "model": Malicious(folder)}, file)
    payload = file.getvalue()
    return payload + hashlib.sha256(payload).digest()


def test_the_malicious_pickle_would_do_it(tmp_path: Path) -> None:
    folder = tmp_path / "executed"
    torch.load(io.BytesIO(malicious(folder)[:-32]), weights_only=False)
    assert folder.exists()


@pytest.mark.parametrize("where", [checkpoint.NAME, checkpoint.PREVIOUS])
def test_nothing_is_unpickled(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "executed"
    (tmp_path / where).write_bytes(malicious(folder))
    with contextlib.suppress(Exception):
        checkpoint.load(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("where", [checkpoint.NAME, checkpoint.PREVIOUS])
def test_a_malicious_pickle_is_named(where: str, tmp_path: Path) -> None:
    (tmp_path / where).write_bytes(malicious(tmp_path / "executed"))
    with pytest.raises(RecordError, match=f"{tmp_path / where}.*delete"):
        checkpoint.load(tmp_path)


def test_a_malicious_newest_one_counts_as_damaged(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, checkpoint_state(1, 1))
    (tmp_path / checkpoint.NAME).replace(tmp_path / checkpoint.PREVIOUS)
    (tmp_path / checkpoint.NAME).write_bytes(malicious(tmp_path / "executed"))
    with pytest.warns(RecordWarning, match="damaged"):
        assert epoch(checkpoint.load(tmp_path)) == 1
    assert not (tmp_path / "executed").exists()


def test_a_run_goes_on_from_the_previous_one_with_the_same_bits(tmp_path: Path) -> None:
    config = small("vadd-qe", epochs=4)
    loop.run(config, tmp_path / "whole")
    interrupt(config, tmp_path / "damaged", after=3)
    damage(tmp_path / "damaged" / checkpoint.NAME, DAMAGES["half"])
    with pytest.warns(RecordWarning, match="after epoch 2"):
        loop.run(config, tmp_path / "damaged")
    assert result(tmp_path / "damaged") == result(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_says_so_and_starts_again_without_them(tmp_path: Path) -> None:
    config = small(epochs=3)
    loop.run(config, tmp_path / "whole")
    folder = tmp_path / "damaged"
    interrupt(config, folder, after=2)
    paths = [folder / checkpoint.NAME, folder / checkpoint.PREVIOUS]
    for path in paths:
        damage(path, DAMAGES["empty"])
    for _ in range(2):
        with pytest.raises(RecordError, match="all checkpoints are damaged"):
            loop.run(config, folder)
    for path in paths:
        path.unlink()
    loop.run(config, folder)
    assert result(folder) == result(tmp_path / "whole")

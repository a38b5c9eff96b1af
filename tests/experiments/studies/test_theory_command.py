"""`theory`: the page, its record and bad settings."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from adversarial_dropout.experiments.studies.theory import study as theory_study
from adversarial_dropout.experiments.studies.theory import tables as theory_tables

from ..calling import fails, printed_by

QUICK = ("--problems", "3", "--deltas", "0", "0.01", "--flips", "0", "1", "10")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    printed = printed_by("theory", *QUICK, "--out", tmp_path / "first")
    page = (tmp_path / "first" / "theory.html").read_text()
    plain = json.loads((tmp_path / "first" / "theory.json").read_text())
    assert plain["environment"]["packages"]["torch"]
    found = theory_study.from_dict(plain)
    assert json.loads(json.dumps(dataclasses.asdict(found))) == {k: v for k, v in plain.items() if k != "environment"}
    for table in theory_tables.tables(found):
        assert all(name in page for name in table.header)
        for line in table.texts:
            assert all(cell in printed for cell in line)
    grids = {path.method: list(path.grid) for path in found.paths}
    assert grids["adversarial training"] == [0.0, 0.01]
    assert grids["adversarial dropout"] == [0, 1, 10]
    assert all(one.value < 1e-10 for one in found.deviations if one.holds)
    alts = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]+)">', page)
    assert len(alts) == 2
    assert alts[1].startswith("Coefficients of 10 features under adversarial dropout, for k from 0 to 10: the share")
    printed_by("theory", *QUICK, "--out", tmp_path / "second")
    assert (tmp_path / "first" / "theory.svg").read_bytes() == (tmp_path / "second" / "theory.svg").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--flips", "11"), "error: expected k, a count of features, between 0 and D = 10, got 11"),
        (("--flips", "-1"), "between 0 and D = 10, got -1"),
        (("--deltas", "-0.5"), "error: expected delta to be finite and 0 or more, got -0.5"),
        (("--deltas", "nan"), "got nan"),
        (("--problems", "0"), "expected problems to be"),
    ],
)
def test_bad_settings(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = fails(capsys, "theory", "--problems", "2", *options, "--out", tmp_path / "out")
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()

"""`theory`: the page, its record and bad settings."""

import json
import re
from pathlib import Path

import pytest

from adversarial_dropout.experiments.studies.theory.study import measure
from adversarial_dropout.experiments.studies.theory.tables import tables

from ..calling import fails, printed_by

QUICK = ("--problems", "3", "--deltas", "0", "0.01", "--flips", "0", "1", "10")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    printed = printed_by("theory", *QUICK, "--out", tmp_path / "first")
    page = (tmp_path / "first" / "theory.html").read_text()
    study = json.loads((tmp_path / "first" / "theory.json").read_text())
    assert study.pop("environment")["packages"]["torch"]
    assert study == measure(problems=3, seed=0, deltas=(0.0, 0.01), flips=(0, 1, 10))
    for table in tables(study):
        assert all(name in page for name in table.header)
        for line in table.texts:
            assert all(cell in printed for cell in line)
    grids = {path["method"]: path["grid"] for path in study["paths"]}
    assert grids == {"adversarial training": [0.0, 0.01], "adversarial dropout": [0, 1, 10]}
    assert all(deviation["value"] < 1e-10 for deviation in study["deviations"] if deviation["holds"])
    alts = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]+)">', page)
    assert len(alts) == 2
    assert alts[1].startswith("Coefficients of 10 features under adversarial dropout, for k from 0 to 10: the share")
    printed_by("theory", *QUICK, "--out", tmp_path / "second")
    assert (tmp_path / "first" / "theory.svg").read_bytes() == (tmp_path / "second" / "theory.svg").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--flips", "11"), "error: expected k, a number of features, between 0 and D = 10, got 11"),
        (("--flips", "-1"), "k, a number of features, to be a whole number, 0 or more, got -1"),
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

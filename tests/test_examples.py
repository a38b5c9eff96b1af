"""Every example runs as printed, says what it says in three lines, and learns something."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from experiments import small_data
from text_data import parquet_files, tiny_bert

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
MARKED = re.compile(r"  # [123]$")

DATA = os.environ.get("ADVERSARIAL_DROPOUT_DATA")
MODEL = os.environ.get("ADVERSARIAL_DROPOUT_MODEL")

WITHOUT_DATA = {
    "own_loop.py": ([], 0.85),
    "resnet_channels.py": (["--updates", "60"], 0.5),
    "gru_sentences.py": (["--updates", "40"], 0.9),
    "transformer_sentences.py": (["--updates", "40"], 0.9),
}
"""Options under which an example takes seconds, and the accuracy that it must reach: twice or more that of chance."""

THREE_LINES = [
    name for name in EXAMPLES if "the three lines marked" in " ".join((ROOT / "examples" / name).read_text().split())
]


def accuracy(script: Path, *options: str | Path, timeout: int = 600) -> float:
    """Run a script; the accuracy in its last line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, *options], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    assert "AdversarialDropoutWarning" not in done.stderr, done.stderr
    found = re.fullmatch(r"accuracy (\d\.\d{3}) on \d+ test (images|sentences)", done.stdout.splitlines()[-1])
    assert found, done.stdout
    return float(found[1])


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short_and_listed(name: str) -> None:
    assert len((ROOT / "examples" / name).read_text().splitlines()) < 120
    assert f"examples/{name}" in (ROOT / "docs" / "examples.md").read_text()


def test_examples_that_claim_three_lines_are_known() -> None:
    assert {*WITHOUT_DATA, "minilm_frozen.py"} <= set(THREE_LINES)


@pytest.mark.parametrize("name", THREE_LINES)
def test_the_addition_is_literally_three_lines(name: str) -> None:
    lines = (ROOT / "examples" / name).read_text().splitlines()
    marked = [line for line in lines if MARKED.search(line)]
    assert [line[-1] for line in marked] == ["1", "2", "3"]
    assert [
        word
        for word, line in zip(("AdversarialDropout(", "Virtual", "loss = loss + vadd("), marked, strict=True)
        if word in line
    ]
    imports = r"^from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout$"
    rest = [line for line in lines if line not in marked and not re.match(imports, line)]
    code = "\n".join(rest).split('"""', 2)[2]
    assert "vadd" not in code, "the plain loop must not know of it"
    assert "adversarial" not in code.casefold()


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_it_runs_as_printed_and_the_plain_loop_without_the_three_lines(name: str, tmp_path: Path) -> None:
    options, least = WITHOUT_DATA[name]
    example = ROOT / "examples" / name
    assert accuracy(example, *options) >= least
    plain = tmp_path / name
    plain.write_text("\n".join(line for line in example.read_text().splitlines() if not MARKED.search(line)))
    assert accuracy(plain, *options) >= 0.6 * least


@pytest.mark.parametrize("name", ["gru_sentences.py", "transformer_sentences.py"])
def test_it_reads_sentences(name: str, tmp_path: Path) -> None:
    data = parquet_files(tmp_path, train=300, test=100)
    assert accuracy(ROOT / "examples" / name, "--data", data, "--labels", "200", "--updates", "40") >= 0.9


def test_it_reads_mnist(tmp_path: Path) -> None:
    small_data.hub_files(tmp_path / "mnist", "mnist", train=70)
    accuracy(ROOT / "examples" / "resnet_channels.py", "--data", tmp_path / "mnist", "--updates", "2")


@pytest.mark.parametrize("name", ["minilm_frozen.py", "minilm_finetune.py"])
def test_it_takes_an_encoder(name: str, tmp_path: Path) -> None:
    data = parquet_files(tmp_path / "data", train=300, test=100)
    options = ["--learning-rate", "2e-3"] if name == "minilm_finetune.py" else []
    model = tiny_bert(tmp_path / "model")
    script = ROOT / "examples" / name
    assert accuracy(script, "--model", model, "--data", data, "--labels", "100", "--updates", "300", *options) >= 0.8
    text = script.read_text().splitlines()
    if name in THREE_LINES:
        plain = tmp_path / name
        plain.write_text("\n".join(line for line in text if not MARKED.search(line)))
        accuracy(plain, "--model", model, "--data", data, "--labels", "100", "--updates", "2", *options)


@pytest.mark.parametrize("name", ["gru_sentences.py", "transformer_sentences.py"])
def test_padding_changes_nothing(name: str) -> None:
    names = runpy.run_path(str(ROOT / "examples" / name))
    torch.manual_seed(1)
    model = (
        names["SentenceClassifier"](20, **({"longest": 12} if name.startswith("transformer") else {})).double().eval()
    )
    longer = torch.randint(2, 20, (3, 12))
    longer[1:, 7:] = names["PADDING"]
    together = model(longer)
    alone = model(longer[1:, :7])
    torch.testing.assert_close(together[1:], alone, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out[:, 0].sum(), model.embedding.weight)[0] for out in (together[1:], alone)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(together[1:], model(longer[1:, :6]), atol=1e-6), "a word that is left out matters"


@pytest.mark.skipif(DATA is None, reason="ADVERSARIAL_DROPOUT_DATA does not name a folder with rotten_tomatoes")
@pytest.mark.parametrize("name", ["gru_sentences.py", "transformer_sentences.py"])
def test_it_learns_from_real_sentences(name: str) -> None:
    assert DATA is not None
    assert accuracy(ROOT / "examples" / name, "--data", Path(DATA) / "rotten_tomatoes", timeout=1800) >= 0.58


@pytest.mark.skipif(
    DATA is None or MODEL is None,
    reason="ADVERSARIAL_DROPOUT_DATA and ADVERSARIAL_DROPOUT_MODEL do not name a folder of data and a model",
)
@pytest.mark.parametrize("name", ["minilm_frozen.py", "minilm_finetune.py"])
def test_it_learns_with_a_real_encoder(name: str) -> None:
    assert DATA is not None
    assert MODEL is not None
    data = Path(DATA) / "rotten_tomatoes"
    assert accuracy(ROOT / "examples" / name, "--model", MODEL, "--data", data, timeout=1800) >= 0.6

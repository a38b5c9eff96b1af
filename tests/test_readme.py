"""Every code block and every command of README and CONTRIBUTING runs, the commands at the tiny scale."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import small_data

from adversarial_dropout.experiments import cli

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN_ELSEWHERE = {
    "python3 tasks.py demo": ".ci/run, on a clean clone",
    "python3 tasks.py test": ".ci/run; this is it",
    "python3 tasks.py check": ".ci/run",
    "python3 tasks.py mutants": ".ci/run",
    "python3 tasks.py docs": "test_tables_are_up_to_date",
    "pip install .": "the set-up installs the same package",
    "pip install '.[experiments]'": "the set-up installs the same extra",
    "pip install '.[onnx]'": "the set-up installs the same extra",
    "pip install '.[ray]'": "the set-up installs the same extra",
    "python3 tasks.py benchmarks": "test_benchmarks, small",
}
IN_SECONDS = {
    "demo": ["--scale", "tiny", "--seeds", "1", "--jobs", "1"],
    "train": ["--scale", "tiny"],
    "reproduce table1": ["--scale", "tiny", "--seeds", "1", "--jobs", "1", "--methods", "plain"],
    "reproduce figure2": ["--scale", "tiny", "--jobs", "1", "--images", "20"],
    "theory": ["--problems", "2", "--flips", "0", "1", "--deltas", "0", "0.01"],
}


def blocks(page: str, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall((ROOT / page).read_text()) if name == language]


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_all_blocks_are_known() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        assert {name for name, _ in BLOCK.findall((ROOT / page).read_text())} <= {"python", "sh"}
    assert len(blocks("README.md", "python")) >= 3
    assert any(command.startswith("adversarial-dropout") for command in commands("README.md"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_python_blocks_run(page: str) -> None:
    exec("\n".join(blocks(page, "python")), {"__name__": "readme"})


def test_the_method_of_contributing_works() -> None:
    import torch
    from torch import nn

    names: dict[str, type[nn.Module]] = {}
    exec(blocks("CONTRIBUTING.md", "python")[0], names)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    value = names["InputNoise"](sigma=0.5)(model, torch.randn(6, 4))
    assert value > 0
    value.backward()


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_data.hub_files(tmp_path / "mnist", "mnist")
    # 200 images, five of each class with a label: what "your own images" is for.
    classes = ("cat", "dog", "owl", "fox")
    small_data.image_folder(tmp_path / "photos", classes, each=5, unlabelled=180, shape=(3, 24, 24))
    ran = 0
    for command in commands("README.md"):
        if command in RUN_ELSEWHERE:
            continue
        name, *arguments = shlex.split(command.replace("/quick/", "/tiny/"))
        assert name == "adversarial-dropout", f"{command}: say in RUN_ELSEWHERE where it is run"
        cli.main(arguments + IN_SECONDS.get(arguments[0], IN_SECONDS.get(" ".join(arguments[:2]), [])))
        ran += 1
    assert ran >= 12
    assert (tmp_path / "runs" / "report.html").exists()
    assert (tmp_path / "runs" / "demo" / "report.html").exists()
    assert "MNIST" in (tmp_path / "runs" / "table1-tiny.md").read_text()
    predicted = (tmp_path / "classes.csv").read_text().splitlines()
    assert len(predicted) == 181
    assert {line.split(",")[1] for line in predicted[1:]} <= set(classes)


def test_other_commands_are_tasks() -> None:
    tasks = subprocess.run([sys.executable, ROOT / "tasks.py"], capture_output=True, text=True, check=True).stdout
    for page in ("README.md", "CONTRIBUTING.md"):
        for command in commands(page):
            if command.startswith("python3 tasks.py "):
                assert f"  {command.split()[2]} " in tasks


def test_tables_are_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "tables.py", "--check"], check=True)


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), (
                f"{page} links to {target}"
            )

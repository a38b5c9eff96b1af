"""Every code block and every command of README and CONTRIBUTING runs, the commands at the tiny scale."""

import os
import re
import shlex
import shutil
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
    "pip install '.[transformers]'": "the set-up installs the same extra",
    "pip install '.[lightning]'": "the set-up installs the same extra",
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
        assert {name for name, _ in BLOCK.findall((ROOT / page).read_text())} <= {"python", "sh", "diff"}
    assert len(blocks("README.md", "python")) >= 3
    assert any(command.startswith("adversarial-dropout") for command in commands("README.md"))


def test_python_blocks_run() -> None:
    exec("\n".join(blocks("README.md", "python")), {"__name__": "readme"})


def test_the_blocks_of_the_page_on_integrations_run(tmp_path: Path) -> None:
    for library in ("transformers", "lightning", "accelerate"):
        pytest.importorskip(library, reason=f"needs the extra [{library}]")
    page = blocks("docs/integrations.md", "python")
    assert len(page) == 6
    here = [block for block in page if "import timm" not in block]
    assert len(here) == 5, "timm is not among the development tools; its form is tested in test_runs"
    for block in here:
        assert "# 3" not in block or all(block.count(f"# {number}\n") == 1 for number in (1, 2, 3)), "three lines"
    (tmp_path / "page.py").write_text("\n".join(here))
    subprocess.run([sys.executable, "page.py"], cwd=tmp_path, check=True)


def changed(text: str, diff: str) -> str:
    """``text`` after the hunks of ``diff``, each of which must fit in one place."""
    for hunk in diff.split("@@\n")[1:]:
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        assert text.count(old) == 1, old
        text = text.replace(old, "".join(line[1:] for line in lines if line[0] in " +"))
    return text


def test_the_method_of_contributing_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    page = (ROOT / "CONTRIBUTING.md").read_text()
    touched = re.findall(r"`((?:src|tests)/\S+/\w*input_noise\.py)`:", page)
    for name, body in zip(touched, blocks("CONTRIBUTING.md", "python"), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body)
    for diff in blocks("CONTRIBUTING.md", "diff"):
        name = diff.splitlines()[0].removeprefix("--- a/")
        touched.append(name)
        (tmp_path / name).write_text(changed((tmp_path / name).read_text(), diff))
    assert len(set(touched)) == 4, "as many files as the page says"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    train = ("-m", "adversarial_dropout.experiments", "train", "digits-100", "input-noise", "--scale", "tiny")
    own = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path / "tests"))
    for command in ((*train, "--terms.input-noise.sigma", "0.2"), own):
        subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, check=True)
    assert '"sigma": 0.2' in next(tmp_path.rglob("config.json")).read_text()


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

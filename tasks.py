"""The project's commands, by the standard library alone: ``python3 tasks.py NAME``; without a name it lists them.

Each makes ``.venv`` first, and asks pip again only when pyproject.toml or constraints.txt changed.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")
INPUTS = ("pyproject.toml", "constraints.txt")


def setup() -> None:
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()
    stamp = VENV / "installed.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    if sys.version_info < (3, 11):
        sys.exit(f"error: expected Python 3.11 or later, got {sys.version.split()[0]}; run tasks.py with a newer one")
    print("installing into .venv (once; PyTorch is large)", flush=True)
    venv.create(VENV, with_pip=True, clear=not stamp.exists())
    run(PYTHON, "-m", "pip", "install", "--quiet", "-c", "constraints.txt", "-e", ".[dev]")
    stamp.write_text(digest)


def run(*command: str) -> None:
    try:
        result = subprocess.run(command, cwd=ROOT, check=False)
    except KeyboardInterrupt:
        sys.exit(130)
    if result.returncode:
        sys.exit(result.returncode if result.returncode > 0 else 1)


def demo(*options: str) -> None:
    """Train every method on digits with 100 labels, print the table, write runs/demo/report.html."""
    run(PYTHON, "-m", "adversarial_dropout.experiments", "demo", *options)


def test(*options: str) -> None:
    """Run the tests; options go to pytest."""
    run(PYTHON, "-m", "pytest", *(options or ("-n", "auto")))


def check(*options: str) -> None:
    """Lint, formatting, types."""
    if options:
        sys.exit(f"error: check takes no options, got {' '.join(options)}")
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")
    run(PYTHON, "-m", "mypy")


def mutants(*options: str) -> None:
    """Break the core in one line at a time and see that the tests notice."""
    run(PYTHON, "tests/mutants.py", *options)


def docs(*options: str) -> None:
    """Write the tables of README and docs anew from the records under results/."""
    run(PYTHON, "docs/tables.py", *options)


def benchmarks(*options: str) -> None:
    """Measure speed on an idle machine and write results/ anew; --data FOLDER adds epochs on real images."""
    if options and (len(options) != 2 or options[0] != "--data"):
        sys.exit(f"error: benchmarks takes --data FOLDER or nothing, got {' '.join(options)}")
    if options:
        run(PYTHON, "benchmarks/epochs.py", *options)
    for name in ("mask_search", "step_cost", "own_models", "fast_paths", "processes", "true_batch"):
        run(PYTHON, f"benchmarks/{name}.py")
    docs()


TASKS = {task.__name__: task for task in (demo, test, check, mutants, docs, benchmarks)}


def main() -> None:
    name, *options = sys.argv[1:] or ["help"]
    if name not in TASKS:
        print(__doc__)
        for task in TASKS.values():
            print(f"  {task.__name__:10} {task.__doc__}")
        sys.exit(0 if name in ("help", "-h", "--help") else 2)
    setup()
    TASKS[name](*options)


if __name__ == "__main__":
    main()

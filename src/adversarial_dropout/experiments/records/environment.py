"""Where a result was computed: versions, hardware and commit."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adversarial_dropout.experiments.records.files import write_json

_PACKAGE = Path(__file__).resolve().parents[2]


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, hardware and source commit of this process."""
    packages = ("adversarial-dropout", "torch", "accelerate", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions that results depend on: of Python, of packages, and of the source of this one."""
    source = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        source.update(path.read_bytes())
    current = environment()
    return {"python": current["python"], **current["packages"], "adversarial-dropout's source": source.hexdigest()[:8]}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """Commit of the checkout that the package runs from, with "+" if the package was changed; ``None`` if installed."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "errors.py")  # It fails if another repository surrounds the package.
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_measured(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, with the environment in which it was measured."""
    write_json(path, {**content, "environment": environment()})

"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro
from rich.console import Console

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.config import Device

REPORT = "report.html"
"""Name of the report in the folder of the runs."""

DataFolder = Annotated[Path | None, tyro.conf.arg(name="data", metavar="FOLDER")]

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]


class Command(Protocol):
    """What the command line is read into."""

    def run(self, console: Console) -> None:
        """Do it, and print."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What commands take that train."""

    device: Device = "auto"
    """What to compute on; "auto" takes a GPU if there is one."""
    capture: bool = False
    """On a GPU, record a step as one CUDA graph and replay it. Not yet tried on one."""


@dataclass(frozen=True, kw_only=True)
class Grid(Training):
    """What commands take that train many networks."""

    out: Path = Path("runs")
    """Folder of the runs and the result. What is finished there is not repeated."""
    jobs: int | None = None
    """Runs at a time, each on one core; if not given, as many as there are cores (in a cluster with GPUs, as GPUs)."""
    backend: Literal["local", "ray"] = "local"
    """"local": processes on this machine. "ray": nodes of a Ray cluster, which share --out and --data."""
    ray_address: str | None = None
    """HOST:PORT of the cluster, "auto": one that this machine belongs to, "local": one for this command; if not given,
    $RAY_ADDRESS or "local"."""

    def __post_init__(self) -> None:
        check_positive(self, "jobs")
        if self.ray_address is not None and self.backend != "ray":
            raise InvalidValueError("expected --ray-address with --backend ray alone; add that, or leave it out")


def check_positive(command: object, *names: str) -> None:
    """Raise unless each of these options, if it is given, is 1 or more."""
    for name in names:
        if (given := getattr(command, name)) is not None and given < 1:
            raise InvalidValueError(f"expected {name} to be 1 or more, got {given}")

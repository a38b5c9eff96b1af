"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro
from rich.console import Console

from adversarial_dropout.errors import InvalidValueError, check_at_least
from adversarial_dropout.experiments.config import Device

DataFolder = Annotated[Path | None, tyro.conf.arg(name="data", metavar="FOLDER")]
DataFolderOrList = Annotated[Path | None, tyro.conf.arg(name="data", metavar="FOLDER|LIST.csv")]
TestFolderOrList = Annotated[Path | None, tyro.conf.arg(name="test", metavar="FOLDER|LIST.csv")]


class Command(Protocol):
    """What the command line is read into."""

    def run(self, console: Console) -> None:
        """Do what was asked for, and print to ``console``."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of the commands that train."""

    device: Device = "auto"
    """What to compute on; "auto" takes a GPU if there is one."""
    capture: bool = False
    """On a GPU, record a step as one CUDA graph and replay it. Not yet tried on one."""


@dataclass(frozen=True, kw_only=True)
class Grid(Training):
    """Options of the commands that train many networks."""

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
        if self.jobs is not None:
            check_at_least("jobs", self.jobs, 1)
        if self.ray_address is not None and self.backend != "ray":
            raise InvalidValueError("expected --ray-address only with --backend ray; add that, or leave it out")


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """Options of a command for one trained run."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Folder of the run."""

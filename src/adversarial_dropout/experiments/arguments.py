"""What the command line takes: one dataclass per command."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import (
    DataConfig,
    Device,
    Kind,
    ModelConfig,
    Scale,
    TermConfig,
    TrainingConfig,
    check_seed,
)
from adversarial_dropout.experiments.presets import OWN_IMAGES, paper

REPORT = "report.html"
"""Name of the report in the folder of the runs."""

_DataFolder = Annotated[Path | None, tyro.conf.arg(name="data", metavar="FOLDER")]


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
        _positive(self, "jobs")
        if self.ray_address is not None and self.backend != "ray":
            raise InvalidValueError("expected --ray-address with --backend ray alone; add that, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Demo(Grid):
    """Train every method on digits with 100 labels, then print the table and write the report."""

    seeds: int = 5
    """Runs of each method, with seeds 0, 1, 2, ..."""
    scale: Scale = "quick"
    """"quick" for the real thing, "tiny" for two steps that only show that it runs."""
    out: Path = Path("runs/demo")
    """Folder of the runs and the report. What is finished there is not repeated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "seeds")


@dataclass(frozen=True, kw_only=True)
class Train(Training):
    """Train one network. The settings below are those of the preset and method; each can be overridden."""

    preset: tyro.conf.Positional[str] = "digits-100"
    """Experiment; `adversarial-dropout presets` lists them."""
    method: tyro.conf.Positional[str] = "vadd-qe"
    """Method of the experiment."""
    scale: Scale = "quick"
    """How much of the schedule is run; "tiny" is two steps."""
    seed: int = 0
    """Seed of initialisation, labelled split, order and noise."""
    threads: int = 1
    """CPU threads. Another number gives other rounding."""
    out: Path = Path("runs")
    """Folder below which the run gets a folder of its own. The same command goes on with a run that was stopped."""
    folder: _DataFolder = None
    """Folder with the data: images in a folder per class, or parquet files; without it they come from the hub."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    terms: dict[str, TermConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reproduce(Grid):
    """Train what a table or a figure of the paper shows, and set the results beside its own."""

    result: tyro.conf.Positional[Literal["table1", "table2", "table6", "table7", "figure2", "figure3"]]
    """table1: MNIST. table2: SVHN and CIFAR-10. table6: CIFAR-10 with all labels, table7: with 4,000, both beside more
    that others published. figure2: what the units of autoencoders see. figure3: how strongly they are activated."""
    scale: Scale | None = None
    """"paper": the full schedule. "quick": what a small machine finishes. "tiny": two steps. If not given, "quick" for
    a table and "paper" for a figure."""
    methods: tuple[str, ...] | None = None
    """Methods to train in each column of a table; if not given, those for which the paper has a figure there."""
    presets: tuple[str, ...] = ()
    """Columns of a table, by the name of their presets; all of them if none is given."""
    family: Literal["paper", "authors"] = "paper"
    """"paper": as the paper states it. "authors": as the authors' released code runs it."""
    seeds: int | None = None
    """Runs of each cell, with seeds 0, 1, 2, ...; if not given, at scale "paper" as many as in the paper for a table (8
    for table1, 5 for the others) and 5 for a figure; at "quick" 3, at "tiny" 1."""
    images: int | None = None
    """Test images that the units of a figure's autoencoders are shown; 1,000 if not given."""
    folder: _DataFolder = None
    """Folder with the data in parquet files, or with folders mnist, svhn, cifar10 of them; else from the hub."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ():
            raise InvalidValueError(f"expected methods, one at least of {', '.join(paper.METHODS)}, got none")
        _positive(self, "seeds", "images")
        if self.images is not None and not self.is_figure:
            raise InvalidValueError(f"expected --images with a figure alone, got {self.result}; leave it out")
        if self.is_figure:
            for_tables = {"methods": None, "presets": (), "family": "paper"}
            given = [f"--{name}" for name, usual in for_tables.items() if getattr(self, name) != usual]
            if given:
                raise InvalidValueError(
                    f"expected {' and '.join(given)} with a table alone, got {self.result}, which compares three "
                    f"autoencoders; leave it out"
                )

    @property
    def is_figure(self) -> bool:
        """Whether a figure is asked for; otherwise it is a table."""
        return self.result.startswith("figure")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Print the error of a trained run, in all and by class."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    folder: _DataFolder = None
    """Other labelled images to evaluate on; if not given, the run's own evaluation part."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    out: Path | None = None
    """JSON file for the same figures."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Print the class of each image and its probability."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    format: Literal["csv", "json"] = "csv"
    """"json" has the probabilities of all classes."""
    out: Path | None = None
    """File to write to instead of the terminal."""
    resize: bool = False
    """Bring the images to the size that the run was trained on."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained network for use elsewhere: model.safetensors and config.json."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    out: Path | None = None
    """Folder to write to; RUN/export if not given."""
    onnx: bool = False
    """Write model.onnx too, which takes stored pixels and gives probabilities (needs the extra "onnx")."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Write a page on what the search finds in a trained network: units, classes, predictions, fragile images."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    images: int | None = None
    """Images of its evaluation part to look at, evenly spaced; 1,000, or all there are, if not given."""
    flips: int | None = None
    """Units that the search may flip per image; as many as in training if not given."""
    seed: int = 0
    """Seed of base masks and random flips."""
    folder: _DataFolder = None
    """Where the run's data lie now, if not where they lay."""
    out: Path | None = None
    """The HTML file, beside which FILE-units.csv goes; inspection.html in RUN if not given."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.out is not None and self.out.suffix != ".html":
            raise InvalidValueError(f"expected --out to be a file with the suffix .html, got {self.out}")


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Check the paper's equations on random problems, count the penalties of its Discussion, and show on diabetes data
    what adversarial dropout does to a linear regression, beside adversarial training.
    """

    problems: int = 200
    """Random problems for each equation."""
    seed: int = 0
    """Their seed."""
    deltas: tuple[float, ...] = ()
    """Sizes δ ≥ 0 of adversarial training's perturbation; from 0 to where all coefficients are 0 if not given."""
    flips: tuple[int, ...] = ()
    """Features k that adversarial dropout may drop, 0 to 10; all of these if not given."""
    out: Path = Path("runs")
    """Folder for theory.html, theory.json and theory.svg."""

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List experiments and their methods."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the tables of finished runs and write the HTML report."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder below which the runs are."""
    out: Path | None = None
    """The HTML file; report.html in FOLDER if not given."""


def _positive(command: Grid, *names: str) -> None:
    for name in names:
        if (given := getattr(command, name)) is not None and given < 1:
            raise InvalidValueError(f"expected {name} to be 1 or more, got {given}")


Command = Demo | Train | Reproduce | Evaluate | Predict | Export | Inspect | Theory | Presets | Report


def parse(arguments: list[str]) -> Command:
    """Read the command line; print help or an error and exit where that is called for."""
    train = _train_defaults(arguments[1:]) if arguments[:1] == ["train"] else Train()
    return tyro.cli(
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Theory, tyro.conf.subcommand("theory")]
        | Annotated[Presets, tyro.conf.subcommand("presets")]
        | Annotated[Report, tyro.conf.subcommand("report")],
        args=arguments,
        prog="adversarial-dropout",
        description="Adversarial dropout for PyTorch (Park, Park, Shin, Moon; AAAI 2018).",
        config=(tyro.conf.PositionalMetavarFromFieldName,),
    )


def _train_defaults(arguments: list[str]) -> Train:
    """The settings of the preset, method and scale that are asked for: what the options then override.

    A first reading finds these three among the options of all kinds of terms.
    """
    every = Train(terms={kind: TermConfig(kind=kind) for kind in get_args(Kind)})
    read = [argument for argument in arguments if argument not in ("-h", "--help")]
    asked, _ = tyro.cli(Train, default=every, args=read, return_unknown_args=True)
    config = presets.get(asked.preset, asked.method, asked.scale)
    data = config.data
    if asked.preset == OWN_IMAGES and asked.folder is not None:
        data = dataclasses.replace(data, name=str(asked.folder))
    return dataclasses.replace(
        every,
        preset=asked.preset,
        method=asked.method,
        scale=asked.scale,
        data=data,
        model=config.model,
        training=config.training,
        terms={term.kind: term for term in config.terms},
    )

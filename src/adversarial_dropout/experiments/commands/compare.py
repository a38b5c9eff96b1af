"""``compare``: several methods on one's own images, and whether one of them is worth it."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import tyro
from rich.console import Console

from adversarial_dropout.errors import (
    AdversarialDropoutError,
    InvalidValueError,
    check_at_least,
    check_choice,
    check_positive,
)
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.commands.arguments import (
    check_images_given,
    found_from_anywhere,
    named_as_given,
    scan,
)
from adversarial_dropout.experiments.commands.begun import refuse_other_settings
from adversarial_dropout.experiments.commands.options import DataFolderOrList, Grid, TestFolderOrList
from adversarial_dropout.experiments.commands.terminal import progress_bar, run_grid_shown
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig, Scale, Settings, TrainingConfig
from adversarial_dropout.experiments.data.location import check_lists
from adversarial_dropout.experiments.data.sources import DataLocation, ImageData
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.models.small_resnet import SmallResnet

if TYPE_CHECKING:
    from adversarial_dropout.experiments.results.comparison.comparison import Images

_PLAIN = "plain"
_USUAL = ("vadd-kl", "pi", "vadd-kl+vat", "vat")
"""Methods beside plain training, those first that are trained where not all fit into the time."""
_SEEDS, _SEEDS_PRETRAINED = 3, 5


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Settings of all methods."""

    threads: int = 1
    """CPU threads of a run."""
    data: DataConfig = field(default_factory=DataConfig)
    model: Network = field(default_factory=SmallResnet)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def of_method(self, method: str, scale: Scale, seed: int = 0) -> Settings:
        """The settings of a run."""
        terms = presets.settings(presets.OWN_IMAGES, method, scale, network=self.model.name).terms
        own = {name: getattr(self, name) for name in ("threads", "data", "model", "training")}
        return Settings(preset=presets.OWN_IMAGES, method=method, scale=scale, seed=seed, terms=terms, **own)


@dataclass(frozen=True, kw_only=True)
class Compare(Grid):
    """Train several methods on your own images, and say which is worth it. All get the settings below, which are those
    of the preset "images"; each can be overridden.
    """

    out: Path = Path("runs/compare")
    """Folder of the runs and the result. What is finished there is not repeated."""
    folder: DataFolderOrList = None
    """Folder with the data: images in a folder per class, or parquet files; or a list of images and their classes in a
    .csv file. Without it they come from the hub."""
    test: TestFolderOrList = None
    """Folder or list of labelled images to measure errors on, for data without a test part."""
    skip_unlisted: bool = False
    """Pass over images that a list does not name, instead of stopping."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    methods: tuple[str, ...] | None = None
    """Methods beside plain training; if not given, those of vadd-kl, pi, vadd-kl+vat, vat, in this order, that fit into
    --minutes."""
    seeds: int | None = None
    """Runs of each method, with seeds 0, 1, 2, ...; if not given, 3, and 5 with a frozen pretrained backbone."""
    minutes: float = 10.0
    """Minutes that training should take at most, roughly. Without --methods, methods that would take longer are left
    out; vadd-kl never is."""
    scale: Scale = "quick"
    """"quick" for the real thing, "tiny" for two steps that only show that it runs."""
    network: Annotated[str | None, tyro.conf.arg(name="model.name")] = None
    """Another network than the preset's: small-cnn, small-resnet, mnist-cnn (Table 3), conv-large (Table 4), pretrained
    (a backbone that was trained on other images: --model.source)."""
    shared: Annotated[Shared, tyro.conf.arg(name="")] = field(default_factory=Shared)
    given: tyro.conf.Suppress[frozenset[str]] = frozenset()
    """Names of the settings that the command line gives."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is not None:
            check_at_least("seeds", self.seeds, 1)
        check_positive("minutes", self.minutes)
        for name in self.methods or ():
            check_choice("methods", name, presets.find(presets.OWN_IMAGES).methods)
        if self.methods is not None and not set(self.methods) - {_PLAIN}:
            raise InvalidValueError(f"expected a method beside plain training, such as {_USUAL[0]}, got none")

    @classmethod
    def asked_for(cls, arguments: Sequence[str]) -> "Compare":
        """The settings of the preset for the scale and the network in ``arguments``, which the options override."""
        _, options = scan(arguments, cls)
        scale = options.get("scale", "quick")
        check_choice("scale", scale, get_args(Scale))
        usual = presets.settings(presets.OWN_IMAGES, _USUAL[0], cast(Scale, scale), network=options.get("model.name"))
        shared = Shared(data=named_as_given(usual.data, options), model=usual.model, training=usual.training)
        return cls(shared=shared, given=frozenset(options))

    def run(self, console: Console) -> None:
        check_images_given(self.shared.data)
        location = DataLocation(self.folder, self.skip_bad_images, self.test)
        check_lists(self.shared.data, location, skip_unlisted=self.skip_unlisted)
        configs = self._configs()
        refuse_other_settings(self.out, [run for runs in configs.values() for run in runs], overridden=True)
        data, digest, images = self._checked(configs, location)
        console.print(
            f"{sum(images.labels):,} labelled and {images.unlabelled:,} unlabelled images of {len(images.classes)} "
            f"classes to learn from, {images.tested:,} {images.evaluated_on} images"
        )
        if min(images.labels) == 1:
            console.print("a class has a single label to learn from: expect many mistakes")
        beside = self._beside(configs, data, digest, console)
        try:
            left_out = self._train(configs, location, console)
        except BaseException:  # What is finished is shown also after Ctrl-C or a failed cell.
            with contextlib.suppress(AdversarialDropoutError):  # It must not hide what stopped the grid.
                self._show(configs, images, beside, "", console)
            raise
        self._show(configs, images, beside, left_out, console)

    def _train(self, configs: dict[str, list[ExperimentConfig]], location: DataLocation, console: Console) -> str:
        """Train plain networks, then as many of the others as fit; return a sentence on those that are left out."""
        from adversarial_dropout.experiments.grid.grid import GridError

        plain, failures = configs[_PLAIN], []
        first = [*plain, configs[_first(configs)][0]]
        console.print(f"the first {len(first)} runs tell how long the rest takes")
        try:
            run_grid_shown(first, self, location, console)
        except GridError as error:
            failures.append(error)
        folders = [folder for run in first if records.is_finished(folder := records.run_folder(self.out, run))]
        chosen, left_out = self._planned(configs, [records.read_record(folder) for folder in folders], console)
        rest = [run for seed in range(len(plain)) for method in chosen if (run := configs[method][seed]) not in first]
        try:
            if rest:
                run_grid_shown(rest, self, location, console)
        except GridError as error:
            failures.append(error)
        if failures:
            raise GridError("\n".join(map(str, failures)))
        return left_out

    def _configs(self) -> dict[str, list[ExperimentConfig]]:
        """The runs of each method: plain training, then the others in the order of the preset."""
        model = found_from_anywhere(self.shared.model)
        shared = dataclasses.replace(self.shared, model=model)
        known = presets.find(presets.OWN_IMAGES).methods
        methods = [name for name in known if name in (_PLAIN, *(self.methods or _USUAL))]
        settings = [shared.of_method(method, self.scale) for method in methods]
        for name in self.given:  # A setting must be of use to one method at least.
            refusals = []
            for one in settings:
                try:
                    one.used((name,))
                except InvalidValueError as error:
                    refusals.append(error)
            if len(refusals) == len(settings):
                raise refusals[-1]
        frozen = isinstance(model, Pretrained) and model.frozen
        seeds = self.seeds or (_SEEDS_PRETRAINED if frozen else _SEEDS)
        return {
            method: [shared.of_method(method, self.scale, seed).used() for seed in range(seeds)] for method in methods
        }

    def _checked(
        self, configs: dict[str, list[ExperimentConfig]], location: DataLocation
    ) -> tuple[ImageData, str, "Images"]:
        """Load the data, and check all that would stop a run; also count the images."""
        import torch

        from adversarial_dropout.experiments.data.splits import make_split
        from adversarial_dropout.experiments.results.comparison.comparison import Images
        from adversarial_dropout.experiments.run import loop
        from adversarial_dropout.experiments.run.devices import check_device

        check_device(self.device, capture=self.capture)
        *_, runs = configs.values()
        data = loop.load_data(runs[0], location)
        digest = data.digest
        splits = [make_split(data, run.data, run.seed) for run in runs]
        with torch.random.fork_rng():
            runs[0].model.build(data.shape, len(data.classes))
        for run in (run for members in configs.values() for run in members):
            folder = records.run_folder(self.out, run)
            if records.is_finished(folder):
                loop.check_finished(run, folder, digest)
        return data, digest, Images.of(runs[0], data, splits[0])

    def _beside(
        self, configs: dict[str, list[ExperimentConfig]], data: ImageData, digest: str, console: Console
    ) -> dict[int, dict[str, float]]:
        """Errors of classifiers that are no networks, by seed and name."""
        import torch

        from adversarial_dropout.experiments.classical import classical

        cuda = self.device != "cpu" and torch.cuda.is_available()
        found = {}
        *_, runs = configs.values()
        with progress_bar(console) as progress:
            task = progress.add_task("classic methods", total=1.0)

            def features(done: int, images: int) -> None:
                progress.update(task, completed=done / images, description=f"features: {done:,} of {images:,} images")

            for run in runs:
                path = self.out / "classic" / run.scale / f"seed-{run.seed}.json"
                device = torch.device("cuda" if cuda else "cpu")
                found[run.seed] = classical.recorded(path, run, data, device, digest, features)
            progress.update(task, completed=1.0, description="classic methods")
        return found

    def _planned(
        self, configs: dict[str, list[ExperimentConfig]], measured: list[records.Record], console: Console
    ) -> tuple[list[str], str]:
        """The methods to train beside plain training, by the times of the first runs, and a sentence on the others."""
        from adversarial_dropout.experiments.commands.planning import in_words, seconds_of_run, that_fit

        others = [method for method in configs if method != _PLAIN]
        if not measured:
            return others, ""
        jobs = self.jobs or os.cpu_count() or 1
        each = {
            method: sum(seconds_of_run(run, measured) for run in runs) / min(jobs, len(runs))
            for method, runs in configs.items()
        }
        kept, allowed, left_out = others, 60 * self.minutes, ""
        if self.methods is None:
            kept, out = that_fit(each, allowed, _USUAL, (_PLAIN, _first(configs)))
            if out:
                times = ", ".join(f"{method} (about {in_words(each[method])})" for method in out)
                left_out = (
                    f"Left out, because training would then take longer than {self.minutes:g} minutes: {times}. Give "
                    f"more --minutes to train them too."
                )
                console.print(left_out, highlight=False)
        chosen = [method for method in others if method in kept]
        done = sum(record.seconds for record in measured if record.config.method != _PLAIN) / jobs
        rest = max(0.0, sum(each[method] for method in chosen) - done)
        console.print(f"the rest takes about {in_words(rest)}", highlight=False)
        if each[_PLAIN] + done + rest > allowed and not isinstance(self.shared.model, Pretrained):
            console.print("smaller images are quicker: --data.resize 32, for example", highlight=False)
        return chosen, left_out

    def _show(
        self,
        configs: dict[str, list[ExperimentConfig]],
        images: "Images",
        beside: dict[int, dict[str, float]],
        left_out: str,
        console: Console,
    ) -> None:
        """Print and write the comparison of all finished runs."""
        from adversarial_dropout.experiments.results.comparison.comparison import Comparison
        from adversarial_dropout.experiments.results.comparison.page import write_comparison
        from adversarial_dropout.experiments.results.comparison.verdict import verdict

        folders = [records.run_folder(self.out, run) for runs in configs.values() for run in runs]
        runs = [records.read_record(folder) for folder in folders if records.is_finished(folder)]
        if not runs:
            return
        comparison = Comparison.of(images, runs, beside)
        answer = verdict(comparison)
        console.print(comparison.table)
        console.print(answer.title, *answer.sentences, sep="\n", markup=False, highlight=False)
        path = self.out / f"compare-{self.scale}"
        text = f"**{answer.title}**\n\n{' '.join(answer.sentences)}\n\n{comparison.table.markdown()}\n"
        records.write_bytes(path.with_suffix(".md"), text.encode())
        records.write_bytes(path.with_suffix(".csv"), comparison.figures.csv().encode())
        write_comparison(comparison, answer, path.with_suffix(".html"), left_out)
        console.print(f"page: {path}.html; table: .md, .csv", soft_wrap=True, markup=False)


def _first(configs: dict[str, list[ExperimentConfig]]) -> str:
    """The first method to train after plain training."""
    return next(name for name in (*_USUAL, *configs) if name in configs and name != _PLAIN)

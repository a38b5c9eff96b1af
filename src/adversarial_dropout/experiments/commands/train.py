"""``train``: one network."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args

import tyro
from rich.console import Console

from adversarial_dropout.errors import check_choice
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.commands.arguments import (
    check_images_given,
    found_from_anywhere,
    named_as_given,
    scan,
)
from adversarial_dropout.experiments.commands.options import DataFolderOrList, TestFolderOrList, Training
from adversarial_dropout.experiments.commands.terminal import run_shown
from adversarial_dropout.experiments.config import Scale, Settings
from adversarial_dropout.experiments.data.location import check_lists
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.data.splits import ENOUGH
from adversarial_dropout.experiments.run.curves import Log, curves

_USUAL = ("digits-100", "vadd-qe")


@dataclass(frozen=True, kw_only=True)
class Train(Training):
    """Train one network. The settings below are those of the preset and method; each can be overridden."""

    out: Path = Path("runs")
    """Folder below which the run gets its own folder. The same command resumes a run that was stopped."""
    folder: DataFolderOrList = None
    """Folder with the data: images in a folder per class, or parquet files; or a list of images and their classes in a
    .csv file. Without it they come from the hub."""
    test: TestFolderOrList = None
    """Folder or list of labelled images to measure errors on, for data without a test part."""
    skip_unlisted: bool = False
    """Pass over images that a list does not name, instead of stopping."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    log: Log | None = None
    """Write the metrics of each epoch for a program that shows curves, to a folder of its name in that of the run."""
    network: Annotated[str | None, tyro.conf.arg(name="model.name")] = None
    """Another network than the preset's: small-cnn, small-resnet, mnist-cnn (Table 3), conv-large (Table 4),
    autoencoder, pretrained (a backbone that was trained on other images: --model.source)."""
    config: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=lambda: presets.settings(*_USUAL))
    given: tyro.conf.Suppress[frozenset[str]] = frozenset()
    """Names of the settings that the command line gives."""

    @classmethod
    def asked_for(cls, arguments: Sequence[str]) -> "Train":
        """The settings of the preset, method and scale in ``arguments``, which the options there then override."""
        positionals, options = scan(arguments, cls)
        preset, method = (*positionals, *_USUAL[len(positionals) :])[:2]
        scale = options.get("scale", "quick")
        check_choice("scale", scale, get_args(Scale))
        network = options.get("model.name")
        config = presets.settings(preset, method, scale, network=network)  # type: ignore[arg-type]
        if preset == presets.OWN_IMAGES:
            config = dataclasses.replace(config, data=named_as_given(config.data, options))
        return cls(config=config, given=frozenset(options))

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.run import loop

        config = self.config.used(self.given)
        config = config.changed(model=found_from_anywhere(config.model))
        check_images_given(config.data)
        folder = records.run_folder(self.out, config)
        before = records.is_finished(folder)
        location = DataLocation(self.folder, self.skip_bad_images, self.test)
        check_lists(config.data, location, skip_unlisted=self.skip_unlisted)
        name, epochs = f"{config.preset} {config.method}", config.training.epochs
        with curves(self.log, folder, config.training) as curve, run_shown(console, name, epochs) as shown:

            def progress(epoch: int, metrics: records.Metrics) -> None:
                shown.epoch(epoch, metrics)
                if curve is not None:
                    curve(epoch, metrics)

            record = loop.run(
                config,
                folder,
                progress,
                location,
                self.device,
                capture=self.capture,
                preparing=shown.features,
            )
        if config.data.choosing:
            console.print(_choice(record), highlight=False)
        part = record.final["evaluated_on"]
        examples = f" of {record.final['examples']} images" if "examples" in record.final else ""
        console.print(
            f"{part} error {record.error:.2f} %{examples} after {record.epoch} epochs, {record.seconds:.1f} s"
            f"{' (trained before)' if before else ''}"
        )
        console.print(f"record: {folder}", soft_wrap=True, markup=False)
        if self.log is not None and not before:
            console.print(f"curves: {self.log} --logdir {folder / self.log}", soft_wrap=True, markup=False)
        elif self.log is not None:
            console.print("no new curves: they are written while a run trains")


def _choice(record: records.Record) -> str:
    """How the epoch was chosen whose weights are kept."""
    held_out = record.final["held_out"]
    if not held_out:
        return f"no label is held out, because a class has fewer than {ENOUGH}: the last epoch is kept"
    return (
        f"epoch {record.epoch} of {record.config.training.epochs} is kept: the lowest error, "
        f"{record.metrics[record.epoch - 1]['validation error']:.2f} %, of {held_out} images whose labels are held out"
    )

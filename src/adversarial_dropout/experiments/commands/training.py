"""Commands that train one network, or every method on the digits."""

from rich.console import Console

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.arguments import REPORT, Demo, Train
from adversarial_dropout.experiments.commands.terminal import progress_bar, run_grid_shown, show
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.data.sources import Place


def demo(command: Demo, console: Console) -> None:
    """Train every method on the digits and write the report."""
    methods = presets.find("digits-100").methods
    seeds = range(command.seeds)
    configs = [presets.get("digits-100", method, command.scale, seed) for seed in seeds for method in methods]
    found = run_grid_shown(configs, command, Place(), console)
    show(found, command.out / REPORT, console)


def train(command: Train, console: Console) -> None:
    """Train one network."""
    from adversarial_dropout.experiments.training import loop

    config = ExperimentConfig(
        preset=command.preset,
        method=command.method,
        scale=command.scale,
        seed=command.seed,
        threads=command.threads,
        data=command.data,
        model=command.model,
        training=command.training,
        terms=tuple(command.terms.values()),
    )
    if config.data.name == presets.OWN_IMAGES:
        raise InvalidValueError("expected images to train on: give --data FOLDER, or --data.name with a hub id")
    folder = records.run_folder(command.out, config)
    before = records.is_finished(folder)
    with progress_bar(console) as progress:
        task = progress.add_task(f"{config.preset} {config.method}", total=config.training.epochs)
        record = loop.run(
            config,
            folder,
            lambda epochs, row: progress.update(
                task, completed=epochs, description=f"epoch {epochs}: error {row['error']:.2f} %"
            ),
            Place(command.folder, command.skip_bad_images),
            command.device,
            capture=command.capture,
        )
    part = record.final["evaluated_on"]
    examples = f" of {record.final['examples']} images" if "examples" in record.final else ""
    console.print(
        f"{part} error {record.error:.2f} %{examples} after {config.training.epochs} epochs, {record.seconds:.1f} s"
        f"{' (trained before)' if before else ''}"
    )
    console.print(f"record: {folder}", soft_wrap=True, markup=False)

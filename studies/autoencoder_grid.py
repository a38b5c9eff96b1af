"""Measure how Figures 2 and 3 depend on optimiser, learning rate and initialisation, which the paper does not state.

    python studies/autoencoder_grid.py --data FOLDER

Trains the autoencoders of Figures 2 and 3 with dropout and with adversarial dropout in every setting, for 5 epochs
(the preset has 20), and measures them as `reproduce figure3` does. Adam has its default learning rate and ten times
that. Gradient descent has the power of ten, of 1, 10, 100 and 1,000, with the lowest training loss after two epochs
with dropout, and a tenth of it. Finished runs in --out are not repeated. Writes results/autoencoder-grid.json.
"""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig, OptimizerName, Scale
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.models.autoencoder import Autoencoder, Initialization
from adversarial_dropout.experiments.presets import autoencoder
from adversarial_dropout.experiments.studies.autoencoders import comparison
from adversarial_dropout.experiments.studies.autoencoders.comparison import ADVERSARIAL, DROPOUT
from adversarial_dropout.experiments.studies.autoencoders.features import look

RECORD = Path(__file__).resolve().parents[1] / "results" / "autoencoder-grid.json"
SEEDS = (0, 1, 2)
EPOCHS = 5
IMAGES = 1000
LEARNING_RATES: dict[OptimizerName, tuple[float, float]] = {"adam": (0.001, 0.01), "sgd": (10.0, 100.0)}
INITIALIZATIONS: tuple[Initialization, ...] = ("he", "normal")
Setting = tuple[OptimizerName, float, Initialization]
SETTINGS: tuple[Setting, ...] = tuple(
    (optimizer, rate, initialization)
    for optimizer, rates in LEARNING_RATES.items()
    for rate, initialization in itertools.product(rates, INITIALIZATIONS)
)


def config_of(
    setting: Setting, method: str, seed: int, scale: Scale = "paper", epochs: int = EPOCHS
) -> ExperimentConfig:
    """The preset with another setting; at scale "tiny" two steps, that show that everything runs."""
    optimizer, rate, initialization = setting
    config = presets.get(autoencoder.NAME, method, scale, seed)
    assert isinstance(config.model, Autoencoder)
    epochs = epochs if scale == "paper" else config.training.epochs
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, initialization=initialization),
        training=dataclasses.replace(config.training, optimizer=optimizer, learning_rate=rate, epochs=epochs),
    )


def measured(
    setting: Setting,
    location: DataLocation,
    out: Path,
    *,
    jobs: int,
    seeds: Iterable[int],
    images: int,
    scale: Scale,
    epochs: int,
) -> dict[str, Any]:
    """Train in one setting, and measure: all values by method, one per seed; ``None``: there is no such filter."""
    optimizer, rate, initialization = setting
    configs = [config_of(setting, method, seed, scale, epochs) for seed in seeds for method in (DROPOUT, ADVERSARIAL)]
    finished = run_grid(configs, out / f"{optimizer}-{rate:g}-{initialization}", jobs=jobs, location=location)
    features = {
        method: [look(record, images, location) for record in finished if record.config.method == method]
        for method in (DROPOUT, ADVERSARIAL)
    }
    compared = comparison.measured(features, tuple(seeds), images)
    values = {
        method: [{name: None if math.isnan(value) else value for name, value in run.items()} for run in runs]
        for method, runs in compared.values.items()
    }
    return {"optimizer": optimizer, "learning_rate": rate, "initialization": initialization, "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST in parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/autoencoder-grid"), help="folder of the runs")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON file to write")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="another number wants another --out")
    parser.add_argument("--images", type=int, default=IMAGES, help="test images that the units are shown")
    parser.add_argument("--scale", choices=("tiny", "paper"), default="paper", help="tiny: two steps a run")
    options = parser.parse_args()
    settings = []
    for setting in SETTINGS:
        settings.append(
            measured(
                setting,
                DataLocation(options.data),
                options.out,
                jobs=options.jobs,
                seeds=options.seeds,
                images=options.images,
                scale=options.scale,
                epochs=options.epochs,
            )
        )
        print(*setting, flush=True)
    first = config_of(SETTINGS[0], DROPOUT, options.seeds[0], options.scale, options.epochs)
    content = {
        "preset": autoencoder.NAME,
        "epochs": first.training.epochs,
        "seeds": options.seeds,
        "images": options.images,
        "settings": settings,
    }
    records.write_measured(options.record, content)


if __name__ == "__main__":
    main()

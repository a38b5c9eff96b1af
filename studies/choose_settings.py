"""Change p, δ and λ of VAdD one at a time on digits-100, and record and draw the validation errors.

    python studies/choose_settings.py [--out runs/settings] [--record results/digits-100-settings.json]

As in tune_digits.py, 300 training examples are held out, the test part is not used, and the seeds (100 to 104) are not
those of the reported runs. The centre is the best candidate found there: p = 0.5, 6 flips of 256 units, λ = 1 with KL.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.show.canvas import canvas, style
from adversarial_dropout.experiments.terms import Vadd, by_kind

SEEDS = range(100, 105)
UNITS = 256
CENTRE = {"p": 0.5, "flips": 6.0, "weight": 1.0}
TRIED = {
    "p": (0.0, 0.25, 0.5, 0.75, 0.9),
    "flips": (0.0, 1.0, 3.0, 6.0, 12.0, 26.0),
    "weight": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
}
LABELS = {"p": "p", "flips": "flips of 256 units", "weight": "weight λ"}


def config(settings: Mapping[str, float], seed: int) -> ExperimentConfig:
    base = presets.get("digits-100", "vadd-kl", "quick", seed)
    return base.changed(
        preset="digits-100-settings",
        method=_name(settings),
        data=dataclasses.replace(base.data, validation=300),
        model=dataclasses.replace(base.model, delta=settings["flips"] / UNITS, p=settings["p"]),
        terms=by_kind(Vadd(divergence="kl", weight=settings["weight"])),
    )


def _name(settings: Mapping[str, float]) -> str:
    return "_".join(f"{name}={value}" for name, value in settings.items())


def settings() -> list[dict[str, float]]:
    """The centre with each value of each setting, without repetition."""
    changed = [{**CENTRE, name: value} for name, values in TRIED.items() for value in values]
    return list({_name(each): each for each in changed}.values())


def figure(content: Mapping[str, Any]) -> str:
    """Mean and standard deviation of the error over each setting, as SVG."""
    with canvas(9, 3) as (drawing, svg):
        for index, (axes, (name, values)) in enumerate(
            zip(drawing.subplots(1, len(TRIED), sharey=True), TRIED.items(), strict=True)
        ):
            errors = [content["errors"][_name({**CENTRE, name: value})] for value in values]
            colour, marker = style(index + 2)
            positions = range(len(values))
            axes.errorbar(
                positions,
                [statistics.fmean(each) for each in errors],
                [statistics.stdev(each) for each in errors],
                color=colour,
                marker=marker,
                capsize=3,
            )
            axes.set_xticks(positions, [f"{value:g}" for value in values])
            axes.set_xlabel(LABELS[name])
            axes.grid(alpha=0.3)
            if not index:
                axes.set_ylabel("validation error in %")
    return svg()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/settings"))
    parser.add_argument("--record", type=Path, default=Path("results/digits-100-settings.json"))
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    finished = run_grid(
        [config(each, seed) for each in settings() for seed in SEEDS], arguments.out, jobs=arguments.jobs
    )
    content = {
        "what": "validation error in percent at the last epoch, one value per seed",
        "seeds": list(SEEDS),
        "centre": CENTRE,
        "tried": TRIED,
        "base": config(CENTRE, SEEDS[0]).to_dict(),
        "errors": {
            _name(each): [run.error for run in finished if run.config.method == _name(each)] for each in settings()
        },
        "environment": finished[0].final["environment"],
    }
    records.write_json(arguments.record, content)
    arguments.record.with_suffix(".svg").write_text(figure(content))


if __name__ == "__main__":
    main()

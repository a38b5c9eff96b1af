"""Where does the gain of VAdD come from? Each variant changes one thing of a reference; paired over seeds.

    python studies/ablation.py --data mnist FOLDER [--out runs/ablation] [--jobs 2] [--only SETTING] [--names ...]

Each setting of :data:`SETTINGS` is a preset on some data with few labels, and its reference is VAdD. Each variant of
:data:`VARIANTS` is trained with the seeds of the reference, which give the same labelled images, initialisation and
order. The errors are those of test images; every variant has the settings that were chosen for the reference, so this
page compares parts and chooses nothing. It writes results/ablation/SETTING.json. Runs that are finished in --out are
not repeated.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy import stats

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig, Scale, differences
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.models.small_resnet import SmallResnet
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.terms import Entmin, Ict, Mixup, Pi, Term, Vadd, by_kind

RESULTS = Path(__file__).resolve().parents[1] / "results" / "ablation"
SEEDS = range(5)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A preset on some data, and its reference method, which has a term ``vadd``."""

    preset: str
    data: str
    """Name of the data; those that scikit-learn does not have are read from the folder that --data gives."""
    labels: int
    reference: str = "vadd-qe"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of data, model and training that differ from the preset's."""

    def config(self, method: str, seed: int, scale: Scale) -> ExperimentConfig:
        """The preset's config for ``method``."""
        usual = presets.settings(self.preset, method, scale, seed)
        parts = {"data": {}, "model": {}, "training": {}, **self.overrides}
        parts["data"] = {"name": self.data, "labelled": self.labels, **parts["data"]}
        changed = {name: dataclasses.replace(getattr(usual, name), **values) for name, values in parts.items()}
        return dataclasses.replace(usual, **changed).used()


SETTINGS: dict[str, Setting] = {
    "digits": Setting(preset="images", data="digits", labels=100),
    "mnist": Setting(preset="images", data="mnist", labels=100),
}

Variant = Callable[[ExperimentConfig], ExperimentConfig]


def vadd(**changes: Any) -> Variant:
    """Other settings of the term."""
    return lambda usual: usual.changed(
        terms={**usual.terms, "vadd": dataclasses.replace(usual.terms["vadd"], **changes)}
    )


def terms(make: Callable[[Vadd], Sequence[Term]]) -> Variant:
    """Other terms, made from that of the reference."""

    def change(usual: ExperimentConfig) -> ExperimentConfig:
        term = usual.terms["vadd"]
        assert isinstance(term, Vadd)
        return usual.changed(terms=by_kind(*make(term)))

    return change


def delta(factor: float) -> Variant:
    """Another budget."""
    return lambda usual: usual.changed(model=dataclasses.replace(usual.model, delta=factor * (usual.model.delta or 0)))


def place(**changes: Any) -> Variant:
    """Another place of the layer, for small-resnet; other networks stay as they are."""

    def change(usual: ExperimentConfig) -> ExperimentConfig:
        model = usual.model
        return usual.changed(model=dataclasses.replace(model, **changes)) if isinstance(model, SmallResnet) else usual

    return change


def pi(term: Vadd, **changes: Any) -> Pi:
    """Π-model with the weight and the divergence of VAdD: no flips at all."""
    return Pi(divergence=term.divergence, weight=term.weight, ramp=term.ramp, **changes)


VARIANTS: dict[str, tuple[str, Variant]] = {
    "reference": ("VAdD", lambda usual: usual),
    "plain": ("no term", lambda usual: usual.changed(terms={})),
    "random-flips": ("random flips, as many", vadd(flips="random")),
    "pi": ("no flips: Π with the same λ and D", terms(lambda term: [pi(term)])),
    "half-delta": ("δ / 2", delta(0.5)),
    "double-delta": ("2 δ", delta(2.0)),
    "rising-delta": (
        "δ rises from one flip",
        lambda usual: usual.changed(training=dataclasses.replace(usual.training, ramp_delta=True)),
    ),
    "one-view": ("both passes on one view", vadd(views=1)),
    "shared-noise": ("one view and shared noise", vadd(views=1, noise="shared")),
    "maps": ("layer on the maps, elements", place(place="maps")),
    "maps-channel": ("layer on the maps, channels", place(place="maps", granularity="channel")),
    "both": ("two layers, elements of the maps", place(place="both")),
    "both-channel": ("two layers, channels of the maps", place(place="both", granularity="channel")),
    "average": ("target from averaged weights", vadd(target="average")),
    "mean-teacher": ("Mean Teacher: Π with that target", terms(lambda term: [pi(term, target="average")])),
    "entmin": ("with entropy minimisation", terms(lambda term: [term, Entmin()])),
    "ict": ("ICT in the place of VAdD", terms(lambda term: [Ict(divergence=term.divergence, weight=term.weight)])),
    "vadd-ict": ("with ICT", terms(lambda term: [term, Ict(divergence=term.divergence, weight=term.weight)])),
    "mixup": ("mixup in the place of VAdD", terms(lambda term: [Mixup(ramp=False)])),
    "vadd-mixup": ("with mixup", terms(lambda term: [term, Mixup(ramp=False)])),
}
"""What the table calls it, and what it makes of the config of the reference."""


def configs(
    setting: Setting, seeds: Sequence[int], scale: Scale, names: Sequence[str]
) -> dict[str, list[ExperimentConfig]]:
    """The configs of each variant by seed; without the variants that change nothing of this setting."""
    found = {}
    for name in names:
        made = []
        for seed in seeds:
            reference = setting.config(setting.reference, seed, scale)
            changed = VARIANTS[name][1](reference)
            if name == "reference" or changed != reference:
                made.append(dataclasses.replace(changed, method=name))
        if made:
            found[name] = made
    return found


def summary(runs: dict[str, list[Record]]) -> dict[str, Any]:
    """Of each variant: its config against that of the reference, errors, their paired differences, and the cost."""
    reference = runs["reference"]
    plain = statistics.fmean(run.seconds for run in runs.get("plain", reference))
    entries = {}
    for name, of_variant in runs.items():
        errors = [run.error for run in of_variant]
        entry: dict[str, Any] = {
            "label": VARIANTS[name][0],
            "changed": changes(reference[0].config, of_variant[0].config),
            "errors": errors,
            "mean": statistics.fmean(errors),
            "std": statistics.stdev(errors) if len(errors) > 1 else None,
            "seconds": [run.seconds for run in of_variant],
            "cost": statistics.fmean(run.seconds for run in of_variant) / plain,
        }
        if name != "reference":
            entry |= paired(errors, [run.error for run in reference])
        entries[name] = entry
    return entries


def changes(reference: ExperimentConfig, variant: ExperimentConfig) -> list[str]:
    """Where the config of a variant differs; of terms that the reference does not have, the settings."""
    lines = [line for line in differences(reference.to_dict(), variant.to_dict()) if not line.startswith("method:")]
    for kind, term in variant.terms.items():
        if kind not in reference.terms:
            lines += [f"terms.{kind}.{name}: {value}" for name, value in vars(term).items()]
    return lines


def paired(errors: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Mean difference of errors of the same seeds, its 95 % interval and the p-value of the paired t test (two-sided).

    With one seed, or with differences that are all the same, there is no test: the three are ``None``.
    """
    apart = [one - other for one, other in zip(errors, reference, strict=True)]
    entry: dict[str, Any] = {"difference": statistics.fmean(apart), "interval": None, "p": None}
    if len(apart) > 1 and len(set(apart)) > 1:
        test = stats.ttest_rel(errors, reference)
        interval = test.confidence_interval(0.95)
        entry |= {"interval": [float(interval.low), float(interval.high)], "p": float(test.pvalue)}
    return entry


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs=2, action="append", default=[], metavar=("NAME", "FOLDER"))
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--names", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--scale", choices=("tiny", "quick"), default="quick")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args(arguments)
    folders = {name: Path(folder) for name, folder in options.data}
    names = ["reference", *(name for name in options.names if name != "reference")]
    for name in options.only:
        setting = SETTINGS[name]
        of_variants = configs(setting, options.seeds, options.scale, names)
        cells = [config for by_seed in of_variants.values() for config in by_seed]
        location = DataLocation(folders.get(setting.data))
        finished = iter(run_grid(cells, options.out / name, jobs=options.jobs, location=location))
        runs = {variant: [next(finished) for _ in by_seed] for variant, by_seed in of_variants.items()}
        content = {
            "what": "test error in percent at the last epoch, one value per seed; differences are paired by seed",
            "setting": {"preset": setting.preset, "data": setting.data, "labels": setting.labels},
            "reference": setting.reference,
            "scale": options.scale,
            "seeds": options.seeds,
            "examples": runs["reference"][0].final["examples"],
            "config": runs["reference"][0].config.to_dict(),
            "environment": runs["reference"][0].final["environment"],
            "variants": summary(runs),
        }
        records.write_json(options.results / f"{name}.json", content)
        for variant, entry in content["variants"].items():
            p = "" if entry.get("p") is None else f"  p {entry['p']:.3f}"
            print(f"{name} {variant:14} {entry['mean']:6.2f} {entry.get('difference', 0):+6.2f}{p}", flush=True)


if __name__ == "__main__":
    main()

"""Figures 2 and 3 over seeds: three autoencoders in numbers, and what the paper says about them."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.autoencoders.features import MEASURES, Features, high_level, look, measure

NONE, DROPOUT, ADVERSARIAL = METHODS = ("none", "dropout", "dropout+add")
"""The three autoencoders that are compared."""

CLAIMS: dict[str, str] = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
"""The paper's four claims, the observation that they rest on, and its conclusion, by the measure that decides each."""
_PRESERVED = 0.9
_SIMILAR = 0.1
_HOLDS: dict[str, Callable[[float, float, float], bool | None]] = {
    "dead filters": lambda _, dropout, ours: None if dropout == ours == 0 else ours < dropout,
    "localised filters": lambda _, dropout, ours: None if dropout == 0 else ours >= _PRESERVED * dropout,
    "spread of the rest": lambda _, dropout, ours: ours < dropout,
    "neighbourhood of spots": lambda _, dropout, ours: None if math.isnan(dropout + ours) else ours > dropout,
    "highly activated in %": lambda none, dropout, ours: ours < min(none, dropout),
    "mean activation": lambda none, dropout, ours: ours < min(none, dropout),
    "reconstruction error in %": lambda _, dropout, ours: abs(ours / dropout - 1) <= _SIMILAR,
    "Hoyer sparsity": lambda _, dropout, ours: ours > dropout,
}
"""Whether each claim holds in one seed, from its measure without dropout (infinite if that was not trained), with
dropout, and with adversarial dropout; ``None`` if there is nothing to judge."""


@dataclass(frozen=True)
class Comparison:
    """The autoencoders over seeds, in numbers: with dropout, with adversarial dropout, and maybe without dropout."""

    values: dict[str, tuple[dict[str, float], ...]]  # The MEASURES by method, one dictionary per seed.
    seeds: tuple[int, ...]
    images: int  # Number of test images.

    def column(self, method: str, name: str) -> list[float]:
        """One measure of one method, a value per seed."""
        return [run[name] for run in self.values[method]]

    @property
    def numbers(self) -> Table:
        """A row per measure, mean ± standard deviation (n - 1) over seeds."""
        seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        return Table(
            ("measure", *self.values, "how it is measured"),
            [
                (name, *(_spread(self.column(method, name)) for method in self.values), how)
                for name, how in MEASURES.items()
            ],
            f"Mean ± standard deviation over {seeds}, {self.images} test images",
        )

    @property
    def claims(self) -> Table:
        """The verdicts on the paper's claims."""
        header = ("claim", "here", f"figures ({' · '.join(METHODS)})")
        return Table(header, self.verdicts, 'In our words; "seen" if it holds in each seed that has something to judge')

    @property
    def by_seed(self) -> Table:
        """A row per method and seed, with numbers in full precision."""
        rows = [
            (method, seed, self.images, *values.values())
            for method in METHODS
            for seed, values in zip(self.seeds, self.values[method], strict=True)
        ]
        return Table(("method", "seed", "images", *MEASURES), rows)

    def outcomes(self, name: str) -> list[bool | None]:
        """Whether the claim on this measure holds, one value per seed; ``None`` if there is nothing to judge."""
        columns = [self.column(method, name) for method in self.values]
        absent = [math.inf] * (len(METHODS) - len(columns))
        return [_HOLDS[name](*absent, *values) for values in zip(*columns, strict=True)]

    @property
    def verdicts(self) -> list[tuple[str, str, str]]:
        """Text, verdict and figures of each of :data:`CLAIMS`.

        The verdict is "seen" if the claim holds in every seed that has something to judge, "not seen" otherwise, and
        "nothing to judge" if no seed has.
        """
        verdicts = []
        for name, claim in CLAIMS.items():
            outcomes = self.outcomes(name)
            judged = [outcome for outcome in outcomes if outcome is not None]
            seen = ("seen" if all(judged) else "not seen") if judged else "nothing to judge"
            means = " · ".join(mean(self.column(method, name)) for method in self.values)
            left = f", {len(outcomes) - len(judged)} with nothing to judge" if len(judged) < len(outcomes) else ""
            figures = f"{name} {means}; in {sum(judged)} of {len(outcomes)} seeds{left}"
            verdicts.append((claim, seen, figures))
        return verdicts


def mean(values: Sequence[float], digits: int = 4) -> str:
    """The mean of the values that are not NaN, as text; "–" if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.fmean(known):.{digits}g}" if known else "–"


def _spread(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{mean(known)} ± {statistics.stdev(known):.2g}" if len(known) > 1 else mean(known)


def compare(
    records: Sequence[Record], images: int, location: DataLocation | None = None
) -> tuple[Comparison, dict[str, Features]]:
    """Compare finished runs of the three methods, the same seeds of each, on that number of test images.

    Returns the numbers, and the units of each method for the first seed.

    Raises:
        InvalidValueError: a run of a method is missing; see also :func:`~.features.look`.
    """
    by_method = {
        method: {record.config.seed: record for record in records if record.config.method == method}
        for method in METHODS
    }
    seeds = sorted(by_method[NONE])
    if not seeds or any(sorted(runs) != seeds for runs in by_method.values()):
        raise InvalidValueError(
            f"expected runs of {', '.join(METHODS)} with the same seeds, got "
            f"{', '.join(f'{method}: {sorted(runs)}' for method, runs in by_method.items())}"
        )
    features = {method: [look(runs[seed], images, location) for seed in seeds] for method, runs in by_method.items()}
    return measured(features, tuple(seeds), images), {method: of_seeds[0] for method, of_seeds in features.items()}


def measured(features: Mapping[str, Sequence[Features]], seeds: tuple[int, ...], images: int) -> Comparison:
    """Measure the units of each method, one network per seed. The method without dropout may be missing."""
    levels = [high_level(dropout.activations) for dropout in features[DROPOUT]]
    values = {
        method: tuple(measure(network, level) for network, level in zip(features[method], levels, strict=True))
        for method in METHODS
        if method in features
    }
    return Comparison(values, seeds, images)

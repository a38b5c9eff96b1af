"""Figures 2 and 3 over seeds: three autoencoders in numbers, and what the paper says of them."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.data.sources import DataLocation
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.autoencoders.features import MEASURES, Features, high_level, look, measure

NONE, DROPOUT, ADVERSARIAL = METHODS = ("none", "dropout", "dropout+add")
"""The three autoencoders that are compared."""


@dataclass(frozen=True)
class Claim:
    """Something the paper says of these figures, in our words, and whether it is seen here.

    Attributes:
        text: What it says.
        measure: The name of what it is judged by.
        holds: From the values without dropout (infinite where that was not trained), with dropout, and with adversarial
            dropout besides, of one seed. ``None``: there is nothing to judge.
    """

    text: str
    measure: str
    holds: Callable[[float, float, float], bool | None]


_PRESERVED = 0.9
_SIMILAR = 0.1
CLAIMS = (
    Claim(
        "Figure 2, claim 1: adversarial dropout prevents dead filters (here: it has fewer than dropout)",
        "dead filters",
        lambda _, dropout, ours: None if dropout == ours == 0 else ours < dropout,
    ),
    Claim(
        "Figure 2, claim 2, localised filters are preserved (we take: nine tenths as many as dropout has, or more)",
        "localised filters",
        lambda _, dropout, ours: None if dropout == 0 else ours >= _PRESERVED * dropout,
    ),
    Claim(
        "Figure 2, claim 2, what is not localised is standardised (here: it differs less in strength than dropout's)",
        "spread of the rest",
        lambda _, dropout, ours: ours < dropout,
    ),
    Claim(
        "Figure 2, claim 2, dropout ignores the neighbourhood of its spots (here: adversarial dropout uses it more)",
        "neighbourhood of spots",
        lambda _, dropout, ours: None if math.isnan(dropout + ours) else ours > dropout,
    ),
    Claim(
        "Figure 3, claim 3: adversarial dropout has the fewest highly activated units",
        "highly activated in %",
        lambda none, dropout, ours: ours < min(none, dropout),
    ),
    Claim(
        "Figure 3, claim 4: the mean activations of adversarial dropout are the lowest",
        "mean activation",
        lambda none, dropout, ours: ours < min(none, dropout),
    ),
    Claim(
        "what they rest on: adversarial dropout reconstructs about as well as dropout (we take: within 10 %)",
        "reconstruction error in %",
        lambda _, dropout, ours: abs(ours / dropout - 1) <= _SIMILAR,
    ),
    Claim(
        "what follows: adversarial dropout makes the units sparser than dropout does",
        "Hoyer sparsity",
        lambda _, dropout, ours: ours > dropout,
    ),
)
"""The paper's four claims, the observation that they rest on and the conclusion drawn from them."""


@dataclass(frozen=True)
class Comparison:
    """The autoencoders over seeds, in numbers.

    Attributes:
        values: The :data:`MEASURES` by method, one per seed; of dropout and of adversarial dropout at least.
        seeds: Of the runs.
        images: Number of test images.
    """

    values: dict[str, tuple[dict[str, float], ...]]
    seeds: tuple[int, ...]
    images: int

    @property
    def numbers(self) -> Table:
        """A row per measure, mean ± standard deviation (n - 1) over seeds."""
        rows = [
            (name, *(_spread([run[name] for run in runs]) for runs in self.values.values()), how)
            for name, how in MEASURES.items()
        ]
        seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        title = f"Mean ± standard deviation over {seeds}, {self.images} test images"
        return Table(("measure", *self.values, "how it is measured"), rows, title)

    @property
    def claims(self) -> Table:
        """The verdicts on the paper's claims."""
        header = ("claim", "here", f"figures ({' · '.join(METHODS)})")
        return Table(header, self.verdicts, 'In our words; "seen" if it holds in each seed that has something to judge')

    @property
    def by_seed(self) -> Table:
        """A row per method and seed, numbers in full precision; :func:`from_csv` reads it."""
        rows = [
            (method, seed, self.images, *values.values())
            for method in METHODS
            for seed, values in zip(self.seeds, self.values[method], strict=True)
        ]
        return Table(("method", "seed", "images", *MEASURES), rows)

    def outcomes(self, claim: Claim) -> list[bool | None]:
        """Whether ``claim`` holds, one per seed; ``None``: there is nothing to judge."""
        runs = [[run[claim.measure] for run in runs] for runs in self.values.values()]
        absent = [math.inf] * (len(METHODS) - len(runs))
        return [claim.holds(*absent, *values) for values in zip(*runs, strict=True)]

    @property
    def verdicts(self) -> list[tuple[str, str, str]]:
        """For each of :data:`CLAIMS`: its text, what is seen, and the figures.

        "seen" if it holds in every seed that has something to judge, else "not seen"; "nothing to judge" if none has.
        """
        verdicts = []
        for claim in CLAIMS:
            outcomes = self.outcomes(claim)
            judged = [outcome for outcome in outcomes if outcome is not None]
            seen = ("seen" if all(judged) else "not seen") if judged else "nothing to judge"
            means = " · ".join(mean([run[claim.measure] for run in runs]) for runs in self.values.values())
            left = f", {len(outcomes) - len(judged)} with nothing to judge" if len(judged) < len(outcomes) else ""
            figures = f"{claim.measure} {means}; in {sum(judged)} of {len(outcomes)} seeds{left}"
            verdicts.append((claim.text, seen, figures))
        return verdicts


def mean(values: Sequence[float], digits: int = 4) -> str:
    """The mean as text, without what is NaN; "–" if that is all."""
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.fmean(known):.{digits}g}" if known else "–"


def _spread(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{mean(known)} ± {statistics.stdev(known):.2g}" if len(known) > 1 else mean(known)


def compare(
    found: Sequence[Record], images: int, location: DataLocation | None = None
) -> tuple[Comparison, dict[str, Features]]:
    """Look at finished runs of the three methods, the same seeds of each.

    Args:
        found: Of all three methods.
        images: How many test images the units are shown.
        location: Where the data lie, if not where they lay.

    Returns:
        The numbers, and the units of each method for the first seed.

    Raises:
        InvalidValueError: a run of a method is missing, or see :func:`~.features.look`.
    """
    by_method = {
        method: {record.config.seed: record for record in found if record.config.method == method} for method in METHODS
    }
    seeds = sorted(by_method[NONE])
    if not seeds or any(sorted(runs) != seeds for runs in by_method.values()):
        raise InvalidValueError(
            f"expected runs of {', '.join(METHODS)} with the same seeds, got "
            f"{', '.join(f'{method}: {sorted(runs)}' for method, runs in by_method.items())}"
        )
    features = {method: [look(runs[seed], images, location) for seed in seeds] for method, runs in by_method.items()}
    return measured(features, tuple(seeds), images), {method: own[0] for method, own in features.items()}


def measured(features: Mapping[str, Sequence[Features]], seeds: tuple[int, ...], images: int) -> Comparison:
    """Measure the units of each method, one network per seed; what is high is set by dropout's of the same seed.

    ``features`` may lack the method without dropout.
    """
    levels = [high_level(own.activations) for own in features[DROPOUT]]
    values = {
        method: tuple(measure(own, level) for own, level in zip(features[method], levels, strict=True))
        for method in METHODS
        if method in features
    }
    return Comparison(values, seeds, images)


def from_csv(text: str) -> Comparison:
    """The comparison whose :attr:`~Comparison.by_seed` this is, as CSV."""
    rows = list(csv.DictReader(io.StringIO(text)))
    own = {method: [row for row in rows if row["method"] == method] for method in METHODS}
    values = {method: tuple({name: float(row[name]) for name in MEASURES} for row in own[method]) for method in METHODS}
    return Comparison(values, tuple(int(row["seed"]) for row in own[NONE]), int(rows[0]["images"]))

"""How long the runs of a comparison take, and which methods fit into the time that there is."""

import statistics
from collections.abc import Collection, Mapping, Sequence

from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.grid.grid import work
from adversarial_dropout.experiments.records import Record


def seconds_of_run(config: ExperimentConfig, measured: Collection[Record]) -> float:
    """Estimate the time of a run from those of others, as a straight line in the work of a run.

    The line goes through the means of the runs with the least and the most work, and is level or rising. If all have
    the same work, the time is proportional to it.
    """
    by_work: dict[float, list[float]] = {}
    for record in measured:
        by_work.setdefault(work(record.config), []).append(record.seconds)
    least, most = min(by_work), max(by_work)
    low, high = (statistics.fmean(by_work[amount]) for amount in (least, most))
    if least == most:
        return low * work(config) / least
    return max(0.0, low + max(0.0, high - low) * (work(config) - least) / (most - least))


def that_fit(
    seconds: Mapping[str, float], allowed: float, order: Sequence[str], kept: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Choose methods whose times are ``allowed`` in all, and return them and the others.

    Those ``kept`` are chosen in any case, then the others by ``order``.
    """
    total = sum(seconds[method] for method in kept)
    chosen, out = [*kept], []
    for method in order:
        if method in kept or method not in seconds:
            continue
        if total + seconds[method] <= allowed:
            chosen.append(method)
            total += seconds[method]
        else:
            out.append(method)
    return chosen, out


def in_words(seconds: float) -> str:
    """A time in words: seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

"""The tables of docs/search.md, from results/."""

import statistics
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

RESULTS = Path(__file__).resolve().parents[1] / "results"


def search_quality() -> str:
    """How much of the true maximum each search reaches."""
    content = read_json(RESULTS / "search-quality.json")
    where = content["environment"]
    blocks = [
        _shares(content, network, flips, p)
        for network, flips, p in (
            ("small-cnn", 2, 0.5),
            ("small-cnn", 6, 0.5),
            ("16 units", 2, 0.5),
            ("20 units", 2, 0.5),
        )
    ]
    confident = "; ".join(
        f"{network.split(',')[0]}: {', '.join(f'{name} {100 * share:.0f} %' for name, share in shares.items())}"
        for network, shares in content["less_confident"].items()
        if "20 units" not in network
    )
    at_base = max(content["slope_at_base"][name] for name in ("vadd-kl", "vadd-qe"))
    first, *_, last = content["seeds"]
    blocks.append(
        f"Mean share, and in brackets how often the worst mask is found; {content['images']} test images a network, "
        f"seeds {first} to {last}, all ways of training together. Passes are forward-backward passes of the upper "
        f"part, + other forward passes; time is over Algorithm 1 at 6 flips, median, in one process on a machine with "
        f"other work. The likeliest class under εˢ becomes less likely (vadd-kl, 2 flips) in so many images: "
        f"{confident}. Without labels the largest |J| at εˢ with the rescaling is {at_base:.0e} of that at 1, with "
        f"labels {content['slope_at_base']['sadd-ce']:.1f}. {where['processor']}, PyTorch {where['packages']['torch']}."
    )
    return "\n\n".join(blocks)


def _shares(content: dict[str, Any], network: str, flips: int, p: float) -> str:
    """One table: searches by objectives."""
    groups = [
        group
        for group in content["groups"]
        if network in group["network"] and group["flips"] == flips and group["p"] == p
    ]
    objectives = list(dict.fromkeys(group["objective"] for group in groups))
    name = groups[0]["network"]

    def cell(search: str, objective: str) -> str:
        if search == "at εˢ, rescaled" and content["slope_at_base"][objective] < 1e-6:
            return "J = 0"
        searched = [group["searches"][search] for group in groups if group["objective"] == objective]
        mean, exact = (statistics.fmean(figures[key] for figures in searched) for key in ("mean", "exact"))
        return f"{mean:.2f} ({100 * exact:.0f} %)"

    def passes(search: str) -> str:
        cost = content["cost"][search]
        gradients = flips if search == "greedy" else cost["gradients"]
        return f"{gradients} + {cost['forwards']}" if cost["forwards"] else str(gradients)

    lines = [
        (
            search,
            passes(search),
            f"{content['times'][name][search][1]:.1f}",
            *(cell(search, each) for each in objectives),
        )
        for search in content["cost"]
        if not search.startswith("Algorithm 1, twice")
    ]
    of_what = "of the true maximum" if groups[0]["exhaustive"] else "of the largest that any search found"
    head = ("search", "passes", "time", *objectives)
    n = sum(group["n"] for group in groups) // len(objectives)
    budget = f"{flips} {'flip' if flips == 1 else 'flips'}"
    return f"**{name}, p = {p}, {budget}**; share {of_what}, n = {n}:\n\n{Table(head, lines).markdown()}"


def search_steps() -> str:
    """Validation errors with other searches."""
    content = read_json(RESULTS / "search-steps.json")
    errors = {(run["method"], run["flips"], run["search"]): run["errors"] for run in content["runs"]}
    names = list(dict.fromkeys(search for _, _, search in errors))
    reference = names[0]

    def cell(method: str, flips: int, name: str) -> str:
        values, baseline = errors[method, flips, name], errors[method, flips, reference]
        spread = MeanStd.of(values)
        if name == reference:
            return str(spread)
        more = [a - b for a, b in zip(values, baseline, strict=True)]
        return f"{spread} ({statistics.fmean(more):+.2f} ± {statistics.stdev(more) / len(more) ** 0.5:.2f})"

    lines = [
        (method, flips, *(cell(method, flips, name) for name in names))
        for method, flips in dict.fromkeys((method, flips) for method, flips, _ in errors)
    ]
    note = (
        f"Validation error in %, mean ± standard deviation, n = {len(content['seeds'])}; in brackets the mean "
        f"difference from {reference} with the same seed ± its standard error."
    )
    return f"{Table(('method', 'flips', *names), lines).markdown()}\n\n{note}"

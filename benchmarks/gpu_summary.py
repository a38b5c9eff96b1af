"""Summarise the files that gpu.py writes. Part of gpu.py; not a script."""

import json
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.presets.stated import STATED
from adversarial_dropout.experiments.results.paper_tables import trained
from adversarial_dropout.experiments.run.batches import steps_of_a_run

SEEDS = 8


def write(out: Path) -> None:
    """Write summary.json from the parts that exist."""
    records.write_measured(out / "summary.json", {"table 1": table1(out), "share of the rate": shares(out)})


def read(path: Path) -> Any:
    return json.loads(path.read_text())["entries"] if path.exists() else None


def table1(out: Path) -> dict[str, Any] | None:
    """Hours of Table 1 at full scale, one run after the other and side by side."""
    cells, seeds = read(out / "cells.json"), read(out / "seeds.json")
    timed = {name: entry for name, entry in (cells or {}).items() if "seconds a step" in entry}
    if not timed:
        return None
    printed = {(column.preset, method) for table in ("table1", "table2") for column, method in trained(table)}
    hours = {"all methods": 0.0, "methods that the paper prints": 0.0}
    for name, entry in timed.items():
        preset, method = name.split()
        steps = steps_of_a_run(presets.get(preset, method, "paper"), STATED["mnist"].training_images)
        cell_hours = SEEDS * steps * entry["seconds a step"] / 3600
        hours["all methods"] += cell_hours
        if (preset, method) in printed:
            hours["methods that the paper prints"] += cell_hours
    summary: dict[str, Any] = {"cells timed": len(timed), "seeds": SEEDS, "hours, one run after the other": hours}
    best = gain(seeds)
    if best is not None:
        summary["side by side"] = best
        summary["hours, side by side"] = {name: value / best["ratio"] for name, value in hours.items()}
    return summary


def gain(entries: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """The way and number of seeds side by side with the largest gain, judged by the method that gains least."""
    ways: dict[tuple[str, int], list[float]] = {}
    for entry in entries or ():
        if "ratio" in entry and entry["way"] != "batched":
            ways.setdefault((entry["way"], entry["seeds"]), []).append(entry["ratio"])
    both = {key: min(ratios) for key, ratios in ways.items() if len(ratios) > 1}
    if not both:
        return None
    way, seeds = max(both, key=lambda key: both[key])
    return {"way": way, "seeds": seeds, "ratio": both[way, seeds]}


def shares(out: Path) -> dict[str, dict[str, float]] | None:
    """FLOP/s of each step relative to the GPU's matrix products in the same precision."""
    steps = read(out / "steps.json")
    if not steps or "rate bf16" not in steps:
        return None
    rates = {name.split()[1]: value for name, value in steps.items() if name.startswith("rate ")}
    by_step = {}
    for name, entry in steps.items():
        if isinstance(entry, dict) and "milliseconds" in entry:
            by_step[name] = {
                variant: 1000 * entry["flop"] / median / rates[variant.split(", ")[1]]
                for variant, (_, median, _) in entry["milliseconds"].items()
            }
    return by_step

"""The tables of docs/ablation.md, from results/ablation/."""

import re
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.results.published import MeanStd
from adversarial_dropout.experiments.show.table import Table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "ablation"
LEVEL = 0.05


def variants(results: Path = RESULTS) -> str:
    """A row per variant: error, paired difference to the reference, p-value and cost on each setting."""
    settings = _recorded(results)
    if not settings:
        return "Nothing has been run yet."
    names = list(dict.fromkeys(name for content in settings.values() for name in content["variants"]))
    head = ["variant"]
    for name in settings:
        head += [f"{name}: error in %", "difference (p)", "cost"]
    lines = [
        [_label(settings, name), *(cell for each in settings.values() for cell in _cells(each, name))] for name in names
    ]
    notes = [_note(name, content) for name, content in settings.items()]
    return f"{Table(head, lines, notes=notes).markdown()}"


def what_helps(results: Path = RESULTS) -> str:
    """Which variants are better or worse than the reference, and which make no difference that the test sees."""
    settings = _recorded(results)
    lines = []
    for name, content in settings.items():
        groups: dict[str, list[str]] = {"lower error": [], "higher error": [], "no difference seen": []}
        for entry in content["variants"].values():
            if "difference" not in entry:
                continue
            seen = entry["p"] is not None and entry["p"] < LEVEL
            which = ("lower error" if entry["difference"] < 0 else "higher error") if seen else "no difference seen"
            groups[which].append(entry["label"])
        lines.append((name, *("; ".join(group) or "none" for group in groups.values())))
    if not lines:
        return "Nothing has been run yet."
    tests = max(sum("difference" in entry for entry in content["variants"].values()) for content in settings.values())
    return (
        f"{Table(('data', 'lower error', 'higher error', 'no difference seen'), lines).markdown()}\n\n"
        f"Against the reference, paired t test at {100 * LEVEL:g} %, not corrected for the number of tests: of {tests} "
        f"variants without any effect, {LEVEL * tests:.0f} would be expected in the first two columns by chance."
    )


def changes(results: Path = RESULTS) -> str:
    """What each variant changes in the config of the reference."""
    settings = _recorded(results)
    if not settings:
        return "Nothing has been run yet."
    lines: dict[str, str] = {}
    for content in settings.values():
        for entry in content["variants"].values():
            lines.setdefault(entry["label"], "; ".join(f"`{line}`" for line in entry["changed"]) or "nothing")
    return Table(("variant", "setting: reference → variant"), list(lines.items())).markdown()


def _recorded(results: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: read_json(path) for path in sorted(results.glob("*.json"))}


def _label(settings: dict[str, dict[str, Any]], name: str) -> str:
    return next(str(content["variants"][name]["label"]) for content in settings.values() if name in content["variants"])


def _cells(content: dict[str, Any], name: str) -> tuple[str, str, str]:
    entry = content["variants"].get(name)
    if entry is None:
        return "", "", ""
    difference = ""
    if "difference" in entry:
        p = "" if entry["p"] is None else f" (p {_probability(entry['p'])})"
        difference = re.sub("^-", "−", f"{entry['difference']:+.2f}") + p
    return str(MeanStd(entry["mean"], entry["std"])), difference, f"{entry['cost']:.1f}"


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _note(name: str, content: dict[str, Any]) -> str:
    seeds, where, setting = content["seeds"], content["environment"], content["setting"]
    return (
        f"{name}: preset {setting['preset']}, {setting['labels']} labels, reference {content['reference']}; mean ± "
        f"standard deviation of n = {len(seeds)} seeds ({', '.join(map(str, seeds))}) on {content['examples']:,} test "
        f"images. Difference to the reference and p-value: paired by seed, t test. Cost: seconds over those of "
        f"training without a term. {where['processor']}, {where['gpu'] or 'no GPU'}; PyTorch "
        f"{where['packages']['torch']}; commit {(where['commit'] or 'unknown')[:7]}."
    )

"""Write the tables of README and docs anew from results/: ``python docs/tables.py [--check]``.

A table stands between ``<!-- name -->`` and ``<!-- /name -->``. With ``--check`` nothing is written; the exit status
says whether anything would change.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.analysis import tables
from adversarial_dropout.experiments.records import Record, find_records, read_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = ("README.md", "docs/method.md", "docs/digits.md")


def digits() -> str:
    """Test errors of digits-100."""
    found = find_records(RESULTS / "digits-100")
    (group,) = tables.summarise(found, presets.find("digits-100").methods)
    return f"{tables.as_markdown(group)}\n\n{_provenance(found)}"


def digits_search() -> str:
    """How strong the search is on a trained model."""
    found = read_json(RESULTS / "digits-100-search.json")
    names = ("mean", "mean_of_largest", "mean_random")
    lines = [
        [run, str(found["n"][run]), f"{work['flips']:.1f}", *(f"{work[name]:.4f}" for name in names)]
        for run, work in found["runs"].items()
    ]
    return tables.markdown(
        ("trained by", "n", "flips", "search", f"largest of {found['random_masks']} random", "mean of random"), lines
    )


def digits_tuning() -> str:
    """Validation errors of all candidates."""
    tuning = read_json(RESULTS / "digits-100-tuning.json")
    errors: dict[str, list[float]] = tuning["errors"]

    def method(name: str) -> str:
        return " ".join(word for word in name.split() if "=" not in word)

    ordered = sorted(errors, key=lambda name: (method(name), statistics.fmean(errors[name])))
    spread = {
        name: f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}" for name, values in errors.items()
    }
    lines = [(name, spread[name]) for name in ordered]
    return tables.markdown(("candidate", f"validation error in %, n = {len(tuning['seeds'])}"), lines)


def step_cost() -> str:
    """Time of a step over a plain one."""
    found = read_json(RESULTS / "step-cost.json")
    lines = [(name, f"{m:.2f}", f"{low:.2f} to {high:.2f}") for name, (low, m, high) in found["ratios"].items()]
    where = found["environment"]
    return (
        tables.markdown(("step with", "over plain", "quartiles"), lines)
        + f"\n\n{found['rounds']} rounds, batch {found['batch']}, one thread; {where['processor']}, "
        f"PyTorch {where['packages']['torch']}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "digits-100": digits,
    "digits-search": digits_search,
    "digits-tuning": digits_tuning,
    "step-cost": step_cost,
}


def _provenance(found: list[Record]) -> str:
    where = found[0].final["environment"]
    seeds = sorted({record.config.seed for record in found})
    return (
        f"Seeds {seeds[0]} to {seeds[-1]}; {where['processor']}, {where['cores']} cores, {where['gpu'] or 'no GPU'}; "
        f"PyTorch {where['packages']['torch']}; commit {where['commit'][:7]}."
    )


def renew(text: str) -> str:
    """``text`` with all of its tables written anew."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            table = make()
            text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for page in PAGES:
        path = ROOT / page
        before = path.read_text()
        after = renew(before)
        if after != before:
            stale.append(page)
            if not check:
                path.write_text(after)
    print(f"{'out of date' if check else 'renewed'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()

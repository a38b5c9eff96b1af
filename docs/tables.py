"""Write the tables of README and docs anew from results/: ``python docs/tables.py [--check]``.

A table stands between ``<!-- name -->`` and ``<!-- /name -->``. With ``--check`` nothing is written; the exit status
says whether anything would change.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ablation_tables
import choice_tables
import example_tables
import few_label_tables
import figure_tables
import own_image_tables
import reference_pages
import search_tables
import speed_tables

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import Scale, differences
from adversarial_dropout.experiments.models.mnist_cnn import MnistCnn
from adversarial_dropout.experiments.presets import paper
from adversarial_dropout.experiments.presets.paper import METHODS
from adversarial_dropout.experiments.records import Record, find_records, read_json
from adversarial_dropout.experiments.results import paper_tables, summary
from adversarial_dropout.experiments.results.published import PRINTED, MeanStd
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.studies.theory.tables import tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = (
    "README.md",
    "docs/your-model.md",
    "docs/choosing.md",
    "docs/api.md",
    "docs/messages.md",
    "docs/scikit-learn.md",
    "docs/method.md",
    "docs/digits.md",
    "docs/experiments.md",
    "docs/figures.md",
    "docs/theory.md",
    "docs/search.md",
    "docs/ablation.md",
    "docs/own-images.md",
    "docs/speed.md",
    "docs/examples.md",
)


def digits() -> str:
    """Test errors of digits-100."""
    records = find_records(RESULTS / "digits-100")
    (group,) = summary.summarise(records, presets.find("digits-100").methods)
    return f"{group.table.markdown()}\n\n{_provenance(records)}"


def digits_search() -> str:
    """How strong the search is on a trained model."""
    content = read_json(RESULTS / "digits-100-search.json")
    names = ("mean", "mean_of_largest", "mean_random")
    lines = [
        [run, content["n"][run], f"{work['flips']:.1f}", *(f"{work[name]:.4f}" for name in names)]
        for run, work in content["runs"].items()
    ]
    return Table(
        ("trained by", "n", "flips", "search", f"largest of {content['random_masks']} random", "mean of random"), lines
    ).markdown()


def digits_tuning() -> str:
    """Validation errors of all candidates."""
    tuning = read_json(RESULTS / "digits-100-tuning.json")
    errors: dict[str, list[float]] = tuning["errors"]

    def method(name: str) -> str:
        return " ".join(word for word in name.split() if "=" not in word)

    ordered = sorted(errors, key=lambda name: (method(name), statistics.fmean(errors[name])))
    lines = [(name, MeanStd.of(errors[name])) for name in ordered]
    return Table(("candidate", f"validation error in %, n = {len(tuning['seeds'])}"), lines).markdown()


def digits_settings() -> str:
    """Validation errors with one setting changed at a time."""
    content = read_json(RESULTS / "digits-100-settings.json")
    errors: dict[str, list[float]] = content["errors"]

    def error(changed: str, value: float) -> str:
        values = {**content["centre"], changed: value}
        return str(MeanStd.of(errors["_".join(f"{name}={each}" for name, each in values.items())]))

    lines = [
        (name, " · ".join(f"{value:g}: {error(name, value)}" for value in values))
        for name, values in content["tried"].items()
    ]
    where = content["environment"]
    return (
        Table(("changed", f"value: validation error in %, n = {len(content['seeds'])}"), lines).markdown()
        + f"\n\nSeeds {content['seeds'][0]} to {content['seeds'][-1]}; {where['processor']}; PyTorch "
        f"{where['packages']['torch']}; commit {where['commit'][:7]}."
    )


def paper_table(name: str, scale: Scale) -> str:
    """One of the paper's tables."""
    records = find_records(RESULTS / "paper")
    table = paper_tables.paper_table(name, records, scale)
    presets_shown = {column.preset for column in table.columns}
    shown = [run for run in records if run.config.preset in presets_shown and run.config.scale == scale]
    if not shown:
        return f"{table.table.markdown()}\n\nNothing has been run yet."
    hours = sum(run.seconds for run in shown) / 3600
    cost = f"{len(shown)} runs, {hours:.1f} hours of one core in all."
    return f"{table.table.markdown()}\n\n{_provenance(shown)} {cost}"


def cifar10_quick() -> str:
    """Cross-entropy before and after the steps."""
    content = read_json(RESULTS / "cifar10-steps.json")
    lines = [
        (
            run["preset"],
            run["method"],
            f"{run['before']:.3f}",
            f"{run['after']:.3f}",
        )
        for run in sorted(content["runs"], key=lambda run: (run["preset"], METHODS.index(run["method"]), run["seed"]))
    ]
    where = content["environment"]
    return (
        Table(("preset", "method", "before", "after 20 steps"), lines).markdown()
        + f"\n\n{where['processor']}, PyTorch {where['packages']['torch']}, one seed."
    )


def kernel_size() -> str:
    """Errors with 1 × 1 and 3 × 3 kernels."""
    lines, steps = [], set()
    for record_root in (RESULTS / "kernel-size-1", RESULTS / "paper" / "mnist-all" / "quick" / "plain"):
        records = find_records(record_root)
        errors = [record.error for record in records]
        config = records[0].config
        assert isinstance(config.model, MnistCnn)
        size = config.model.kernel_size
        steps.add(config.training.epochs * (config.training.steps_per_epoch or 0))
        lines.append((f"{size} × {size}", MeanStd.of(errors), len(errors)))
    (count,) = steps
    return Table(("kernels", f"test error in %, plain, 60,000 labels, {count:,} steps", "n"), lines).markdown()


def authors() -> str:
    """Settings in which the families differ."""
    lines = []
    for column in paper.COLUMNS:
        if column.family == "authors":
            of_authors = presets.get(column.preset, "vadd-qe+vat", "paper").to_dict()
            of_paper = presets.get(column.preset.replace("authors/", "paper/"), "vadd-qe+vat", "paper").to_dict()
            added = [kind for kind in of_authors["terms"] if kind not in of_paper["terms"]]
            of_authors["terms"] = {kind: term for kind, term in of_authors["terms"].items() if kind not in added}
            changed = [line for line in differences(of_paper, of_authors) if not line.startswith("preset")]
            changed += [f"terms.{kind}: none → weight 1" for kind in added]
            lines.append((column.preset, "; ".join(changed)))
    return Table(("preset", "paper → authors"), lines).markdown()


def mnist_tuning() -> str:
    """Validation errors of the candidates, by method."""
    lines = [
        (f"{method} {name}", MeanStd.of(errors), entry["steps"], len(errors))
        for method, entry in read_json(RESULTS / "mnist-tuning.json")["methods"].items()
        for name, errors in entry["errors"].items()
    ]
    return Table(("candidate", "validation error in %", "steps", "n"), lines).markdown()


def autoencoders_measured() -> str:
    """Measures of the three autoencoders."""
    compared = figure_tables.main_setting()
    seeds = f"Mean ± standard deviation, n = {len(compared.seeds)}; {compared.images:,} test images."
    records = find_records(RESULTS / "paper" / "autoencoder")
    return f"{compared.numbers.markdown()}\n\n{seeds} {_provenance(records)}"


def _theory(index: int) -> str:
    study = read_json(RESULTS / "theory" / "theory.json")
    note = "" if index else f"\n\n{study['problems']:,} random problems."
    return tables(study)[index].markdown() + note


TABLES: dict[str, Callable[[], str]] = {
    "digits-100": digits,
    "digits-search": digits_search,
    "digits-tuning": digits_tuning,
    "step-cost": partial(speed_tables.step_cost, "small-cnn"),
    "step-cost-table3": partial(speed_tables.step_cost, "mnist-cnn"),
    "step-cost-table4": partial(speed_tables.step_cost, "conv-large"),
    "own-models-resnet": partial(speed_tables.own_models, "resnet"),
    "own-models-transformer": partial(speed_tables.own_models, "transformer"),
    "mask-search": speed_tables.mask_search,
    "speed-goals": speed_tables.goals,
    "epochs": speed_tables.epochs,
    "fast-paths": partial(speed_tables.fast_paths, True),
    "slow-paths": partial(speed_tables.fast_paths, False),
    "processes": speed_tables.processes,
    "table-cost": speed_tables.table_cost,
    "table1-quick": partial(paper_table, "table1", "quick"),
    **{f"{name}-full": partial(paper_table, name, "paper") for name in PRINTED},
    "cifar10-quick": cifar10_quick,
    "true-batch": speed_tables.true_batch,
    "kernel-size": kernel_size,
    "deviations": choice_tables.deviations,
    "left-open": choice_tables.left_open,
    "authors": authors,
    "mnist-tuning": mnist_tuning,
    "autoencoders": autoencoders_measured,
    "autoencoder-claims": lambda: figure_tables.main_setting().claims.markdown(),
    "autoencoder-grid": figure_tables.grid,
    "autoencoder-grid-claims": figure_tables.grid_claims,
    "theory-equations": partial(_theory, 0),
    "theory-dropped": partial(_theory, 1),
    "theory-penalties": partial(_theory, 2),
    "theory-active": partial(_theory, 3),
    "theory-paths": partial(_theory, 4),
    "theory-distances": partial(_theory, 5),
    "own-images": own_image_tables.measured,
    "own-images-candidates": own_image_tables.candidates,
    "pretrained": own_image_tables.pretrained,
    "pretrained-candidates": own_image_tables.pretrained_candidates,
    "ablation": ablation_tables.variants,
    "ablation-found": ablation_tables.what_helps,
    "ablation-changes": ablation_tables.changes,
    "search-quality": search_tables.search_quality,
    "search-steps": search_tables.search_steps,
    "few-labels": few_label_tables.accuracies,
    "few-labels-settings": few_label_tables.settings,
    "settings": digits_settings,
    "api": reference_pages.api,
    "messages": reference_pages.messages,
    "finetuning": example_tables.finetuning,
    "finetuning-trials": example_tables.finetuning_trials,
}


def _provenance(records: list[Record]) -> str:
    environments = [record.final["environment"] for record in records]
    seeds = sorted({record.config.seed for record in records})
    commits = sorted({where["commit"][:7] for where in environments})
    machines = sorted(
        {f"{where['processor']}, {where['cores']} cores, {where['gpu'] or 'no GPU'}" for where in environments}
    )
    versions = sorted({where["packages"]["torch"] for where in environments})
    which = f"Seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"Seed {seeds[0]}"
    return (
        f"{which}; {' and '.join(machines)}; PyTorch {' and '.join(versions)}; "
        f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}."
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

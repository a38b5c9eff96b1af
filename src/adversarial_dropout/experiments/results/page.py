"""The pages of finished runs: the report with its figures, and the paper's tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.records import WEIGHTS, Record, environments
from adversarial_dropout.experiments.results import figures
from adversarial_dropout.experiments.results.paper_tables import PaperTable
from adversarial_dropout.experiments.results.summary import Group, summarise
from adversarial_dropout.experiments.show.page import Picture, named, write_page
from adversarial_dropout.experiments.studies.inspection.masks_at_work import observe_run

_SHOWN_IMAGES = 3


def write_report(records: Sequence[Record], path: Path, methods: Sequence[str] = ()) -> None:
    """Write the report of finished runs as an HTML file, with ``methods`` first, in this order."""
    write_page(
        "results/page.html.j2",
        path,
        sections=[_section(group) for group in summarise(records, methods)],
        environments=environments(records),
    )


def write_paper_table(table: PaperTable, path: Path) -> None:
    """Write one of the paper's tables as an HTML file."""
    methods = _explained(row.method for row in table.body if row.method)
    write_page("results/paper_table.html.j2", path, table=table, methods=methods)


def _explained(methods: Iterable[str]) -> dict[str, str]:
    """What each part of these methods asks of the network."""
    parts = {part for method in methods for part in method.split(" ")[0].split("+")}
    return {name: asked for name, asked in presets.METHODS.items() if name in parts}


def _section(group: Group) -> dict[str, object]:
    """What the template shows of a group."""
    means = [row.error.mean for row in group.rows]
    best = [i for i, mean in enumerate(means) if mean == min(means)]
    listed = ", ".join(f"{row.method} {row.error.mean:.2f}" for row in group.rows)
    lowest = group.rows[best[0]].method
    return {
        "group": group,
        "best": best if group.scale != "tiny" else [],
        "methods": _explained(row.method for row in group.rows),
        "errors": Picture(figures.errors(group), f"Errors in percent by method: {listed}. Lowest: {lowest}."),
        "curves": Picture(
            figures.learning_curves(group),
            f"Learning curves: error against epoch, mean over seeds; at the end {listed}.",
        ),
        "at_work": _at_work(group),
    }


def _at_work(group: Group) -> dict[str, object] | str | None:
    """The search on the best run with virtual adversarial dropout whose weights are saved, or why there is none."""
    for row in sorted(group.rows, key=lambda row: row.error.mean):
        for record in row.records:
            vadd = "vadd" in record.config.terms
            if vadd and record.config.model.p > 0 and (record.folder / WEIGHTS).exists():
                try:
                    return _observe(record)
                except AdversarialDropoutError as error:  # The data may have moved; the report does without them.
                    return f"The model of {record.folder} could not be looked at: {error}"
    return None


def _observe(record: Record) -> dict[str, object]:
    work, data, rows = observe_run(record)
    moved = []
    shown = work.divergence.argsort(descending=True)[:_SHOWN_IMAGES].tolist()
    for image in shown:
        label = data.labels[rows[image]]
        moved.append(
            f"image of {data.classes[int(label)]}: probability of its class {work.before[image, label]:.2f} under the "
            f"base mask, {work.after_random[:, image, label].mean():.2f} after random flips, "
            f"{work.after[image, label]:.2f} after the flips of the search"
        )
    drawing = figures.masks_at_work(work, shown, data, rows)
    picture = Picture(drawing, f"Adversarial dropout at work; {'; '.join(moved)}.")
    return {"run": named(record), "work": work, "picture": picture}

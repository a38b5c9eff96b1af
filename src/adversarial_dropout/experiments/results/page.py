"""The pages of finished runs: the report with its figures, and the paper's tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.results import figures
from adversarial_dropout.experiments.results.paper_tables import PaperTable
from adversarial_dropout.experiments.results.summary import Group, summarise
from adversarial_dropout.experiments.show.page import Picture, named, write_page
from adversarial_dropout.experiments.studies.inspection.masks_at_work import RANDOM_MASKS, MasksAtWork, observe_run

_SHOWN_IMAGES = 3


@dataclass(frozen=True)
class _AtWork:
    run: str
    work: MasksAtWork
    picture: Picture


@dataclass(frozen=True)
class _Section:
    group: Group
    best: list[int]
    methods: dict[str, str]
    errors: Picture
    curves: Picture
    at_work: _AtWork | str | None


def write_report(found: Sequence[Record], path: Path, methods: Sequence[str] = ()) -> None:
    """Write the report of ``found`` to ``path``.

    Args:
        found: Finished runs.
        path: The HTML file.
        methods: Order of the methods in tables and figures.

    Raises:
        RecordError: the file cannot be written.
    """
    write_page(
        "results/page.html.j2",
        path,
        sections=[_section(group) for group in summarise(found, methods)],
        environments=records.environments(found),
        random_masks=RANDOM_MASKS,
    )


def write_paper_table(table: PaperTable, path: Path) -> None:
    """Write one of the paper's tables to ``path``.

    Raises:
        RecordError: the file cannot be written.
    """
    write_page(
        "results/paper_table.html.j2", path, found=table, methods=_asked(row.method for row in table.body if row.method)
    )


def _asked(methods: Iterable[str]) -> dict[str, str]:
    """What each part of these methods asks for."""
    parts = {part for method in methods for part in method.split(" ")[0].split("+")}
    return {name: asked for name, asked in presets.METHODS.items() if name in parts}


def _section(group: Group) -> _Section:
    means = [row.error.mean for row in group.rows]
    best = [place for place, mean in enumerate(means) if mean == min(means)]
    lowest = group.rows[best[0]].method
    listed = ", ".join(f"{row.method} {row.error.mean:.2f}" for row in group.rows)
    return _Section(
        group=group,
        best=best if group.scale != "tiny" else [],
        methods=_asked(row.method for row in group.rows),
        errors=Picture(figures.errors(group), f"Errors in percent by method: {listed}. Lowest: {lowest}."),
        curves=Picture(
            figures.learning_curves(group),
            f"Learning curves: error against epoch, mean over seeds; at the end {listed}.",
        ),
        at_work=_at_work(group),
    )


def _at_work(group: Group) -> _AtWork | str | None:
    """Look at a run of the best method with virtual adversarial dropout whose weights are kept, if there is one."""
    for row in sorted(group.rows, key=lambda row: row.error.mean):
        for record in row.records:
            vadd = "vadd" in record.config.terms
            if vadd and record.config.model.p > 0 and (record.folder / records.WEIGHTS).exists():
                try:
                    return _observe(record)
                except AdversarialDropoutError as error:  # The data may be elsewhere; the rest of the report stands.
                    return f"The model of {record.folder} could not be looked at: {error}"
    return None


def _observe(record: Record) -> _AtWork:
    work, data, rows = observe_run(record)
    shown = work.divergence.argsort(descending=True)[:_SHOWN_IMAGES]
    few = work.select(shown)
    moved = "; ".join(
        f"image of {data.classes[int(data.labels[row])]}: probability of its class {before:.2f} under the base mask, "
        f"{random:.2f} after random flips, {after:.2f} after the flips of the search"
        for row, before, random, after in (
            (
                row,
                few.before[place, data.labels[row]],
                few.after_random[:, place, data.labels[row]].mean(),
                few.after[place, data.labels[row]],
            )
            for place, row in enumerate(rows[shown])
        )
    )
    picture = Picture(figures.masks_at_work(few, data, rows[shown]), f"Adversarial dropout at work; {moved}.")
    return _AtWork(named(record), work, picture)

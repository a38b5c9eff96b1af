"""Writes the page of a comparison for readers who do not know the methods."""

from pathlib import Path

from adversarial_dropout.experiments.records import environments
from adversarial_dropout.experiments.results.comparison.comparison import Comparison
from adversarial_dropout.experiments.results.comparison.verdict import Verdict, advice, certainty, explained
from adversarial_dropout.experiments.results.figures import best_classifier, draw_spread
from adversarial_dropout.experiments.results.summary import summarise
from adversarial_dropout.experiments.show.page import Picture, write_page


def write_comparison(comparison: Comparison, found: Verdict, path: Path, left_out: str = "") -> None:
    """Write a comparison, its verdict, and what is not in it as an HTML file."""
    rows, runs = comparison.rows, comparison.runs
    best = min(runs, key=lambda run: run.error)
    listed = ", ".join(f"{row.method} {row.error}" for row in rows)
    drawing = draw_spread(
        [(row.method, tuple(row.errors.values())) for row in rows], "wrong answers in % (grey: single repetitions)"
    )
    means = [row.error.mean for row in rows]
    write_page(
        "results/comparison/page.html.j2",
        path,
        comparison=comparison,
        images=comparison.images,
        verdict=found,
        lowest=[index for index, mean in enumerate(means) if mean == min(means)],
        explained={row.method: explained(row.method) for row in rows},
        certainty=certainty(comparison),
        advice=advice(comparison, best.config),
        left_out=left_out,
        errors=Picture(drawing, f"Wrong answers in percent by method: {listed}."),
        best_run=best_classifier(summarise(runs)[0]),
        best_folder=best.folder,
        environments=environments(runs),
    )

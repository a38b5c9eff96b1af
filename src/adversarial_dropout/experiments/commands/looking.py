"""Commands that look at what there is, and train nothing."""

import dataclasses

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.arguments import REPORT, Evaluate, Export, Inspect, Predict, Report, Theory
from adversarial_dropout.experiments.commands.terminal import show
from adversarial_dropout.experiments.data.sources import Place
from adversarial_dropout.experiments.trained import Trained


def evaluate(command: Evaluate, console: Console) -> None:
    """Print the error of a run, in all and by class."""
    from adversarial_dropout.experiments.analysis import evaluation

    trained = Trained.of(command.run)
    place = None if command.folder is None else Place(command.folder, command.skip_bad_images)
    found = evaluation.evaluate(trained, place)
    console.print(f"error {found.error:.2f} % of {found.examples} images")
    table = Table("class", "error in %", "n")
    for name, (error, examples) in found.classes.items():
        table.add_row(escape(name), f"{error:.2f}", str(examples))
    console.print(table)
    if command.out is not None:
        records.write_json(command.out, dataclasses.asdict(found))


def predict(command: Predict) -> None:
    """Print or write the class of each image."""
    from adversarial_dropout.experiments.analysis import evaluation

    trained = Trained.of(command.run)
    found, bad = evaluation.predict(trained, command.images, resize=command.resize)
    text = evaluation.as_csv(found) if command.format == "csv" else evaluation.as_json(found)
    if command.out is None:
        print(text, end="")
    else:
        records.write_bytes(command.out, text.encode())
    if bad:
        raise InvalidValueError(f"{len(bad)} of {len(found) + len(bad)} images are left out:\n" + "\n".join(bad))


def export(command: Export, console: Console) -> None:
    """Write a network for use elsewhere."""
    from adversarial_dropout.experiments.export import export as write

    folder = command.out or command.run / "export"
    for path in write(Trained.of(command.run), folder, onnx=command.onnx):
        console.print(f"wrote {path}", soft_wrap=True, markup=False)


def inspect(command: Inspect, console: Console) -> None:
    """Print what the search finds in a network, by class, and write the page and the table of its units."""
    from adversarial_dropout.experiments.analysis import inspection
    from adversarial_dropout.experiments.report.inspection import write_inspection

    found = inspection.inspect(
        Trained.of(command.run),
        images=command.images,
        flips=command.flips,
        place=None if command.folder is None else Place(command.folder),
        seed=command.seed,
    )
    table = Table(*found.header[:-1], title=f"mean {found.scored}", title_justify="left")
    for line in found.lines:
        table.add_row(*(escape(text) for text in line[:-1]))
    console.print(table)
    page = command.out or command.run / "inspection.html"
    write_inspection(found, page)
    units = page.with_name(f"{page.stem}-units.csv")
    records.write_bytes(units, inspection.as_csv(found).encode())
    console.print(f"page: {page}, units: {units}", soft_wrap=True, markup=False)


def theory(command: Theory, console: Console) -> None:
    """Print how far the sides of the paper's equations are apart, and write the page, the figure and the record."""
    from adversarial_dropout.experiments.analysis import theory_study, theory_tables
    from adversarial_dropout.experiments.report.theory import write_theory

    found = theory_study.study(problems=command.problems, seed=command.seed, deltas=command.deltas, flips=command.flips)
    for title, header, lines in theory_tables.tables(found):
        table = Table(*header, title=title, title_justify="left")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    beside = command.out / "theory"
    content = {**dataclasses.asdict(found), "environment": records.environment()}
    records.write_json(beside.with_suffix(".json"), content)
    write_theory(found, beside)
    console.print(f"page: {beside}.html, .svg, .json", soft_wrap=True, markup=False)


def list_presets(console: Console) -> None:
    """Print what can be trained."""
    table = Table(Column("preset", no_wrap=True), "methods", "scales", "what it is")
    for preset in presets.PRESETS.values():
        table.add_row(preset.name, ", ".join(preset.methods), ", ".join(preset.scales), preset.summary)
    console.print(table)


def report(command: Report, console: Console) -> None:
    """Print the tables of finished runs and write their page."""
    show(records.find_records(command.folder), command.out or command.folder / REPORT, console)

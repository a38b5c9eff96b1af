"""docs/paper.md: nothing of the paper is missing, and every row is true of the code."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.presets import paper

PAGE = Path(__file__).resolve().parents[1] / "docs" / "paper.md"
VERDICTS = {
    "as printed",
    "printed slip, mended",
    "not stated, chosen",
    "deviation",
    "not seen",
    "not measured",
}

# Typed from Tables 3 and 4, B.1 and B.2: item → what is printed.
B1: dict[str, object] = {
    "Table 3: kernels": 1,
    "Table 3: drop1": 0.5,
    "Table 3: drop2": 0.5,
    "Table 3: adt, p": 0.5,
    "Table 3: adt, δ": 0.005,
    "learning rate": 0.001,
    "learning rate: ramp-up": False,
    "learning rate: ramp-down": 0,
    "β₁": 0.9,
    "β₁ at the end": 0.9,
    "epochs": 100,
    "minibatch, all labels": 128,
    "λ: ramp-up": 30,
    "λ_max of VAdD (KL)": 1.0,
    "λ_max of VAT": 1.0,
    "λ_max of VAdD (QE)": 30.0,
    "λ_max of Π": 30.0,
}
B2: dict[str, object] = {
    "Table 4: noise": 0.15,
    "Table 4: drop1": 0.5,
    "Table 4: after pool2": 0.0,
    "Table 4: add, p": 1.0,
    "Table 4: add, δ": 0.05,
    "normalisation on SVHN": "batch",
    "normalisation on CIFAR-10": "mean-only",
    "its momentum": 0.999,
    "optimiser": 0.9,
    "learning rate": 0.003,
    "its ramp-up": True,
    "its end": 50,
    "β₁ at the end": 0.5,
    "epochs": 300,
    "λ_max of VAdD (KL)": 1.0,
    "λ_max of VAdD (QE)": 25.0,
    "λ: ramp-up": 80,
    "minibatch, all labels": 100,
    "minibatch, few labels: labelled": 32,
    "minibatch, few labels: unlabelled": 128,
    "images of SVHN": 1_000,
    "images of CIFAR-10": 4_000,
}
# PyTorch's momentum is the share of the new batch; p = 1 is read as keeping every unit; 3 × 3 is a deviation.
TAKEN: dict[str, object] = {"its momentum": 0.001, "Table 4: add, p": 0.0, "Table 3: kernels": 3}


def rows() -> list[tuple[str, dict[str, str]]]:
    """Each row with the heading above it."""
    found, heading = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("| ") and not line.startswith(("| ---", "| what |")):
            cells = [column.strip() for column in line.strip("|").split(" | ")]
            assert len(cells) == 5, line
            found.append((heading, dict(zip(("what", "paper", "here", "code", "verdict"), cells, strict=True))))
    return found


ROWS = rows()
NAMES = [f"{heading}: {row['what']}" for heading, row in ROWS]


def test_every_equation_table_figure_and_proposition_has_its_row() -> None:
    items = [row["what"] for _, row in ROWS]
    equations = [int(number) for item in items for number in re.findall(r"^eq\. (\d+)", item)]
    assert sorted(set(equations)) == list(range(1, 32))
    assert sorted(equations) == sorted([*range(1, 32), 2]), "eq. 2 has a row for AT and one for VAT"
    everything = "\n".join(items)
    for number in range(1, 8):
        assert f"Table {number}" in everything
    for number in range(1, 4):
        assert f"Figure {number}" in everything
    for number in (1, 2):
        assert f"Proposition {number}" in everything
    spans = re.findall(r"(\d+)(?: to (\d+))?", "\n".join(re.findall(r"Algorithm 1, lines? (.+)", everything)))
    lines = [line for first, last in spans for line in range(int(first), int(last or first) + 1)]
    assert sorted(lines) == list(range(1, 15))


def test_the_rows_follow_the_paper() -> None:
    numbers = [int(number) for _, row in ROWS for number in re.findall(r"^eq\. (\d+)", row["what"])]
    assert numbers == sorted(numbers)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize(("heading", "row"), ROWS, ids=NAMES)
def test_a_row(heading: str, row: dict[str, str]) -> None:
    assert row["verdict"] in VERDICTS
    assert row["paper"]
    assert row["here"]
    reference, _, value = row["code"].partition(" = ")
    found = resolved(reference.strip("`"))
    if value:
        assert str(found) == value.strip("`"), "what the row says of the code"


@pytest.mark.parametrize(
    ("heading", "typed"), [("Appendix B.1: MNIST", B1), ("Appendix B.2: SVHN and CIFAR-10", B2)], ids=["B.1", "B.2"]
)
def test_printed_settings(heading: str, typed: dict[str, object]) -> None:
    """Every setting that the page calls printed or a deviation is typed above, and is what the presets have."""
    own = {row["what"]: row for where, row in ROWS if where == heading and " = " in row["code"]}
    stated = {what for what, row in own.items() if row["verdict"] != "not stated, chosen"}
    assert stated - {"Table 3: input noise"} == set(typed)
    for what, printed in typed.items():
        row = own[what]
        value = resolved(row["code"].partition(" = ")[0].strip("`"))
        assert value == TAKEN.get(what, printed)
        changed = "normalisation" in what or (what in TAKEN and what != "its momentum")
        assert (row["verdict"] == "as printed") == (not changed)
        if not isinstance(printed, bool) and printed and "norm" not in what:
            assert re.search(rf"(?<![\d.]){re.escape(f'{printed:,}')}(?![\d])", row["paper"]) or "1 × 1" in row["paper"]


def test_every_preset_has_the_printed_settings() -> None:
    """Rows name one preset; the others of the same data have the same."""
    for column in paper.COLUMNS:
        if column.family != "paper":
            continue
        typed = B1 if column.source == "mnist" else B2
        for method in paper.METHODS:
            config = presets.get(column.preset, method, "paper")
            training, model = config.training, config.model
            assert training.epochs == typed["epochs"]
            assert training.learning_rate == typed["learning rate"]
            rises = any(term.ramp for term in config.terms.values()) or training.ramp_up_learning_rate
            assert training.ramp_up == (typed["λ: ramp-up"] if rises else 0)
            assert rises == (method != "plain" or column.source != "mnist")
            assert training.last_beta1 == typed["β₁ at the end"]
            delta = typed["Table 3: adt, δ" if column.source == "mnist" else "Table 4: add, δ"]
            searches = any(term.searches for term in config.terms.values())
            assert model.delta == (delta if searches else None)
            assert searches == ("add" in method)
            total = training.batch_labelled + training.batch_unlabelled
            expected = {"mnist": (128, 128)}.get(column.source, (160, 100))[column.all_labels]
            if column.preset == "paper/mnist-1000" and method in ("plain", "at", "sadd"):
                expected = 32  # Nothing sees the other images, and the steps of an epoch are given.
            assert total == expected


def resolved(reference: str) -> Any:
    """``preset method: path`` of a config, or a dotted name below the package, perhaps with an index."""
    if ":" in reference:
        name, path = reference.split(": ")
        preset, method = name.split()
        found: Any = presets.get(preset, method, "paper")
        for part in path.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        return found
    steps = re.findall(r"[^.\[\]\"]+", reference)
    found = importlib.import_module("adversarial_dropout")
    for part in steps:
        if isinstance(found, dict):
            found = found[part]
        elif hasattr(found, part):
            found = getattr(found, part)
        else:
            found = importlib.import_module(f"{found.__name__}.{part}")
    return found

"""The tables of docs/speed.md, from results/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.presets.stated import STATED
from adversarial_dropout.experiments.records import read_json
from adversarial_dropout.experiments.results import paper_tables
from adversarial_dropout.experiments.run.batches import steps_of_a_run
from adversarial_dropout.experiments.show.table import Table

RESULTS = Path(__file__).resolve().parents[1] / "results"
CORES_OF_A_MACHINE = 16
# Forward passes of the whole network (U: of the part above the layer) over plain's three, a backward counted as two.
FLOORS = {
    "plain": "1",
    "at": "8/3",
    "pi": "2",
    "vat": "3",
    "sadd": "2 + 2 U/3",
    "vadd shared": "1 + 5 U/3",
    "vadd independent": "2 + 2 U/3",
    "vadd independent + vat": "4 + 2 U/3",
}


def _where(content: dict[str, Any]) -> str:
    where = content["environment"]
    return f"{where['processor']}, PyTorch {where['packages']['torch']}, commit {where['commit'][:7]}."


def _spread(quartiles: Sequence[float], digits: int = 2) -> str:
    low, median, high = (f"{part:.{digits}f}" for part in quartiles)
    return f"{median} ({low} to {high})"


def step_cost(network: str) -> str:
    """Time, FLOP and memory of a step over a plain one."""
    content = read_json(RESULTS / "step-cost.json")
    measured = content["networks"][network]
    lines = [
        (
            method,
            _spread(quartiles),
            f"{measured['flop_ratios'][method]:.2f}",
            FLOORS.get(method, ""),
            f"{measured['memory_ratios'][method]:.2f}",
            f"{measured['flop_per_second_over_matrix'][method]:.2f}",
        )
        for method, quartiles in measured["ratios"].items()
    ]
    plain = measured["plain"]
    return (
        Table(
            ("step with", "time over plain", "FLOP over plain", "passes over plain", "memory", "of the matrix rate"),
            lines,
        ).markdown()
        + f"\n\n{content['rounds']} rounds, {measured['images']} images, one thread. A plain step: "
        f"{1000 * plain['seconds']:.1f} ms, {plain['flop'] / 1e9:.2f} GFLOP, {plain['bytes'] / 2**20:.0f} MiB at its "
        f"peak; the machine's matrix rate: {measured['matrix_flop_per_second'] / 1e9:.0f} GFLOP/s. {_where(content)}"
    )


def own_models(model: str) -> str:
    """Time, FLOP and memory of a step over a plain one, for a model that cannot be cut."""
    content = read_json(RESULTS / "own-models.json")
    measured = content["models"][model]
    lines = [
        (method, _spread(quartiles), *(f"{measured[what][method]:.2f}" for what in ("flop_ratios", "memory_ratios")))
        for method, quartiles in measured["ratios"].items()
    ]
    plain = measured["plain"]
    return (
        Table(("step with", "time over plain", "FLOP over plain", "memory"), lines).markdown()
        + f"\n\n{content['rounds']} rounds, {measured['examples']} examples, one thread. A plain step: "
        f"{1000 * plain['seconds']:.1f} ms, {plain['flop'] / 1e9:.2f} GFLOP, {plain['bytes'] / 2**20:.0f} MiB at its "
        f"peak. {_where(content)}"
    )


def mask_search() -> str:
    """Time and memory of the search over a ranking."""
    content = read_json(RESULTS / "mask-search.json")

    def over(size: dict[str, Any], name: str) -> str:
        return f"{size['ratios'][name][1]:,.3g}" if name in size["ratios"] else ""

    def times(size: dict[str, Any], name: str) -> str:
        return f"1/{1 / size['ratios'][name][1]:.0f}" if name in size["ratios"] else ""

    lines = [
        (
            f"{size['examples']} × {size['units']:,}",
            size["k"],
            f"{size['topk_milliseconds']:.2f}",
            over(size, "adversarial_mask"),
            over(size, "full sort"),
            times(size, "adversarial_mask over loop"),
            times(size, "adversarial_mask over loop over lists"),
            f"{size['memory_over_jacobian']['adversarial_mask']:.2f}",
            f"{size['memory_over_jacobian']['full sort']:.2f}",
        )
        for size in content["sizes"]
    ]
    header = (
        "N × H",
        "k",
        "topk in ms",
        "adversarial_mask over topk",
        "full sort over topk",
        "adversarial_mask over Algorithm 1 as a loop",
        "the same over lists",
        "memory over J",
        "full sort's",
    )
    return (
        Table(header, lines).markdown()
        + f"\n\nMedian of {content['rounds']} rounds, on {content['device']}, one thread. {_where(content)}"
    )


def epochs() -> str:
    """End to end: an epoch and its parts."""
    content = read_json(RESULTS / "epochs.json")
    lines = [
        (
            name if content["steps"][name] is None else f"{name}, {content['steps'][name]} steps",
            f"{run['seconds']['epoch']:.1f}",
            *(
                f"{100 * run['seconds'][part] / run['seconds']['epoch']:.2f}"
                for part in ("steps", "batches", "records")
            ),
            f"{100 * run['seconds']['evaluation'] / run['seconds']['epoch']:.1f}",
            f"{100 * run['outside_steps_and_evaluation']:.2f}",
            f"{run['peak_gib']:.2f}",
        )
        for name, run in content["runs"].items()
    ]
    header = (
        "run",
        "seconds an epoch",
        "steps in %",
        "making batches in %",
        "checkpoint and metrics in %",
        "evaluation in %",
        "outside steps in %, evaluation apart",
        "peak memory in GiB",
    )
    return Table(header, lines).markdown() + f"\n\nMedian of {content['epochs']} epochs, one thread. {_where(content)}"


def fast_paths(used: bool) -> str:
    """Fast over plain."""
    content = read_json(RESULTS / "fast-paths.json")
    lines = [(name, _spread(path["ratio"])) for name, path in content["paths"].items() if path["kept"] == used]
    return (
        Table(("", "time over that of the plain way"), lines).markdown()
        + f"\n\n{content['rounds']} rounds. {_where(content)}"
    )


def processes() -> str:
    """Throughput of two processes over one."""
    content = read_json(RESULTS / "processes.json")
    lines = [
        (name, f"{1000 * case['seconds']['one']:.1f}", f"{1000 * case['seconds']['two']:.1f}", _spread(case["ratio"]))
        for name, case in content["cases"].items()
    ]
    fixed = {name: 1000 * seconds for name, seconds in content["seconds_of_fixed_parts"].items()}
    return (
        Table(("step of", "one process, ms", "two, ms", "throughput of two over one"), lines).markdown()
        + f"\n\n{content['rounds']} rounds; batches of the presets, one thread a process, gloo. In a step of two, "
        f"Adam's update (mnist-cnn: {fixed['update']:.1f} ms) is made by both, and the exchange of the gradients takes "
        f"{fixed['exchange']:.1f} ms. {_where(content)}"
    )


def true_batch() -> str:
    """Time and memory of one step."""
    content = read_json(RESULTS / "true-batch.json")
    lines = [
        (
            preset,
            method,
            step["labelled"],
            step["unlabelled"],
            f"{step['seconds']:.2f}",
            f"{step['peak_gib']:.1f}",
        )
        for preset, steps in content["steps"].items()
        for method, step in steps.items()
        if method in ("plain", "vadd-kl", "vadd-qe+vat")
    ]
    header = ("preset", "method", "labelled", "unlabelled", "seconds", "peak memory in GiB")
    return Table(header, lines).markdown() + f"\n\nOne thread. {_where(content)}"


def table_cost() -> str:
    """What a table costs, from the steps at the true batch."""
    content = read_json(RESULTS / "true-batch.json")
    lines = []
    for table in ("table1", "table2"):
        hours, longest = 0.0, 0.0
        cells = paper_tables.trained(table)
        for column, method in cells:
            step = content["steps"][column.preset][method]
            config = presets.get(column.preset, method, "paper")
            run = steps_of_a_run(config, STATED[column.source].training_images) * step["seconds"] / 3600
            hours += STATED[column.source].repeats * run
            longest = max(longest, run)
        repeats = STATED[cells[0][0].source].repeats
        lines.append(
            (
                table,
                f"{len(cells)} × {repeats}",
                f"{hours / 24:,.1f}",
                f"{hours / 24 / CORES_OF_A_MACHINE:,.1f}",
                f"{hours / 24 / (8 * CORES_OF_A_MACHINE):,.1f}",
                f"{longest / 24:,.2f}",
                "not measured",
                "not measured",
            )
        )
    header = (
        "table",
        "cells × seeds",
        "core-days",
        f"days on {CORES_OF_A_MACHINE} cores",
        "days on 8 such machines",
        "longest run in days",
        "1 GPU",
        "8 GPUs",
    )
    return Table(header, lines).markdown() + f"\n\n{_where(content)}"


def goals() -> str:
    """What was to be reached, and what is."""
    step = read_json(RESULTS / "step-cost.json")["networks"]
    table3, table4 = step["mnist-cnn"], step["conv-large"]
    sizes = {(size["units"], size["k"]): size["ratios"] for size in read_json(RESULTS / "mask-search.json")["sizes"]}
    runs = read_json(RESULTS / "epochs.json")["runs"]
    outside, with_evaluation = (
        max(run[name] for run in runs.values()) for name in ("outside_steps_and_evaluation", "outside_steps")
    )
    own = read_json(RESULTS / "own-models.json")["models"]
    together = {name: case["ratio"][1] for name, case in read_json(RESULTS / "processes.json")["cases"].items()}
    lines = [
        _at_most("VAdD shared ÷ plain, Table 3 network", 1.30, table3["ratios"]["vadd shared"][1]),
        _at_most("VAdD independent ÷ Π, Table 3 network", 1.10, table3["vadd independent over pi"][1]),
        _at_most("VAdD independent ÷ Π, Table 4 network", 1.05, table4["vadd independent over pi"][1]),
        *(
            _at_most(f"VAdD shared ÷ plain, {name}, not cut", 1.15, own[name]["ratios"]["vadd shared"][1])
            for name in own
        ),
        *(
            _at_most(f"VAdD independent ÷ Π, {name}, not cut", 1.10, own[name]["vadd independent over pi"][1])
            for name in own
        ),
        _at_most("VAT ÷ plain, Table 3 network", 3.1, table3["ratios"]["vat"][1]),
        _at_most("VAT ÷ the same passes by hand, Table 3 network", 1.05, table3["vat over by hand"][1]),
        _at_most("VAT ÷ the same passes by hand, Table 4 network", 1.05, table4["vat over by hand"][1]),
        _at_most("adversarial_mask ÷ topk, 128 × 2,048, k = 10", 2, sizes[2048, 10]["adversarial_mask"][1]),
        _at_most("adversarial_mask ÷ topk, 128 × 32,768, k = 163", 2, sizes[32_768, 163]["adversarial_mask"][1]),
        _at_most("adversarial_mask ÷ VAdD step, Table 3 network", 0.03, table3["search over vadd shared"][1]),
        _at_most("dropout mask ÷ plain step, Table 3 network", 0.15, table3["dropout mask over plain"][1]),
        _at_most(
            "adversarial_mask ÷ loop, 128 × 2,048, k = 10", 0.01, sizes[2048, 10]["adversarial_mask over loop"][1]
        ),
        _at_most(
            "adversarial_mask ÷ loop, 128 × 2,048, k = 102", 0.01, sizes[2048, 102]["adversarial_mask over loop"][1]
        ),
        _at_most("peak memory, VAdD shared ÷ plain, Table 3 network", 1.10, table3["memory_ratios"]["vadd shared"]),
        _at_most("share of an epoch outside steps, evaluation apart", 0.03, outside),
        _at_most("the same with the evaluation on 10,000 images, plain training", 0.03, with_evaluation),
        _at_least("plain step ÷ matrix rate, Table 3 network", 0.55, table3["flop_per_second_over_matrix"]["plain"]),
        *(_at_least(f"throughput of 2 processes ÷ 1, {name}", 1.4, seen) for name, seen in together.items()),
        ("Table 1 on one GPU", "≤ 45 minutes", "not measured", ""),
        ("conv-large VAdD step ÷ the GPU's bf16 matrix rate", "≥ 0.40", "not measured", ""),
    ]
    return Table(("", "goal", "measured", "met"), lines).markdown()


def _at_most(what: str, goal: float, seen: float) -> tuple[str, ...]:
    return what, f"≤ {goal:g}", f"{seen:.3g}", "yes" if seen <= goal else "no"


def _at_least(what: str, goal: float, seen: float) -> tuple[str, ...]:
    return what, f"≥ {goal:g}", f"{seen:.3g}", "yes" if seen >= goal else "no"

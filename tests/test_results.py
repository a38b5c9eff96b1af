"""What the committed records must show, and that the presets follow from them."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from figure_tables import main_setting

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import Scale
from adversarial_dropout.experiments.presets import autoencoder
from adversarial_dropout.experiments.presets.paper import METHODS
from adversarial_dropout.experiments.records import find_records, read_json
from adversarial_dropout.experiments.results.paper_tables import PaperTable, paper_table
from adversarial_dropout.experiments.results.summary import summarise
from adversarial_dropout.experiments.terms import At, Vadd, Vat

RESULTS = Path(__file__).resolve().parents[1] / "results"


def test_adversarial_dropout_is_a_quarter_better_than_plain_over_five_seeds() -> None:
    (group,) = summarise(find_records(RESULTS / "digits-100"), presets.find("digits-100").methods)
    assert [row.method for row in group.rows] == list(presets.find("digits-100").methods)
    assert all(len(row.errors) == 5 for row in group.rows)
    means = {row.method: row.error.mean for row in group.rows}
    assert min(mean for method, mean in means.items() if "add" in method) <= 0.75 * means["plain"]


def test_the_records_are_those_of_the_presets_and_of_seeds_not_tuned_on() -> None:
    tuned = set(read_json(RESULTS / "digits-100-tuning.json")["seeds"])
    for record in find_records(RESULTS / "digits-100"):
        config = record.config
        assert config == presets.get(config.preset, config.method, config.scale, config.seed)
        assert config.seed not in tuned
        assert record.final["evaluated_on"] == "test"
        assert not record.final["environment"]["commit"].endswith("+")


def test_the_search_beats_the_largest_of_20_random_masks_on_every_model() -> None:
    seen = read_json(RESULTS / "digits-100-search.json")
    assert seen["random_masks"] == 20
    runs = [run for runs in seen["every_run"].values() for run in runs]
    assert len(runs) == 15
    assert all(run["mean"] > run["mean_of_largest"] for run in runs)


def test_the_presets_have_the_lowest_validation_errors() -> None:
    errors = read_json(RESULTS / "digits-100-tuning.json")["errors"]
    means = {name: statistics.fmean(values) for name, values in errors.items()}

    def best(start: str, also: str = "") -> float:
        own = [
            mean
            for name, mean in means.items()
            if name.startswith(start) and (also in name) and (also or "+" not in name)
        ]
        return min(own)

    chosen = {
        "plain lr=0.006": best("plain"),
        "pi qe weight=100.0 lr=0.006": best("pi"),
        "vat eps=0.5 weight=1.0 lr=0.006": best("vat"),
        "sadd flips=6 weight=3.0 lr=0.006": best("sadd"),
        "vadd kl flips=6 weight=1.0 lr=0.006": best("vadd kl"),
        "vadd qe flips=6 weight=30.0 lr=0.006": best("vadd qe"),
        "vadd qe flips=12 weight=10.0 + vat eps=0.25 lr=0.006": best("vadd qe", "+"),
    }
    assert {name: means[name] for name in chosen} == chosen


def table1(scale: Scale) -> PaperTable:
    """Refuses records whose settings are not those of the presets."""
    return paper_table("table1", find_records(RESULTS / "paper"), scale)


def means_of_table1(scale: Scale, column: int) -> dict[str, float]:
    """Mean errors of the methods that have been run, by name."""
    entries = {row.method: entries[column] for row, entries in table1(scale).body.items()}
    return {method: entry.ours.mean for method, entry in entries.items() if method and entry.ours}


def test_table1_at_scale_quick_has_three_seeds_wherever_the_paper_has_a_figure() -> None:
    entries = [entry for entries in table1("quick").body.values() for entry in entries if entry.paper is not None]
    assert [len(entry.errors) for entry in entries] == [3] * 12


def test_with_1000_labels_plain_training_is_behind_pi_and_vadd_after_few_steps() -> None:
    """As in the paper's first column, whose differences among the others are no larger than their spread."""
    means = means_of_table1("quick", column=0)
    assert means["plain"] > max(means[method] for method in ("pi", "vadd-kl", "vadd-qe"))
    assert means["vat"] > means["plain"]


def test_with_all_labels_sadd_alone_is_ahead_of_plain_training_after_few_steps() -> None:
    means = means_of_table1("quick", column=1)
    assert means.pop("sadd") < means.pop("plain") < min(means.values())
    assert max(means, key=lambda method: means[method]) == "vat"


def test_the_full_schedule_with_1000_labels_comes_near_the_paper() -> None:
    """Seed 0 of three methods, within three of the paper's standard deviations."""
    entries = {row.method: entries[0] for row, entries in table1("paper").body.items()}
    for method in ("plain", "pi", "vadd-qe"):
        ours, paper = entries[method].ours, entries[method].paper
        assert ours is not None
        assert paper is not None
        assert paper.std is not None
        assert abs(ours.mean - paper.mean) < 3 * paper.std


def mnist_tuning() -> dict[str, dict[str, Any]]:
    """Entries of the record, by method."""
    return dict(read_json(RESULTS / "mnist-tuning.json")["methods"])


def test_the_records_of_mnist_are_of_the_complete_set_and_of_seeds_not_tuned_on() -> None:
    tuned = {seed for entry in mnist_tuning().values() for seed in entry["seeds"]}
    found = [record for record in find_records(RESULTS / "paper") if record.config.data.name == "mnist"]
    assert len({record.final["data"]["sha256"] for record in found}) == 1
    assert not tuned & {record.config.seed for record in found}
    assert not any(record.final["environment"]["commit"].endswith("+") for record in found)


def test_the_chosen_perturbations_have_the_lowest_validation_errors() -> None:
    for method in ("at", "vat"):
        means = {name: statistics.fmean(values) for name, values in mnist_tuning()[method]["errors"].items()}
        term = presets.get("paper/mnist-1000", method, "paper").terms[method]
        assert isinstance(term, At | Vat)
        assert min(means, key=lambda name: means[name]) == f"eps={term.eps}"


def test_independent_noise_has_the_lower_validation_error_and_is_the_presets() -> None:
    for method in ("vadd-kl", "vadd-qe"):
        means = {name: statistics.fmean(values) for name, values in mnist_tuning()[method]["errors"].items()}
        assert means["noise=independent"] < means["noise=shared"]
        term = presets.get("paper/mnist-1000", method, "paper").terms["vadd"]
        assert isinstance(term, Vadd)
        assert term.noise == "independent"


def test_the_loss_falls_in_20_steps_of_every_cifar10_preset() -> None:
    runs = read_json(RESULTS / "cifar10-steps.json")["runs"]
    cells = {(run["preset"], run["method"]) for run in runs}
    assert cells == {(f"paper/cifar10-{labels}", method) for labels in ("4000", "all") for method in METHODS}
    assert all(run["after"] < run["before"] for run in runs)


def test_data_path_and_memory() -> None:
    runs = read_json(RESULTS / "epochs.json")["runs"].values()
    assert all(run["seconds"]["batches"] < 0.05 * run["seconds"]["epoch"] for run in runs)
    steps = read_json(RESULTS / "true-batch.json")["steps"]
    assert all(step["peak_gib"] < 24 for methods in steps.values() for step in methods.values())


def test_the_autoencoders_are_those_of_the_preset_and_their_measures_are_recorded() -> None:
    found = find_records(RESULTS / "paper" / "autoencoder")
    assert len(found) == 15
    for record in found:
        config = record.config
        assert config == presets.get(autoencoder.NAME, config.method, "paper", config.seed)
        assert not record.final["environment"]["commit"].endswith("+")
    compared = main_setting()
    assert (compared.seeds, compared.images) == ((0, 1, 2, 3, 4), 1000)
    errors = {(record.config.method, record.config.seed): record.error for record in found}
    for method, runs in compared.values.items():
        assert [run["reconstruction error in %"] for run in runs] == [errors[method, seed] for seed in range(5)]


def test_the_claims_on_figures_2_and_3_with_the_preset() -> None:
    compared = main_setting()
    assert [seen for _, seen, _ in compared.verdicts] == ["not seen", "seen", "not seen", *["seen"] * 5]
    assert all(run["dead filters"] <= 2 for runs in compared.values.values() for run in runs)
    assert all(run["neighbourhood of spots"] > 1 for run in compared.values["dropout"])


def test_adversarial_dropout_prevents_no_dead_filters_where_they_are_many() -> None:
    grid = read_json(RESULTS / "autoencoder-grid.json")
    assert (len(grid["settings"]), grid["seeds"], grid["images"]) == (8, [0, 1, 2], 1000)
    assert not grid["environment"]["commit"].endswith("+")
    lower, many = [], 0
    for setting in grid["settings"]:
        pairs = list(zip(*(setting["values"][method] for method in ("dropout", "dropout+add")), strict=True))
        assert all(ours["dead filters"] >= dropout["dead filters"] for dropout, ours in pairs)
        many += all(dropout["dead filters"] > 10 for dropout, _ in pairs)
        lower.append(all(ours["mean activation"] < dropout["mean activation"] for dropout, ours in pairs))
        assert not all(ours["spread of the rest"] < dropout["spread of the rest"] for dropout, ours in pairs)
    assert many >= 5
    assert lower.count(True) == 7


def test_the_equations_hold() -> None:
    study = read_json(RESULTS / "theory" / "theory.json")
    deviations = {deviation["claim"]: deviation for deviation in study["deviations"]}
    for deviation in deviations.values():
        assert (max(deviation["value"], deviation["gradient"] or 0) < 1e-10) == deviation["holds"]
    assert deviations["adversarial dropout, dropped as printed in eq. 14"]["value"] < 1e-15
    assert study["problems"] == 3000
    assert study["rescalings"][0]["highest"] == pytest.approx((1, 1, 10, 100))
    assert max(row["ours"] for row in study["dropped"]) == 0 < max(row["printed"] for row in study["dropped"])
    assert [row["training"] for row in study["activities"]] == pytest.approx([1, 1, 0.4, 1])
    assert max(share for row in study["activities"] for share in row["dropout"]) < 0.6
    training, dropout = study["paths"]
    assert [w.count(0) for w in dropout["coefficients"]] == [0] * 4 + [10] * 7
    zeros = [w.count(0) for w in training["coefficients"]]
    assert (zeros[0], zeros[-1]) == (0, 10)
    assert 0 < zeros[10] < 10


def test_the_other_search_reaches_more_and_makes_worse_networks() -> None:
    groups = read_json(RESULTS / "search-quality.json")["groups"]
    for group in groups:
        searches = {name: figures["mean"] for name, figures in group["searches"].items()}
        assert searches["no flip"] < searches["Algorithm 1"] <= 1
        if "small-cnn" in group["network"]:
            assert searches["Algorithm 1"] > searches["best of 20 random"]
            if group["objective"] != "sadd-ce":
                assert searches["at εˢ"] > searches["Algorithm 1"]
    runs = read_json(RESULTS / "search-steps.json")["runs"]
    means = {(run["method"], run["flips"], run["search"]): statistics.fmean(run["errors"]) for run in runs}
    for method, flips, search in means:
        assert means[method, flips, "Algorithm 1"] <= means[method, flips, search]

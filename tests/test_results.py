"""What the committed records must show, and that the presets follow from them."""

import statistics
from pathlib import Path

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.analysis.tables import summarise
from adversarial_dropout.experiments.records import find_records, read_json

RESULTS = Path(__file__).resolve().parents[1] / "results"


def test_adversarial_dropout_is_a_quarter_better_than_plain_over_five_seeds() -> None:
    (group,) = summarise(find_records(RESULTS / "digits-100"), presets.find("digits-100").methods)
    assert [row.method for row in group.rows] == list(presets.find("digits-100").methods)
    assert all(len(row.errors) == 5 for row in group.rows)
    means = {row.method: row.mean for row in group.rows}
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

"""The ablation: what its variants change, the paired test, and the tables that are made from its record."""

import dataclasses
import json
import statistics
from pathlib import Path

import ablation
import ablation_tables
import pytest
from scipy import stats

from adversarial_dropout.experiments.terms import Pi, Vadd

SETTING = ablation.Setting(preset="images", data="digits", labels=30)


def test_each_variant_differs_from_the_others() -> None:
    configs = ablation.configs(SETTING, [3], "quick", list(ablation.VARIANTS))
    assert list(configs) == list(ablation.VARIANTS), "all are of use for images that are changed at random"
    parts = [json.dumps({**config.to_dict(), "method": ""}) for (config,) in configs.values()]
    assert len(set(parts)) == len(parts)
    assert all(
        (config.seed, config.data.name, config.data.labelled) == (3, "digits", 30) for (config,) in configs.values()
    )
    assert [config.method for (config,) in configs.values()] == list(configs)


def test_variants_keep_weight_and_divergence() -> None:
    configs = ablation.configs(SETTING, [0], "quick", ["reference", "pi", "mean-teacher", "random-flips"])
    reference = configs["reference"][0].terms["vadd"]
    assert isinstance(reference, Vadd)
    pi = Pi(divergence=reference.divergence, weight=reference.weight)
    assert configs["pi"][0].terms == {"pi": pi}
    assert configs["mean-teacher"][0].terms == {"pi": dataclasses.replace(pi, target="average")}
    assert configs["random-flips"][0].terms == {"vadd": dataclasses.replace(reference, flips="random")}
    assert ablation.changes(configs["reference"][0], configs["mean-teacher"][0])[-1] == "terms.pi.target: average"


def test_variants_that_change_nothing_are_left_out() -> None:
    still = dataclasses.replace(SETTING, overrides={"data": {"affine": 0.0, "jitter": 0.0}, "training": {"ramp_up": 1}})
    names = ["one-view", "random-flips"]
    assert list(ablation.configs(still, [0], "quick", names)) == ["random-flips"]


def test_paired() -> None:
    errors, reference = [10.0, 12.0, 9.0, 11.5], [12.0, 13.0, 9.5, 14.0]
    found = ablation.paired(errors, reference)
    apart = [-2.0, -1.0, -0.5, -2.5]
    mean, error = statistics.fmean(apart), statistics.stdev(apart) / 2
    assert found["difference"] == mean == -1.5
    assert found["p"] == pytest.approx(2 * float(stats.t.cdf(mean / error, df=3)))
    reach = float(stats.t.ppf(0.975, df=3)) * error
    assert found["interval"] == [pytest.approx(mean - reach), pytest.approx(mean + reach)]


@pytest.mark.parametrize("errors", [[3.0], [3.0, 4.0]])
def test_no_test_without_a_spread(errors: list[float]) -> None:
    found = ablation.paired(errors, [error - 1 for error in errors])
    assert found == {"difference": 1.0, "interval": None, "p": None}


def test_from_runs_to_tables(tmp_path: Path) -> None:
    arguments = ["--only", "digits", "--names", "plain", "pi", "--seeds", "0", "1", "--scale", "tiny", "--jobs", "1"]
    for _ in range(2):  # The second time nothing is trained.
        ablation.main([*arguments, "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")])
    content = json.loads((tmp_path / "results" / "digits.json").read_text())
    assert list(content["variants"]) == ["reference", "plain", "pi"]
    entry = content["variants"]["pi"]
    assert entry["mean"] == pytest.approx(statistics.fmean(entry["errors"]))
    assert entry["difference"] == pytest.approx(entry["mean"] - content["variants"]["reference"]["mean"])
    assert content["variants"]["plain"]["cost"] == 1
    entry |= {"difference": -1.25, "p": 0.0004}
    content["variants"]["plain"] |= {"difference": 3.0, "p": 0.2}
    (tmp_path / "results" / "digits.json").write_text(json.dumps(content))
    table = ablation_tables.variants(tmp_path / "results")
    (row,) = (line for line in table.splitlines() if "no flips" in line)
    assert "| −1.25 (p < 0.001) |" in row
    assert "n = 2 seeds (0, 1) on 500 test images" in table
    found = ablation_tables.what_helps(tmp_path / "results")
    assert "| digits | no flips: Π with the same λ and D | none | no term |" in found
    assert "of 2 variants" in found
    assert "`terms: vadd → pi`" in ablation_tables.changes(tmp_path / "results")


def test_tables_before_anything_has_run(tmp_path: Path) -> None:
    for table in (ablation_tables.variants, ablation_tables.what_helps, ablation_tables.changes):
        assert table(tmp_path) == "Nothing has been run yet."

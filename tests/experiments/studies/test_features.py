"""Figures 2 and 3: measures against values by hand, claims against made-up networks, the command on small data."""

import csv
import dataclasses
import html
import io
import math
import re
import shutil
import statistics
from pathlib import Path

import pytest
import safetensors.torch
import torch
from figure_tables import comparison_in
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.studies.autoencoders.comparison import (
    CLAIMS,
    METHODS,
    Comparison,
    compare,
    measured,
)
from adversarial_dropout.experiments.studies.autoencoders.features import (
    MEASURES,
    Features,
    dead,
    high_level,
    hoyer,
    look,
    measure,
)
from adversarial_dropout.experiments.trained.trained import Trained

from .. import small_data
from ..calling import fails, printed_by
from ..runs import record, small


def test_hoyer_by_hand() -> None:
    one, equal = torch.zeros(1, 9), torch.full((1, 9), 3.0)
    one[0, 4] = 2.0
    assert hoyer(one).item() == pytest.approx(1)
    assert hoyer(equal).item() == pytest.approx(0, abs=1e-6)
    # √9 = 3, ‖(3, 4, 0, ...)‖₁ = 7, ‖·‖₂ = 5.
    assert hoyer(torch.tensor([[3.0, 4.0, *[0.0] * 7]])).item() == pytest.approx((3 - 7 / 5) / 2)


@pytest.mark.parametrize("largest", [1e25, 1e-25])
def test_hoyer_of_extreme_values(largest: float) -> None:
    assert hoyer(torch.tensor([[largest, 0.0, 0.0, 0.0]])).item() == 1
    assert hoyer(torch.full((1, 3), 300.0).half()).item() == pytest.approx(0, abs=1e-12)


@given(st.integers(2, 40), st.floats(0.01, 100), st.integers(0, 10**6))
def test_hoyer_does_not_depend_on_the_scale(units: int, factor: float, seed: int) -> None:
    activations = torch.rand(4, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1e-3
    sparsity = hoyer(activations)
    assert (sparsity >= -1e-12).all()
    assert (sparsity <= 1).all()
    torch.testing.assert_close(hoyer(factor * activations), sparsity, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("activations", "error", "message"),
    [
        (torch.zeros(3, 5), InvalidValueError, "got 3 of 3 with none: all-zero features have no sparsity"),
        (torch.tensor([[0.0, 0.0], [1.0, 0.0]]), InvalidValueError, "got 1 of 2 with none"),
        (torch.tensor([[1.0, float("nan")]]), InvalidValueError, "expected finite activations, got NaN"),
        (torch.rand(5), InvalidValueError, r"shape \(N, H\) with 2 units or more, got torch.float32 and \(5,\)"),
        (torch.rand(5, 1), InvalidValueError, r"and \(5, 1\)"),
        (torch.ones(2, 3, dtype=torch.int64), InvalidValueError, r"floating activations.*got torch.int64"),
    ],
)
def test_sparsity_that_is_not_defined(activations: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hoyer(activations)


def test_dead_units() -> None:
    """Above 0 on fewer than 1 % of the images: 9 of 1,000 are too few, 10 are not."""
    activations = torch.zeros(1000, 4)
    activations[:9, 1], activations[:10, 2], activations[:, 3] = 1.0, 1.0, 1.0
    assert dead(activations).tolist() == [True, True, False, False]


def test_the_high_level_is_exceeded_by_one_percent() -> None:
    activations = torch.arange(1000.0)[torch.randperm(1000)].view(10, 100)
    assert high_level(activations) == 989
    assert int((activations > high_level(activations)).sum()) == 10


SIDE = 28
LIT = torch.ones(SIDE, SIDE, dtype=torch.bool)


def image(dot: float, ring: float, rest: float) -> Tensor:
    """A filter with a dot in the middle, a ring from 3 to 5 pixels around it, and all else."""
    drawn = torch.full((1, SIDE, SIDE), rest)
    drawn[0, 9:20, 9:20] = ring
    drawn[0, 12:17, 12:17] = 0.0
    drawn[0, 14, 14] = dot
    return drawn


def features(method: str, activations: Tensor, filters: Tensor, *, error: float = 5.0, seed: int = 0) -> Features:
    return Features(record(method, error, seed=seed, preset="paper/autoencoder"), filters, activations, LIT)


def made_up(seed: int = 0) -> dict[str, Features]:
    """Networks of which every claim holds: with dropout a dead filter, dots with nothing around, others of unlike
    strength; with both no dead one, as many dots, weights around them, others alike.
    """
    torch.manual_seed(seed)
    activations = torch.rand(50, 8) + 0.1
    dropout, ours = 0.5 * activations, 0.3 * activations
    dropout[:, 0] = 0
    ours[:, 1:6] *= torch.rand(50, 5) < 0.5
    unlike = torch.stack([image(-50.0, 0.0, 0.1 * (1 + i % 3)) for i in range(8)])
    alike = torch.stack([image(-50.0, 0.3, 0.1) for _ in range(8)])
    noise = torch.randn(8, 1, SIDE, SIDE)
    return {
        "none": features("none", activations, noise, seed=seed),
        "dropout": features("dropout", dropout, unlike, seed=seed),
        "dropout+add": features("dropout+add", ours, alike, error=5.2, seed=seed),
    }


def comparison(*seeds: dict[str, Features]) -> Comparison:
    features = {method: [networks[method] for networks in seeds] for method in METHODS}
    return measured(features, tuple(range(len(seeds))), 50)


def test_every_claim_can_be_seen() -> None:
    verdicts = comparison(made_up(0), made_up(1)).verdicts
    assert [(text, seen) for text, seen, _ in verdicts] == [(claim, "seen") for claim in CLAIMS.values()]
    assert all(figures.endswith("; in 2 of 2 seeds") for _, _, figures in verdicts)
    assert [sum(f"claim {number}" in claim for claim in CLAIMS.values()) for number in range(1, 5)] == [1, 3, 1, 1]
    assert verdicts[0][2].startswith("dead filters 0 · 1 · 0;")
    assert verdicts[1][2].startswith("localised filters 0 · 7 · 8;")


@pytest.mark.parametrize("index", range(len(CLAIMS)))
def test_no_claim_is_seen_where_nothing_differs(index: int) -> None:
    same = dict.fromkeys(METHODS, made_up()["dropout"])
    alike = list(CLAIMS)[index] in ("reconstruction error in %", "localised filters")
    assert comparison(same).verdicts[index][1] == ("seen" if alike else "not seen")


@pytest.mark.parametrize("index", range(len(CLAIMS)))
def test_a_claim_must_hold_in_every_seed(index: int) -> None:
    good, bad = made_up(0), made_up(1)
    bad["dropout"], bad["dropout+add"] = bad["dropout+add"], bad["dropout"]
    worse = bad["dropout+add"].record
    bad["dropout"].record.final["metrics"]["error"], worse.final["metrics"]["error"] = 5.0, 6.0
    _, seen, figures = comparison(good, bad).verdicts[index]
    assert seen == "not seen"
    assert figures.endswith("; in 1 of 2 seeds")


def test_where_there_is_nothing_to_judge(tmp_path: Path) -> None:
    """Without dead or localised filters under dropout; adversarial dropout alone may still be worse."""
    plain = made_up()["none"]
    nothing = comparison(dict.fromkeys(METHODS, plain))
    assert [seen for _, seen, _ in nothing.verdicts[:4]] == ["nothing to judge"] * 2 + ["not seen", "nothing to judge"]
    assert nothing.verdicts[0][2].endswith("; in 0 of 1 seeds, 1 with nothing to judge")
    assert {line[0]: line[1] for line in nothing.numbers.texts}["neighbourhood of spots"] == "–"
    both = comparison(made_up(), dict.fromkeys(METHODS, plain)).verdicts
    assert both[0][1:] == ("seen", "dead filters 0 · 0.5 · 0; in 1 of 2 seeds, 1 with nothing to judge")
    (tmp_path / "nothing.csv").write_text(nothing.by_seed.csv())
    assert comparison_in(tmp_path / "nothing.csv").verdicts == nothing.verdicts
    killed = features("dropout+add", made_up()["dropout"].activations, plain.filters)
    worse = comparison({"none": plain, "dropout": plain, "dropout+add": killed}).verdicts
    assert worse[0][1] == "not seen"


def test_without_the_network_without_dropout() -> None:
    networks = made_up()
    two = {method: [networks[method]] for method in METHODS if method != "none"}
    compared = measured(two, (0,), 50)
    assert compared.numbers.header == ("measure", "dropout", "dropout+add", "how it is measured")
    assert [seen for _, seen, _ in compared.verdicts] == ["seen"] * len(CLAIMS)


def test_measures_by_hand() -> None:
    networks = made_up()
    level = high_level(networks["dropout"].activations)
    for method in METHODS:
        a = networks[method].activations
        measures = measure(networks[method], level)
        assert list(measures) == list(MEASURES)
        values = a.tolist()
        flat = [value for row in values for value in row]
        assert measures["always 0"] == sum(all(row[unit] == 0 for row in values) for unit in range(8))
        assert measures["highly activated in %"] == pytest.approx(100 * sum(v > level for v in flat) / 400)
        assert measures["mean activation"] == pytest.approx(sum(flat) / 400)
        assert measures["zero in %"] == pytest.approx(100 * flat.count(0.0) / 400)
        sparsity = [
            (math.sqrt(8) - sum(row) / math.sqrt(sum(v * v for v in row))) / (math.sqrt(8) - 1) for row in values
        ]
        assert measures["Hoyer sparsity"] == pytest.approx(sum(sparsity) / 50, rel=1e-5)
        assert measures["reconstruction error in %"] == networks[method].record.error
    assert measure(networks["dropout"], level)["highly activated in %"] == 1.0


def test_measures_of_filters_are_of_living_ones() -> None:
    """Of dropout's eight filters the first is dead: the others have rests of 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2."""
    measures = measure(made_up()["dropout"], 1.0)
    assert [measures[name] for name in ("dead filters", "always 0", "localised filters")] == [1, 1, 7]
    assert measures["spread of the rest"] == pytest.approx(statistics.pstdev([1, 1, 2, 2, 2, 3, 3]) / 2)
    assert measures["neighbourhood of spots"] == 0
    ours = measure(made_up()["dropout+add"], 1.0)
    rings, outside = 121 - 25, 784 - 25
    assert ours["neighbourhood of spots"] == pytest.approx(0.3 * outside / (0.3 * rings + 0.1 * (outside - rings)))
    assert ours["spread of the rest"] == pytest.approx(0, abs=1e-9)
    rare = made_up()["dropout+add"]
    activations = torch.cat([rare.activations, torch.zeros(200, 8)])
    activations[50:, 1:], activations[:, 0] = 1.0, torch.eye(1, 250)[0]
    measures = measure(dataclasses.replace(rare, activations=activations), 1.0)
    assert [measures[name] for name in ("dead filters", "always 0", "localised filters")] == [1, 0, 7]


def test_the_table_and_its_csv(tmp_path: Path) -> None:
    compared = comparison(made_up(0), made_up(1))
    lines = {line[0]: line[1:] for line in compared.numbers.texts}
    assert lines["dead filters"][:3] == ("0 ± 0", "1 ± 0", "0 ± 0")
    assert lines["reconstruction error in %"][:3] == ("5 ± 0", "5 ± 0", "5.2 ± 0")
    rows = list(csv.DictReader(io.StringIO(compared.by_seed.csv())))
    assert [(row["method"], row["seed"]) for row in rows] == [(method, seed) for method in METHODS for seed in "01"]
    exact = compared.values["dropout+add"][1]
    assert {name: float(rows[-1][name]) for name in MEASURES} == exact
    (tmp_path / "by-seed.csv").write_text(compared.by_seed.csv())
    assert str(comparison_in(tmp_path / "by-seed.csv")) == str(compared), "as text, because NaN is not equal to itself"
    assert comparison(made_up()).numbers.texts[1][1] == "0", "one seed has no spread"


def test_runs_that_cannot_be_compared() -> None:
    runs = [network.record for seed in (0, 1) for network in made_up(seed).values()]
    message = r"the same seeds, got none: \[0, 1\], dropout: \[0, 1\], dropout\+add: \[0\]"
    with pytest.raises(InvalidValueError, match=message):
        compare(runs[:-1], 10)
    with pytest.raises(InvalidValueError, match="expected runs of none, dropout, dropout"):
        compare([], 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    root = tmp_path_factory.mktemp("figures")
    data = small_data.hub_files(root / "mnist", "mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "300")
        printed = printed_by(*command("figure2", data, root / "runs"), "--seeds", "2")
    return data, root / "runs", printed


def command(figure: str, data: Path, out: Path) -> tuple[object, ...]:
    return ("reproduce", figure, "--scale", "tiny", "--images", "20", "--jobs", "1", "--data", data, "--out", out)


@pytest.mark.parametrize("figure", ["figure2", "figure3"])
def test_the_same_figures_from_the_same_seeds(figure: str, made: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, out, _ = made
    printed_by(*command(figure, data, out), "--seeds", "2")
    printed_by(*command(figure, data, tmp_path), "--seeds", "2")
    for suffix in (".svg", ".md", ".csv"):
        name = f"{figure}-tiny{suffix}"
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes(), suffix


def test_what_reproduce_prints_and_writes(made: tuple[Path, Path, str]) -> None:
    _, out, printed = made
    runs = records.find_records(out)
    assert len(runs) == 6
    compared, _ = compare(runs, 20)
    for line in compared.numbers.texts:
        assert all(text in printed for text in line[:-1])
    text = (out / "figure2-tiny.md").read_text()
    for line in (*compared.numbers.texts, *compared.verdicts):
        assert f"| {' | '.join(line)} |" in text
    page = html.unescape((out / "figure2-tiny.html").read_text())
    assert all(text in page for verdict in compared.verdicts for text in verdict)
    pictures = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]+)">', page)
    dead_ones = [values["dead filters"] for values in (compared.values[method][0] for method in METHODS)]
    assert len(pictures) == 3
    for alt, count in zip(pictures, dead_ones, strict=True):
        assert f"dead: {count:.0f}; localised: " in alt
    assert "Scale tiny" in page


def test_units_are_those_of_the_network(made: tuple[Path, Path, str]) -> None:
    run = records.find_records(made[1])[0]
    seen = look(run, 10)
    trained = Trained.load(run)
    data = trained.data()
    x = data.images[data.test[::2]].flatten(1).double() / 255
    weight, bias = (trained.model.state_dict()[f"under.1.{name}"].double() for name in ("weight", "bias"))
    torch.testing.assert_close(seen.activations.double(), (x @ weight.T + bias).clamp(min=0), rtol=1e-4, atol=1e-6)
    assert torch.equal(seen.filters.double().flatten(1), weight)
    assert seen.lit.flatten().tolist() == (x.sum(dim=0) > 0).tolist()


def test_four_panels_of_figure_3(made: tuple[Path, Path, str]) -> None:
    data, out, _ = made
    printed_by(*command("figure3", data, out), "--seeds", "2")
    alts = re.findall(r'alt="(Histogram[^"]+)"', (out / "figure3-tiny.html").read_text())
    assert len(alts) == 4
    assert sum("all activations" in alt for alt in alts) == 2
    assert sum("dropout and adversarial dropout" in alt for alt in alts) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "21"), "expected images between 1 and the 20 that runs are evaluated on, got 21"),
        (("--scale", "quick"), "expected the scale of paper/autoencoder to be one of tiny, paper, got 'quick'"),
        (("--family", "authors"), "expected --family only with a table, got figure2"),
        (("--methods", "vat", "--presets", "paper/mnist-all"), "expected --methods and --presets only with a table"),
        (("--images", "0"), "expected images to be a whole number, 1 or more, got 0"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], message: str, made: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, _ = made
    code, said = fails(capsys, *command("figure2", data, out / "none"), *options)
    assert code == 2
    assert message in re.sub(r"[│╭╮╰╯─\s]+", " ", said)
    assert not (out / "none").exists(), "nothing is trained before"


def test_a_table_shows_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "reproduce", "table1", "--scale", "tiny", "--images", "7")
    assert code == 2
    assert "expected --images only with a figure, got table1" in re.sub(r"[│╭╮╰╯─\s]+", " ", said)


def test_the_data_may_have_moved(made: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, _, _ = made
    first, moved = tmp_path / "first" / "mnist", tmp_path / "moved" / "mnist"
    shutil.copytree(data, first)
    printed_by(*command("figure3", first, tmp_path / "runs"))
    moved.parent.mkdir()
    first.rename(moved)
    printed_by(*command("figure3", moved, tmp_path / "runs"))


def test_a_broken_network_is_named(made: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, out, _ = made
    shutil.copytree(out, tmp_path / "runs")
    run = tmp_path / "runs" / "paper" / "autoencoder" / "tiny" / "dropout" / "seed-0"
    weights = safetensors.torch.load_file(run / records.WEIGHTS)
    for value, message in ((0.0, "with none: all-zero features have no sparsity"), (math.nan, "got NaN or infinite")):
        for name in weights:
            weights[name] = torch.full_like(weights[name], value)
        (run / records.WEIGHTS).write_bytes(safetensors.torch.save(weights))
        with pytest.raises(InvalidValueError, match=f"{run}: .*{message}"):
            look(records.read_record(run), 20)
    assert data.exists()


def test_a_classifier_has_no_such_features(tmp_path: Path) -> None:
    run = loop.run(small(epochs=1, steps=1), tmp_path)
    with pytest.raises(InvalidValueError, match="expected the run of an autoencoder, got small-cnn in"):
        look(run, 5)

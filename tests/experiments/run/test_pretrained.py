"""Runs on pretrained backbones, from the folder of images to what is done with the result."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from adversarial_dropout.errors import InvalidValueError, NonFiniteError
from adversarial_dropout.experiments import backbones, presets, records
from adversarial_dropout.experiments.config import DataConfig, ExperimentConfig, TrainingConfig
from adversarial_dropout.experiments.data import features, sources
from adversarial_dropout.experiments.data.features import FeatureViews, features_of
from adversarial_dropout.experiments.models.pretrained import Pretrained, Standardise
from adversarial_dropout.experiments.run import loop
from adversarial_dropout.experiments.studies.inspection import inspection
from adversarial_dropout.experiments.terms import Term, Vadd, Vat
from adversarial_dropout.experiments.trained.evaluation import evaluate, outputs, predict
from adversarial_dropout.experiments.trained.export import export
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.layers import adversarial_layers

from .. import tiny_backbones as tiny
from ..calling import fails, printed_by
from ..runs import interrupt, result
from ..small_data import FRUIT, image_folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("backbone"), size=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "own-cache"))


def config(
    photos: Path,
    backbone: Path,
    *terms: Term,
    data: dict[str, Any] | None = None,
    epochs: int = 2,
    unlabelled: int = 8,
    **settings: Any,
) -> ExperimentConfig:
    return ExperimentConfig.of(
        preset="images",
        method="vadd-kl" if terms else "plain",
        scale="tiny",
        data=DataConfig(name=str(photos), labelled=12, **{"flip": True, **(data or {})}),
        model=Pretrained(source=str(backbone), delta=0.2, **settings),
        training=TrainingConfig(
            epochs=epochs,
            steps_per_epoch=3,
            batch_labelled=6,
            batch_unlabelled=unlabelled,
            ramp_up=0,
            ramp_down=0,
            learning_rate=0.02,
        ),
        terms={term.kind: term for term in terms},
    )


FORMS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"head": "mlp", "units": 10, "feature_dropout": 0.2},
    "fine-tuned": {"frozen": False},
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FORMS[str(request.param)]


# What is trained


def test_the_network_on_images_is_backbone_statistics_and_head(
    form: dict[str, Any], photos: Path, backbone: Path, tmp_path: Path
) -> None:
    """The chain that is loaded gives the logits that its parts give by hand."""
    record = loop.run(config(photos, backbone, Vadd(), **form), tmp_path / "run")
    trained = Trained.load(record)
    stored = trained.data().images[:7]
    weights = safetensors.torch.load_file(tmp_path / "run" / records.WEIGHTS)
    if form.get("frozen", True):
        assert not [name for name in weights if "backbone" in name or "network" in name], "only the head is saved"
        bare = tiny.built()
        prefix, hidden = "standardise", "under"
    else:
        bare = tiny.built()
        own = {
            name.removeprefix("under.0.network.model."): value for name, value in weights.items() if ".model." in name
        }
        assert any(not torch.equal(value, own[name]) for name, value in bare.named_parameters()), "it was trained"
        assert all(torch.equal(value, own[name]) for name, value in bare.named_buffers()), "its BatchNorm was not"
        bare.load_state_dict(own)
        prefix, hidden = "under.1", "under.2"
    x = F.interpolate(stored.float() / 255, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    x = (x - torch.tensor(tiny.MEAN).view(3, 1, 1)) / torch.tensor(tiny.STD).view(3, 1, 1)
    with torch.no_grad():
        h = bare(pixel_values=x).pooler_output.flatten(1)
    h = (h - weights[f"{prefix}.mean"]) * weights[f"{prefix}.scale"]
    if "units" in form:
        h = F.linear(h, weights[f"{hidden}.1.weight"], weights[f"{hidden}.1.bias"]).relu()
    expected = F.linear(h, weights["upper.1.weight"], weights["upper.1.bias"])
    torch.testing.assert_close(outputs(trained.model, trained.pixels, stored), expected, rtol=1e-3, atol=1e-3)
    (layer,) = adversarial_layers(trained.model)
    assert (layer.p, layer.delta) == (0.5, 0.2)


def test_the_error_of_the_record_is_that_of_the_network_on_images(
    form: dict[str, Any], photos: Path, backbone: Path, tmp_path: Path
) -> None:
    record = loop.run(config(photos, backbone, epochs=4, **form), tmp_path / "run")
    found = evaluate(Trained.load(record))
    assert (found.error, found.examples) == (record.error, 6)
    curve = [row["ce"] for row in record.metrics]
    assert curve[-1] < curve[0], "it learns"


def test_statistics_are_those_of_the_training_rows(photos: Path, backbone: Path, tmp_path: Path) -> None:
    made = config(photos, backbone, Vadd(), data={"validation": 3})
    record = loop.run(made, tmp_path / "run")
    trained = Trained.load(record)
    split, data = trained.split(), trained.data()
    rows = torch.unique(torch.cat([split.labelled, split.unlabelled]))
    assert not torch.isin(split.evaluation, rows).any()
    images = data.images[rows].float() / 255
    whole = backbones.load(backbones.find(str(backbone)))
    with torch.no_grad():
        both = torch.cat([whole(images), whole(images.flip(3))])
    weights = safetensors.torch.load_file(tmp_path / "run" / records.WEIGHTS)
    torch.testing.assert_close(weights["standardise.mean"], both.mean(dim=0), rtol=1e-4, atol=1e-5)
    std = both.std(dim=0, correction=0)
    least = 0.1 * std.square().mean().sqrt()
    torch.testing.assert_close(1 / weights["standardise.scale"], std.maximum(least), rtol=1e-3, atol=1e-5)


def test_a_feature_that_never_changes_is_not_blown_up() -> None:
    draws = torch.randn(500, 4) * torch.tensor([1.0, 2.0, 1e-5, 0.0]) + 3
    standardise = Standardise(4)
    standardise.fit(draws)
    out = standardise(draws)
    torch.testing.assert_close(out[:, :2].std(dim=0, correction=0), torch.ones(2))
    assert float(out[:, 2:].abs().max()) < 1e-3
    standardise.fit(torch.full((3, 4), 2.0))
    assert torch.equal(standardise(torch.full((3, 4), 2.0)), torch.zeros(3, 4))


def test_resumed_runs_end_with_the_same_bits(
    form: dict[str, Any], photos: Path, backbone: Path, tmp_path: Path
) -> None:
    made = config(photos, backbone, Vadd(), Vat(), epochs=3, **form)
    loop.run(made, tmp_path / "whole")
    interrupt(made, tmp_path / "stopped", after=1)
    shutil.rmtree(tmp_path / "own-cache")  # Features are computed again.
    loop.run(made, tmp_path / "stopped")
    assert result(tmp_path / "stopped") == result(tmp_path / "whole")


def test_the_backbone_learns_more_slowly(photos: Path, backbone: Path, tmp_path: Path) -> None:
    """Adam's first step has the length of the learning rate, whatever the gradient."""
    made = config(photos, backbone, frozen=False, backbone_rate=0.25, unlabelled=0)
    made = made.changed(training=dataclasses.replace(made.training, epochs=1, steps_per_epoch=1))
    loop.run(made, tmp_path / "run")
    weights = safetensors.torch.load_file(tmp_path / "run" / records.WEIGHTS)
    torch.manual_seed(made.seed)
    first = made.model.build((3, 16, 20), 3).state_dict()
    moved = {name: float((weights[name] - first[name]).abs().max()) for name in weights}
    assert moved["upper.1.weight"] == pytest.approx(0.02, rel=1e-2)
    of_backbone = max(value for name, value in moved.items() if ".model." in name)
    assert of_backbone == pytest.approx(0.25 * 0.02, rel=1e-2)


# Features and their cache


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each batch of features that is computed from now on."""
    seen: list[int] = []
    computed = features._computed

    def counting(backbone: Any, data: Any, rows: Tensor, *arguments: Any, **options: Any) -> Tensor:
        seen.append(len(rows))
        return computed(backbone, data, rows, *arguments, **options)

    monkeypatch.setattr(features, "_computed", counting)
    return seen


def test_features_are_computed_once(
    photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    told: list[tuple[int, int]] = []
    plain = config(photos, backbone, data={"flip": False})
    loop.run(plain, tmp_path / "plain", preparing=lambda done, images: told.append((done, images)))
    assert sum(seen) == 12 + 6, "labelled images and those of the test part"
    assert (12, 12) in told
    assert told[-1] == (6, 6)
    loop.run(plain.changed(seed=0, threads=1, method="again"), tmp_path / "again")
    assert sum(seen) == 18
    loop.run(config(photos, backbone, Vadd(), data={"flip": False}), tmp_path / "vadd")
    assert sum(seen) == 36, "the rest of all images"
    loop.run(config(photos, backbone, Vadd()), tmp_path / "views")
    assert sum(seen) == 66, "the mirror images of those that train"
    other = tiny.write(tmp_path / "other", seed=1, size=16)
    loop.run(config(photos, other, data={"flip": False}), tmp_path / "of-another")
    assert sum(seen) == 66 + 18
    size = config(photos, backbone, data={"flip": False}, size=24)
    loop.run(size, tmp_path / "of-another-size")
    assert sum(seen) == 66 + 36


def test_features_of_views(photos: Path, backbone: Path) -> None:
    data = sources.load(DataConfig(name=str(photos)))
    found = backbones.find(str(backbone))
    whole = backbones.load(found)
    rows = torch.tensor([5, 2, 30])
    table = features_of(whole, found, data, rows, DataConfig(flip=True))
    assert table.shape == (len(data.labels), 2, whole.width)
    with torch.no_grad():
        for row in rows.tolist():
            image = data.images[row : row + 1].float() / 255
            torch.testing.assert_close(table[row], torch.cat([whole(image), whole(image.flip(3))]))
    assert float(table[[0, 1, 3, 4]].abs().max()) == 0, "the others are not computed"
    views = FeatureViews(DataConfig(flip=True), 255)
    assert torch.equal(views(table[rows]), table[rows, 0])
    drawn = torch.stack([views.view(table[rows]) for _ in range(50)])
    share = (drawn == table[rows, 0]).all(dim=2).double().mean()
    assert 0.3 < float(share) < 0.7
    assert bool(((drawn == table[rows, 0]) | (drawn == table[rows, 1])).all())


def test_a_damaged_cache_is_computed_again(photos: Path, backbone: Path, tmp_path: Path) -> None:
    data = sources.load(DataConfig(name=str(photos)))
    found = backbones.find(str(backbone))
    whole = backbones.load(found)
    first = features_of(whole, found, data, torch.arange(9), DataConfig())
    (path,) = (tmp_path / "own-cache" / "features").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    assert torch.equal(features_of(whole, found, data, torch.arange(9), DataConfig()), first)


def test_features_that_are_not_finite(photos: Path, backbone: Path) -> None:
    data = sources.load(DataConfig(name=str(photos)))
    found = backbones.find(str(backbone))
    whole = backbones.load(found)
    for weight in whole.parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"expected finite features, .* for 4 images, .* row 0"):
        features_of(whole, found, data, torch.arange(4), DataConfig())


def test_a_cache_that_cannot_be_written(
    photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sources.load(DataConfig(name=str(photos)))
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path / "a-file"))
    found = backbones.find(str(backbone))
    with pytest.warns(records.RecordWarning, match="features cannot be cached"):
        table = features_of(backbones.load(found), found, data, torch.arange(4), DataConfig())
    assert bool((table[:4] != 0).any(dim=2).all()), "they are computed all the same"


# Images of all sizes


def test_images_of_different_sizes(photos: Path, backbone: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    image_folder(mixed, each=4, unlabelled=0, shape=(1, 40, 30), seed=9)
    record = loop.run(config(mixed, backbone), tmp_path / "run")
    assert record.final["data"]["shape"] == [3, 16, 16]
    trained = Trained.load(record)
    assert evaluate(trained).error == record.error
    predictions, bad = predict(trained, [photos, mixed])
    assert not bad
    assert len(predictions) == 36 * 2
    with pytest.raises(InvalidValueError, match=r"expected images of 30 × 40 pixels, got 20 × 16"):
        sources.load(DataConfig(name=str(mixed)))


@pytest.mark.parametrize(("shape", "stored"), [((1, 9, 9), [1, 9, 9]), ((3, 50, 40), [3, 16, 16])])
def test_grey_small_and_large_images(
    shape: tuple[int, int, int], stored: list[int], backbone: Path, tmp_path: Path
) -> None:
    folder = image_folder(tmp_path / "images", shape=shape)
    record = loop.run(config(folder, backbone), tmp_path / "run")
    assert record.final["data"]["shape"] == stored
    assert evaluate(Trained.load(record)).error == record.error


# What is done with a run


@pytest.fixture(scope="module")
def run_folder(photos: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("runs")
        printed = printed_by(
            *("train", "images", "vadd-kl", "--scale", "tiny", "--data", photos, "--out", out),
            *("--model.name", "pretrained", "--model.source", backbone, "--model.delta", "0.2"),
            *("--model.head", "linear"),
        )
    assert "error" in printed
    return out / "images" / "tiny" / "vadd-kl" / "seed-0"


def test_train_and_everything_after_it(run_folder: Path, photos: Path, backbone: Path, tmp_path: Path) -> None:
    final = json.loads((run_folder / records.FINAL).read_text())
    assert final["backbone"]["sha256"] == backbones.find(str(backbone)).sha256
    settings = json.loads((run_folder / records.CONFIG).read_text())
    assert settings["model"]["source"] == str(backbone.resolve())
    assert settings["data"] | {"centre": False, "translate": 0, "flip": True} == settings["data"]
    assert f"error {final['metrics']['error']:.2f} %" in printed_by("evaluate", run_folder)
    lines = printed_by("predict", run_folder, photos / "unlabeled").splitlines()
    assert len(lines) == 1 + 6
    assert all(line.split(",")[1] in FRUIT for line in lines[1:])
    printed_by("inspect", run_folder, "--flips", "1", "--out", tmp_path / "page.html")
    assert "pretrained" in printed_by("report", run_folder.parents[3], "--out", tmp_path / "report.html")
    printed_by("export", run_folder, "--out", tmp_path / "export")
    exported = json.loads((tmp_path / "export" / records.CONFIG).read_text())
    assert exported["backbone"] == final["backbone"]


def test_inspection_sees_the_features(run_folder: Path, backbone: Path) -> None:
    found = inspection.inspect(Trained.of(run_folder))
    assert found.flipped.shape[1] == backbones.load(backbones.find(str(backbone))).width


def test_onnx_has_the_whole_chain(form: dict[str, Any], photos: Path, backbone: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    import onnx

    record = loop.run(config(photos, backbone, **form), tmp_path / "run")
    trained = Trained.load(record)
    stored = trained.data().images[:5]
    expected = outputs(trained.model, trained.pixels, stored).softmax(dim=1)
    export(trained, tmp_path / "export", onnx=True)
    model = onnx.load(tmp_path / "export" / "model.onnx")
    (found,) = reference.ReferenceEvaluator(model).run(None, {"images": stored.float().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_a_backbone_that_has_changed_or_gone(photos: Path, tmp_path: Path) -> None:
    moved = tiny.write(tmp_path / "net", size=16)
    record = loop.run(config(photos, moved), tmp_path / "run")
    tiny.write(moved, seed=1, size=16)
    with pytest.raises(InvalidValueError, match=r"expected the backbone that .*run was trained with.*sha256: .* → "):
        Trained.load(record)
    tiny.write(moved, size=16, image_mean=[0.5, 0.5, 0.5])
    with pytest.raises(InvalidValueError, match=r"got another .*preprocessing: "):
        Trained.load(record)
    shutil.rmtree(moved)
    with pytest.raises(
        InvalidValueError, match=r"expected model\.source to be a folder, got .*net, which is not there"
    ):
        Trained.load(record)


def test_resuming_with_another_backbone(photos: Path, tmp_path: Path) -> None:
    moved = tiny.write(tmp_path / "net", size=16)
    made = config(photos, moved, epochs=3)
    interrupt(made, tmp_path / "run", after=1)
    tiny.write(moved, seed=1, size=16)
    with pytest.raises(InvalidValueError, match=r"run holds a run with another backbone"):
        loop.run(made, tmp_path / "run")


# Settings and mistakes


def test_settings_of_the_preset() -> None:
    for method in presets.find("images").methods:
        given = presets.settings("images", method, network="pretrained").used()
        assert isinstance(given.model, Pretrained)
        assert given.model.frozen
        assert ExperimentConfig.from_dict(given.to_dict()) == given
        assert set(given.terms) == {part.split("-")[0] for part in method.split("+")} - {"plain"}
    assert presets.settings("images", "plain").model.name == "small-resnet"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data.centre",), r"expected data\.centre=False, because a pretrained backbone has its own preprocessing"),
        (("--data.whiten",), r"expected data\.whiten=False"),
        (("--data.translate", "2"), r"expected data\.translate=0, because the views of a frozen backbone"),
        (
            ("--model.head", "linear", "--model.units", "64"),
            r'expected model\.units=512, because the head "linear" has no hidden units',
        ),
        (("--model.backbone-rate", "0.2"), r"expected model\.backbone_rate=0\.1, because a frozen backbone"),
        (("--model.source", "nothing-of-this-name"), r"expected model\.source to be a folder that exists"),
    ],
)
def test_settings_without_effect(
    options: tuple[str, ...],
    message: str,
    photos: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = ("train", "images", "plain", "--scale", "tiny", "--data", photos, "--out", tmp_path / "runs")
    code, said = fails(capsys, *usual, "--model.name", "pretrained", "--model.source", backbone, *options)
    assert code == 2
    assert re.search(message, said), said
    assert not list((tmp_path / "runs").rglob(records.CONFIG))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "deep"}, r"expected model\.head to be one of linear, mlp"),
        ({"units": 0}, r"expected model\.units"),
        ({"size": 0}, r"expected model\.size"),
        ({"backbone_rate": 0.0}, r"expected model\.backbone_rate"),
        ({"feature_dropout": 2.0}, r"expected model\.feature_dropout"),
        ({"source": ""}, r"expected model\.source"),
    ],
)
def test_invalid_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Pretrained(**settings)


def test_one_label_of_each_class(backbone: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", each=2)
    made = config(folder, backbone, Vadd())
    made = made.changed(data=dataclasses.replace(made.data, labelled=3))
    assert loop.run(made, tmp_path / "run").final["examples"] == 3
    with pytest.raises(InvalidValueError, match=r"expected data\.validation below the 3 labelled training examples"):
        loop.run(made.changed(data=dataclasses.replace(made.data, validation=3)), tmp_path / "other")
    only = image_folder(tmp_path / "only", ("apple",))
    with pytest.raises(InvalidValueError, match=r"expected labelled images of two classes or more"):
        loop.run(made.changed(data=dataclasses.replace(made.data, name=str(only))), tmp_path / "third")


def test_without_a_backbone_nothing_is_begun(photos: Path, tmp_path: Path) -> None:
    net = tiny.write(tmp_path / "net")
    (net / "model.safetensors").unlink()
    with pytest.raises(backbones.BackboneError, match="got no weights"):
        loop.run(config(photos, net), tmp_path / "run")
    assert not (tmp_path / "run" / records.CONFIG).exists()

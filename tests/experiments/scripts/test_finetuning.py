"""The fine-tuning study on a tiny encoder, and what its committed records must show."""

import statistics
import sys
from pathlib import Path

import example_tables
import pytest
import torch
from text_data import parquet_files, tiny_bert
from torch.nn import functional as F

from adversarial_dropout import VirtualAdversarialDropout
from adversarial_dropout.experiments import records

pytest.importorskip("transformers", reason="needs the extra [transformers]")

import finetuning
from finetuning import SEEDS, TRIALS, TUNING_SEEDS, Loss, Sentences, Settings, Study
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    parquet_files(folder / "data", train=260, validation=40, test=40)
    tiny_bert(folder / "model")
    return folder


@pytest.fixture
def study(folder: Path) -> Study:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pretrained = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
    (file,) = folder.rglob("train-*.parquet")
    return Study(pretrained, {"train": Sentences.read(file, tokenizer, None)}, updates=4)


def test_every_method_has_as_many_trials() -> None:
    assert {len(set(trials)) for trials in TRIALS.values()} == {4}
    assert not set(SEEDS) & set(TUNING_SEEDS)


def test_seeds_differ_in_labels_head_and_order_and_methods_do_not(study: Study) -> None:
    def start(method: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        *_, unlabelled = next(study.batches(seed))
        return study.model(TRIALS[method][0]).model.classifier.weight, unlabelled  # type: ignore[return-value,union-attr]

    heads, rows = zip(*(start(method, seed) for method in ("plain", "vadd-kl") for seed in (0, 1)), strict=True)
    assert torch.equal(heads[0], heads[2])
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(heads[0], heads[1])
    assert rows[0].shape != rows[1].shape or not torch.equal(rows[0], rows[1])


def test_200_sentences_have_a_label_and_they_alone(study: Study) -> None:
    train = study.parts["train"]
    labelled = {tuple(ids[ids != 0].tolist()) for some, _, _ in _first(study, 100) for ids in some}
    count = sum(len(some) for some, _, _ in _first(study, 25))
    assert count == 200
    everything = {tuple(ids[ids != 0].tolist()) for ids in train.ids}
    assert labelled < everything


def _first(study: Study, count: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    batches = study.batches(0)
    return [next(batches) for _ in range(count)]


def test_the_losses_are_those_of_a_model_of_transformers_by_hand(study: Study) -> None:
    settings = Settings(learning_rate=1e-3, p=0.5, weight=3.0)
    ids, labels, unlabelled = next(study.batches(0))
    cut = study.model(settings)
    batch = {"input_ids": unlabelled, "attention_mask": (unlabelled != 0).long()}

    def of(method: str) -> torch.Tensor:
        torch.manual_seed(5)
        return Loss(method, settings)(cut, ids, labels, unlabelled)

    torch.manual_seed(5)
    supervised = F.cross_entropy(cut.model(input_ids=ids, attention_mask=(ids != 0).long()).logits, labels)
    torch.testing.assert_close(of("plain"), supervised)
    term = VirtualAdversarialDropout(divergence="kl", noise="shared")(cut.model, batch)
    torch.testing.assert_close(of("vadd-kl"), supervised + 3 * term)
    assert term > 0


def test_r_drop_by_hand(study: Study) -> None:
    settings = Settings(learning_rate=1e-3, weight=2.0)
    ids, labels, unlabelled = next(study.batches(0))
    model = study.model(settings)
    torch.manual_seed(5)
    found = Loss("r-drop", settings)(model, ids, labels, unlabelled)
    torch.manual_seed(5)
    passes = [model(x).log_softmax(dim=1) for x in (ids, ids, unlabelled, unlabelled)]
    rows = len(ids) + len(unlabelled)
    expected = -sum(log_p[range(len(labels)), labels].sum() for log_p in passes[:2]) / (2 * len(labels))
    for a, b in (passes[:2], passes[2:]):
        for row_a, row_b in zip(a, b, strict=True):
            for log_p, log_q in zip(row_a, row_b, strict=True):  # KL(p, q) + KL(q, p) = Σ (p - q)(log p - log q)
                expected = expected + (log_p.exp() - log_q.exp()) * (log_p - log_q) / rows
    torch.testing.assert_close(found, expected)


def test_it_runs_and_resumes(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(folder / "model"), "--data", str(folder / "data"), "--out", str(folder / "out")]
    monkeypatch.setattr(sys, "argv", ["finetuning.py", *arguments, "--updates", "2"])
    finetuning.main()
    files = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("seed-*.json")}
    assert len(files) == 4 * 4 * len(TUNING_SEEDS) + 4 * len(SEEDS)
    monkeypatch.setattr(example_tables, "FINETUNING", folder / "out")
    _check_records()
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(files)

    finetuning.main()
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("seed-*.json")} == files

    monkeypatch.setattr(sys, "argv", ["finetuning.py", *arguments, "--updates", "2", "--cost", "2"])
    finetuning.main()
    cost = records.read_json(folder / "out" / "cost.json")
    assert {name: len(values) for name, values in cost["seconds"].items()} == dict.fromkeys(TRIALS, 2)
    assert example_tables.finetuning().count("| 5 |") == 4
    assert example_tables.finetuning_trials().count("| 2 |") == 16


@pytest.mark.skipif(not example_tables.FINETUNING.exists(), reason="results/finetuning has not been written yet")
def test_the_committed_records_are_of_the_best_settings_and_other_seeds() -> None:
    _check_records()
    for part in ("validation", "test"):
        for run in _runs(part):
            assert not run["environment"]["commit"].endswith("+")


def _runs(part: str) -> example_tables.Runs:
    return [run for method in TRIALS for run in example_tables.runs(part, method)]


def _check_records() -> None:
    tried = _runs("validation")
    assert len(tried) == 4 * 4 * len(TUNING_SEEDS)
    assert {run["seed"] for run in tried} == set(TUNING_SEEDS)
    assert len({run["updates"] for run in (*tried, *_runs("test"))}) == 1
    for method, trials in TRIALS.items():
        means = [
            statistics.fmean(
                run["accuracy"] for run in tried if run["method"] == method and Settings(**run["settings"]) == trial
            )
            for trial in trials
        ]
        tested = example_tables.runs("test", method)
        assert {run["seed"] for run in tested} == set(SEEDS)
        assert {Settings(**run["settings"]) for run in tested} == {trials[means.index(max(means))]}

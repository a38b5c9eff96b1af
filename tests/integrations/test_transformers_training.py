"""Training with the mixin: evaluation, log, resuming, unlabelled rows, precision, checkpoints, processes, bad input."""

import copy
import itertools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import (
    AdversarialDropout,
    EntropyMinimization,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
)
from adversarial_dropout.integrations.shuffled_rows import ShuffledRows
from adversarial_dropout.regularizers.base import Regularizer

from .tiny_transformers import (
    FIRST_IDS,
    VOCABULARY,
    gradient_of_a_step,
    padded,
    sequence_model,
    sequence_rows,
    token_model,
    token_rows,
    trainer,
    transformers,
)

ROOT = Path(__file__).resolve().parents[2]


class Seen(Regularizer):
    """Zero; records the first token of each row that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.targets: list[object] = []

    def per_example(self, model: nn.Module, x: Any, y: Any, target: Any, mask: Any) -> Tensor:
        self.batches.append(x["input_ids"][:, 0].tolist())
        self.targets.append(target)
        assert not {"labels", "text"} & set(x)
        return torch.zeros(len(x["input_ids"]), dtype=torch.float64)


def unlabelled_rows(count: int = 7) -> list[dict[str, Any]]:
    """Rows whose first token is their number; text and a label must not reach the model."""
    return [{"input_ids": [FIRST_IDS + place, 9, 9], "labels": 99, "text": "words"} for place in range(count)]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_evaluation_has_no_term_and_leaves_unlabelled_rows_out(tmp_path: Path) -> None:
    rows, seen = sequence_rows(8, unlabelled=(1, 4)), []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"rows": len(prediction.predictions)}

    model, vadd = sequence_model(), VirtualAdversarialDropout()
    made = trainer(model, tmp_path, rows, eval_dataset=rows, regularizer=vadd, compute_metrics=metrics)
    found = made.evaluate()
    labelled = [row for row in rows if row["labels"] >= 0]
    with torch.no_grad():
        logits = torch.cat([model.eval()(torch.tensor([row["input_ids"]])).logits for row in labelled])
    expected = F.cross_entropy(logits, torch.tensor([row["labels"] for row in labelled])).item()
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert found["eval_rows"] == 8
    assert sorted(seen[0].label_ids.tolist())[:3] == [-100, -100, 0]
    assert set(found) & {"VirtualAdversarialDropout", "eval_VirtualAdversarialDropout"} == set()


def test_each_term_is_logged_without_its_weight(tmp_path: Path) -> None:
    model, rows = sequence_model(nn.Identity()), sequence_rows(8)
    with torch.no_grad():
        logits = torch.cat([model.eval()(torch.tensor([row["input_ids"]])).logits for row in rows])
    loss = F.cross_entropy(logits, torch.tensor([row["labels"] for row in rows])).item()
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean().item()
    terms = [(0.5, EntropyMinimization()), (0.25, EntropyMinimization()), (3.0, Seen())]
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 6, "logging_steps": 3}
    made = trainer(model, tmp_path, rows, regularizer=terms, rate=0.0, **settings)
    made.train()
    first, second = (line for line in made.state.log_history if "loss" in line)
    for line in (first, second):
        assert line["loss"] == pytest.approx(loss + 0.75 * entropy, rel=1e-5)
        assert line["EntropyMinimization"] == line["EntropyMinimization_2"] == pytest.approx(entropy, rel=1e-5)
        assert line["Seen"] == 0


def test_a_weight_may_follow_the_training(tmp_path: Path) -> None:
    asked: list[float] = []

    def ramp(done: float) -> float:
        asked.append(done)
        return 2 * done

    made = trainer(
        sequence_model(), tmp_path, sequence_rows(8), regularizer=PiModel(), weight=ramp, max_steps=4, rate=0.1
    )
    made.train()
    assert asked == [0, 0.25, 0.5, 0.75]
    made.terms["PiModel"] = (lambda done: math.nan, PiModel())
    with pytest.raises(ValueError, match="expected a weight to be finite and 0 or more, got nan"):
        made.train()


def test_unlabelled_rows_come_in_rounds_that_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def drawn(**settings: Any) -> list[list[int]]:
        seen = Seen()
        torch.manual_seed(settings.pop("stream", 0))
        shape = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 7, **settings}
        extra = {"unlabelled_dataset": unlabelled_rows(), "unlabelled_batch_size": 3}
        trainer(sequence_model(), tmp_path, sequence_rows(8), regularizer=seen, **extra, **shape).train()
        assert seen.targets == [None] * 14
        return seen.batches

    batches = drawn()
    assert [len(batch) for batch in batches] == [3] * 14
    for start in range(0, 42, 7):
        assert sorted(list(itertools.chain(*batches))[start : start + 7]) == [FIRST_IDS + place for place in range(7)]
    assert drawn(stream=5) == batches
    assert drawn(seed=1) != batches
    assert drawn(data_seed=1) == drawn(seed=1)


def test_without_a_size_the_unlabelled_batch_is_as_large_as_the_other(tmp_path: Path) -> None:
    seen = Seen()
    settings = {"per_device_train_batch_size": 5, "unlabelled_dataset": unlabelled_rows()}
    trainer(sequence_model(), tmp_path, sequence_rows(8), regularizer=seen, **settings).train()
    assert [len(batch) for batch in seen.batches] == [5]


def test_rows_of_one_round_are_all_rows_once() -> None:
    rows = ShuffledRows("abcde", seed=3)
    drawn = rows[0:1000]
    assert drawn[7:13] == rows[7:13]
    assert all(sorted(drawn[start : start + 5]) == list("abcde") for start in range(0, 1000, 5))
    assert min(Counter(drawn[::5]).values()) > 20, "rounds have different orders"


def test_a_resumed_training_is_the_one_that_was_not_stopped(tmp_path: Path) -> None:
    rows = sequence_rows(10)
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 4,
        "rate": 0.1,
        "unlabelled_dataset": unlabelled_rows(),
    }

    def run(folder: str, checkpoint: str | None) -> tuple[Tensor, list[list[int]]]:
        seen, vadd = Seen(), VirtualAdversarialDropout()
        model = sequence_model(dropout=0.1)
        made = trainer(model, tmp_path / folder, rows, regularizer=[(1.0, vadd), (1.0, seen)], **settings)
        made.train(resume_from_checkpoint=checkpoint)
        return weights(model), seen.batches

    whole, batches = run("whole", None)
    resumed, later = run("resumed", str(tmp_path / "whole" / "checkpoint-4"))
    assert later == batches[-len(later) :]
    assert 0 < len(later) < len(batches)
    assert torch.equal(resumed, whole)


def test_batches_without_labels_train_on_the_term_alone(tmp_path: Path) -> None:
    rows = sequence_rows(4, unlabelled=(0, 1, 2, 3))
    gradient = gradient_of_a_step(sequence_model(), tmp_path, rows, regularizer=EntropyMinimization())
    assert all(part.isfinite().all() for part in gradient)
    assert any(part.any() for part in gradient)
    gradient = gradient_of_a_step(sequence_model(), tmp_path, rows, regularizer=SupervisedAdversarialDropout())
    assert not any(part.any() for part in gradient)


def test_supervised_tokens(tmp_path: Path) -> None:
    sadd = SupervisedAdversarialDropout(class_dim=-1)
    gradient = gradient_of_a_step(token_model(), tmp_path, token_rows(), regularizer=sadd, weight=2)
    assert all(part.isfinite().all() for part in gradient)


def test_multi_label_heads_have_floating_labels(tmp_path: Path) -> None:
    model = sequence_model(AdversarialDropout(0.0, 0.2))
    batch = padded(sequence_rows(4))
    batch["labels"] = torch.tensor([[1.0, 0, 1]] * 4, dtype=torch.float64)
    sadd = SupervisedAdversarialDropout(divergence="bernoulli_ce")
    loss = trainer(model, tmp_path, sequence_rows(4), regularizer=sadd).compute_loss(model.train(), batch)
    x = {name: value for name, value in batch.items() if name != "labels"}
    expected = F.binary_cross_entropy_with_logits(model(**x).logits, batch["labels"])
    expected = expected + sadd(model, x, batch["labels"].long())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    batch["labels"] *= 0.5
    with pytest.raises(ValueError, match="expected labels 0 and 1 for a supervised regulariser, got fractions"):
        trainer(model, tmp_path, sequence_rows(4), regularizer=sadd).compute_loss(model, batch)


def test_columns_that_the_model_does_not_take_are_removed(tmp_path: Path) -> None:
    rows = [{**row, "text": "words"} for row in sequence_rows(8)]
    assert gradient_of_a_step(sequence_model(), tmp_path, rows, regularizer=VirtualAdversarialDropout())


@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_bfloat16(noise: Any, tmp_path: Path) -> None:
    model = sequence_model().float()
    inside: list[bool] = []
    model.classifier.register_forward_hook(lambda *args: inside.append(torch.is_autocast_enabled("cpu")))
    vadd = VirtualAdversarialDropout(noise=noise)
    made = trainer(model, tmp_path, sequence_rows(8), regularizer=vadd, bf16=True, max_steps=2, rate=0.01)
    made.train()
    assert inside == [True] * 6
    assert all(math.isfinite(line["VirtualAdversarialDropout"]) for line in made.state.log_history if "loss" in line)
    assert model.classifier.weight.dtype == torch.float32


def test_checkpointed_activations_below_the_layer_change_nothing(tmp_path: Path) -> None:
    def gradient(checkpointing: bool) -> list[Tensor]:
        return gradient_of_a_step(
            sequence_model(dropout=0.1),
            tmp_path,
            sequence_rows(8),
            regularizer=VirtualAdversarialDropout(noise="shared"),
            activation_checkpointing=checkpointing,
        )

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-9, atol=1e-12)


def test_a_layer_inside_checkpointed_activations_is_an_error(tmp_path: Path) -> None:
    model = sequence_model()
    model.bert.encoder.layer[0].output.dropout = AdversarialDropout(0.3, 0.2)
    made = trainer(
        model, tmp_path, sequence_rows(8), regularizer=VirtualAdversarialDropout(), activation_checkpointing=True
    )
    with pytest.raises(ValueError, match=r"under torch\.utils\.checkpoint"):
        made.train()


def test_a_saved_model_is_that_of_the_class_without_the_layer(tmp_path: Path) -> None:
    model = sequence_model().float()
    made = trainer(model, tmp_path, sequence_rows(8), regularizer=VirtualAdversarialDropout())
    made.train()
    made.save_model(str(tmp_path / "saved"))
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    batch = padded(sequence_rows(8))
    torch.testing.assert_close(loaded(**batch).logits, model.eval()(**batch).logits, rtol=0, atol=0)


def test_the_model_may_be_copied_between_trainings(tmp_path: Path) -> None:
    model = sequence_model().float()
    made = trainer(model, tmp_path, sequence_rows(8), regularizer=VirtualAdversarialDropout(), bf16=True)
    made.train()
    assert torch.equal(weights(copy.deepcopy(model)), weights(model))


TWO = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from integrations.tiny_transformers import *
from adversarial_dropout import EntropyMinimization, SupervisedAdversarialDropout, VirtualAdversarialDropout
torch.set_num_threads(1)
layer = AdversarialDropout(0.0, 0.2)
terms = [(0.7, EntropyMinimization()), (0.5, SupervisedAdversarialDropout())]
rows = sequence_rows(8, unlabelled=(1, 4, 5))
size = 4 // int(sys.argv[2])
model = sequence_model(layer)
gradient = gradient_of_a_step(
    model, sys.argv[1], rows, regularizer=terms, per_device_train_batch_size=size, gradient_accumulation_steps=2,
    ddp_backend="gloo" if sys.argv[2] == "2" else None)
noisy = sequence_model(dropout=0.1)
made = trainer(noisy, sys.argv[1], rows, regularizer=VirtualAdversarialDropout(noise="shared"), max_steps=2,
    per_device_train_batch_size=size, rate=0.1, ddp_backend="gloo" if sys.argv[2] == "2" else None)
made.train()
ends = torch.cat([p.detach().flatten() for p in noisy.parameters()])
if dist.is_initialized():
    both = [torch.empty_like(ends) for _ in range(2)]
    dist.all_gather(both, ends)
    assert torch.equal(*both), "the ranks have different weights"
if made.is_world_process_zero():
    torch.save(gradient, sys.argv[1] + "/gradient.pt")
"""


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(ROOT / "tests")))
    gradients = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
        subprocess.run([sys.executable, *launch, script, folder, str(processes)], check=True, timeout=300)
        gradients.append(torch.load(folder / "gradient.pt"))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regularizer": VirtualAdversarialDropout}, "expected regularizer to be a regulariser or a sequence of pairs"),
        ({"regularizer": []}, "expected regularizer to be a regulariser or a sequence of pairs"),
        ({"regularizer": [PiModel()]}, "expected regularizer to be a regulariser or a sequence of pairs"),
        ({"regularizer": [(PiModel(), 1.0)]}, r"expected pairs \(weight, regularizer\), got float"),
        ({"regularizer": [(1.0, PiModel())], "weight": 2.0}, "expected weight= beside a single regulariser only"),
        ({"regularizer": PiModel(reduction="sum")}, 'expected PiModel with reduction="mean", got "sum"'),
        ({"regularizer": PiModel(), "weight": -1}, "expected a weight to be finite and 0 or more, got -1"),
        ({"regularizer": PiModel(), "weight": "1"}, "expected a weight to be a number, got '1'"),
        ({"regularizer": PiModel(), "unlabelled_dataset": []}, "expected unlabelled rows with a length above 0"),
        ({"regularizer": PiModel(), "unlabelled_dataset": iter([1])}, "expected unlabelled rows with a length above 0"),
        ({"regularizer": PiModel(), "unlabelled_batch_size": 0}, "expected unlabelled_batch_size"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        trainer(sequence_model(), tmp_path, sequence_rows(4), **arguments)


def test_a_supervised_regulariser_needs_labels_of_the_positions(tmp_path: Path) -> None:
    sadd = SupervisedAdversarialDropout(class_dim=-1)
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=1, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).train()
    batch = padded(sequence_rows(4))
    batch["labels"] = batch["input_ids"]
    with pytest.raises(ValueError, match="got those of a causal language model, which are shifted by one"):
        trainer(model, tmp_path, [], regularizer=sadd).compute_loss(model, batch)
    model = sequence_model().train()
    made = trainer(
        model, tmp_path, [], regularizer=sadd, compute_loss_func=lambda outputs, *_, **__: outputs.logits.sum()
    )
    with pytest.raises(ValueError, match="expected labels for a supervised regulariser, got a batch of input_ids"):
        made.compute_loss(model, {"input_ids": batch["input_ids"]})

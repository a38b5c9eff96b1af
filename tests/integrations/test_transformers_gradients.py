"""The gradient of a step of the Trainer against loops by hand, for every way to split its rows into batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import (
    AdversarialDropout,
    EntropyMinimization,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
)

from .tiny_transformers import (
    gradient_of_a_step,
    padded,
    sequence_model,
    sequence_rows,
    token_model,
    token_rows,
    trainer,
)

Rows = list[dict[str, Any]]
SPLITS = [(8, 1), (4, 2), (2, 4), (3, 3), (1, 8)]
"""Batch size and number of accumulated batches; 3 + 3 + 2 rows have a smaller last batch."""


def entropy(logits: Tensor) -> Tensor:
    q = logits.softmax(dim=-1)
    return -(q * q.log()).sum(dim=-1)


def loss_and_entropy(model: nn.Module, rows: Rows, weight: float) -> Tensor:
    """Row by row, without padding: mean loss of all labels, and the mean over rows of the mean over tokens."""
    losses, entropies = [], []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        labels = row["labels"] if isinstance(row["labels"], list) else [row["labels"]]
        logits = logits.reshape(len(labels), -1)
        losses += [F.cross_entropy(z, torch.tensor(y)) for z, y in zip(logits, labels, strict=True) if y >= 0]
        entropies.append(entropy(logits).mean())
    return torch.stack(losses).mean() + weight * torch.stack(entropies).mean()


def worst_mask_loss(model: nn.Module, rows: Rows, weight: float) -> Tensor:
    """Row by row: the loss, and the loss under the mask with the ``floor(δH)`` best flips away from all ones."""
    losses, adversarial = [], []
    for row in rows:
        if row["labels"] < 0:
            continue
        y, ids = torch.tensor([row["labels"]]), torch.tensor([row["input_ids"]])
        losses.append(F.cross_entropy(model(input_ids=ids).logits, y))
        h = model.bert(ids)[1]
        point = torch.ones_like(h).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model.classifier(h.detach() * point), y), point)
        gains = sorted(((-float(slope[0, i]), i) for i in range(h.shape[1])), reverse=True)
        mask = torch.ones_like(h)
        for gain, unit in gains[: int(model.dropout.delta * h.shape[1])]:
            mask[0, unit] = 0.0 if gain > 0 else 1.0
        adversarial.append(F.cross_entropy(model.classifier(h * mask), y))
    return torch.stack(losses).mean() + weight * torch.stack(adversarial).mean()


def by_hand(model: nn.Module, loss: Callable[[nn.Module, Rows, float], Tensor], rows: Rows) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model.train(), rows, 0.7), list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize(("size", "batches"), SPLITS)
def test_rows_without_labels_and_a_term_over_all_rows(size: int, batches: int, tmp_path: Path) -> None:
    rows = sequence_rows(unlabelled=(1, 4, 5, 6))
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches}
    expected = by_hand(sequence_model(nn.Identity()), loss_and_entropy, rows)
    found = gradient_of_a_step(
        sequence_model(nn.Identity()), tmp_path, rows, regularizer=EntropyMinimization(), weight=0.7, **settings
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "batches"), SPLITS)
def test_a_supervised_term_is_the_mean_over_the_labelled_rows(size: int, batches: int, tmp_path: Path) -> None:
    rows = sequence_rows(unlabelled=(1, 4, 5, 6))
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches}
    expected = by_hand(sequence_model(AdversarialDropout(0.0, 0.2)), worst_mask_loss, rows)
    model = sequence_model(AdversarialDropout(0.0, 0.2))
    found = gradient_of_a_step(model, tmp_path, rows, regularizer=[(0.7, SupervisedAdversarialDropout())], **settings)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "batches"), SPLITS)
def test_tokens_padding_and_a_row_without_labels(size: int, batches: int, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches}
    expected = by_hand(token_model(nn.Identity()), loss_and_entropy, token_rows())
    regularizer = EntropyMinimization(class_dim=-1)
    found = gradient_of_a_step(
        token_model(nn.Identity()), tmp_path, token_rows(), regularizer=regularizer, weight=0.7, **settings
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Counting(nn.Module):
    """A head that uses ``num_items_in_batch``, as models of Transformers should."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.EmbeddingBag(40, 12)
        self.drop = AdversarialDropout(0.3, 0.2)
        self.out = nn.Linear(12, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        logits = self.out(self.drop(self.embedding(input_ids)))
        if labels is None:
            return {"logits": logits}
        total = F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count, "logits": logits}


@pytest.mark.parametrize(("size", "batches"), [(8, 1), (3, 3)])
def test_a_weight_of_0_is_the_plain_trainer(size: int, batches: int, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches}
    rows = [
        {**row, "labels": row["labels"] if row["labels"] >= 0 else -100} for row in sequence_rows(unlabelled=(1, 4))
    ]
    expected = gradient_of_a_step(Counting().double(), tmp_path, rows, **settings)
    found = gradient_of_a_step(
        Counting().double(), tmp_path, rows, regularizer=EntropyMinimization(), weight=0, **settings
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def summed(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize(("size", "batches"), SPLITS)
def test_a_loss_function_of_the_users_own(size: int, batches: int, tmp_path: Path) -> None:
    rows = sequence_rows(unlabelled=(1, 4))
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches}
    expected = by_hand(sequence_model(nn.Identity()), loss_and_entropy, rows)
    model = sequence_model(nn.Identity())
    found = gradient_of_a_step(
        model, tmp_path, rows, regularizer=EntropyMinimization(), weight=0.7, compute_loss_func=summed, **settings
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_label_smoothing(tmp_path: Path) -> None:
    def smoothed(model: nn.Module, rows: Rows, weight: float) -> Tensor:
        logits = torch.cat([model(input_ids=torch.tensor([row["input_ids"]])).logits for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        labelled = labels >= 0
        loss = F.cross_entropy(logits[labelled], labels[labelled], label_smoothing=0.2)
        return loss + weight * entropy(logits).mean()

    rows = sequence_rows(unlabelled=(1, 4, 5, 6))
    expected = by_hand(sequence_model(nn.Identity()), smoothed, rows)
    for size, batches in SPLITS:
        found = gradient_of_a_step(
            sequence_model(nn.Identity()),
            tmp_path,
            rows,
            regularizer=EntropyMinimization(),
            weight=0.7,
            label_smoothing_factor=0.2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=batches,
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # Transformers sums in float32


@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_adversarial_dropout_shares_the_first_pass_with_the_loss(noise: Any, tmp_path: Path) -> None:
    batch = padded(sequence_rows())
    x = {name: value for name, value in batch.items() if name != "labels"}
    vadd = VirtualAdversarialDropout(noise=noise)
    model = sequence_model(dropout=0.1).train()
    passes: list[Tensor] = []
    model.classifier.register_forward_hook(lambda module, given, logits: passes.append(logits))

    torch.manual_seed(3)
    if noise == "shared":
        term = vadd(model, x)
        logits = passes[0]
    else:
        logits = model(**x).logits
        term = vadd(model, x, target=logits)
    expected = F.cross_entropy(logits, batch["labels"]) + 2.0 * term
    count = len(passes)
    assert term.item() > 0
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    made = trainer(model, tmp_path, sequence_rows(), regularizer=vadd, weight=2)
    torch.manual_seed(3)
    loss, outputs = made.compute_loss(model, batch, return_outputs=True)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), gradients, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-12, atol=0)
    assert len(passes) == 2 * count == 6, "three passes in all: target, search, adversarial"

"""Tiny models of Transformers with an AdversarialDropout layer, rows for them, and a trainer with the mixin."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from adversarial_dropout.integrations.transformers import AdversarialDropoutMixin  # noqa: E402

VOCABULARY, CLASSES = 40, 3
FIRST_IDS = 5


class RegularizedTrainer(AdversarialDropoutMixin, transformers.Trainer):  # type: ignore[misc]
    pass


def sequence_model(layer: nn.Module | None = None, *, dropout: float = 0.0) -> nn.Module:
    """BERT with one logit vector a row."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    model.dropout = AdversarialDropout(0.3, 0.2) if layer is None else layer
    return spread(model)


def token_model(layer: nn.Module | None = None) -> nn.Module:
    """DistilBERT with one logit vector a token."""
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=24,
        max_position_embeddings=16,
        dropout=0.0,
        attention_dropout=0.0,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    model: nn.Module = transformers.DistilBertForTokenClassification(config)
    model.dropout = AdversarialDropout(0.3, 0.2, granularity="feature") if layer is None else layer
    return spread(model)


def spread(model: nn.Module) -> nn.Module:
    """Weights of a size at which predictions differ, in double precision."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.dim() > 1 else None
    return model.double()


def sequence_rows(count: int = 8, *, unlabelled: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Rows of different lengths; labels -1 at the places in ``unlabelled``. The first id of a row is its number."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for place in range(count):
        ids = torch.randint(FIRST_IDS, VOCABULARY, (3 + place % 5,), generator=generator)
        label = -1 if place in unlabelled else place % CLASSES
        rows.append({"input_ids": ids.tolist(), "labels": label})
    return rows


def token_rows(count: int = 8) -> list[dict[str, Any]]:
    """The same with a label for each token but the first, and for none in the third row."""
    rows = sequence_rows(count)
    for place, row in enumerate(rows):
        labels = [(token + place) % CLASSES for token in row["input_ids"]]
        row["labels"] = [-100] * len(labels) if place == 2 else [-100, *labels[1:]]
    return rows


def padded(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The collator: pads to the longest row of the batch."""
    length = max(len(row["input_ids"]) for row in rows)

    def column(name: str, filling: int) -> Tensor:
        return torch.tensor([row[name] + [filling] * (length - len(row[name])) for row in rows])

    batch = {"input_ids": column("input_ids", 0)}
    batch["attention_mask"] = torch.tensor(
        [[1] * n + [0] * (length - n) for n in map(len, (r["input_ids"] for r in rows))]
    )
    if "labels" in rows[0]:
        tokens = isinstance(rows[0]["labels"], list)
        batch["labels"] = column("labels", -100) if tokens else torch.tensor([row["labels"] for row in rows])
    return batch


def trainer(model: nn.Module, folder: object, rows: object, **settings: Any) -> Any:
    """A trainer of plain gradient descent with step length 1, so that one step subtracts the gradient."""
    names = ("regularizer", "weight", "unlabelled_dataset", "unlabelled_batch_size", "eval_dataset", "compute_metrics")
    own = {name: settings.pop(name) for name in (*names, "compute_loss_func", "callbacks") if name in settings}
    kind = RegularizedTrainer if "regularizer" in own else transformers.Trainer
    rate = settings.pop("rate", 1.0)
    arguments = transformers.TrainingArguments(
        str(folder),
        **{
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "max_grad_norm": 0.0,
            "max_steps": 1,
            "save_strategy": "no",
            "logging_steps": 1,
            **settings,
        },
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return kind(model, arguments, train_dataset=rows, data_collator=padded, optimizers=(optimizer, schedule), **own)


def gradient_of_a_step(model: nn.Module, folder: object, rows: object, **settings: Any) -> list[Tensor]:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer(model, folder, rows, **settings).train()
    return [start - parameter.detach() for start, parameter in zip(before, model.parameters(), strict=True)]

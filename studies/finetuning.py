"""Fine-tune a pretrained encoder on Rotten Tomatoes with 200 labels: plain, R-Drop, VAdD, VAdD + VAT on embeddings.

    python studies/finetuning.py --model FOLDER_OR_HUB_ID --data FOLDER [--out results/finetuning]
    python studies/finetuning.py --model FOLDER_OR_HUB_ID --data FOLDER --cost 25

The model is a BERT, such as all-MiniLM-L6-v2; the data folder holds the parquet files train, validation and test with
the columns text and label. First each method is trained with each of its four settings and the seeds 100 and 101, and
measured on the validation part. Then the best setting of each method is trained with the seeds 0 to 4 and measured on
the test part. A seed decides which 100 sentences of each class keep their label, how the head is initialised, and the
order of the sentences; the other training sentences are unlabelled. All methods make the same number of updates.

One file is written per run. Finished runs are skipped, so the same command resumes a study that was stopped. With
--cost, the seconds of one update are measured instead, all methods in turn in each round, on one thread.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from adversarial_dropout import (
    AdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
    kl_divergence,
)
from adversarial_dropout.experiments import records

TUNING_SEEDS = (100, 101)
SEEDS = range(5)
LABELS_PER_CLASS = 100
LABELLED, UNLABELLED = 8, 16
MAX_LENGTH = 32
PAD = 0
"""Token id of the padding in BERT's vocabulary."""
EMBEDDING = "model.bert.embeddings.word_embeddings"
"""What VAT perturbs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is chosen on the validation part. p and delta belong to the dropout layer in front of the classifier."""

    learning_rate: float
    p: float = 0.1
    delta: float = 0.05
    weight: float = 0.0
    eps: float = 0.0

    def __str__(self) -> str:
        return ",".join(f"{name}={value:g}" for name, value in dataclasses.asdict(self).items())


RATES = (5e-5, 1.5e-4)
TRIALS: dict[str, list[Settings]] = {
    "plain": [Settings(learning_rate=rate, p=p) for rate in RATES for p in (0.1, 0.5)],
    "r-drop": [Settings(learning_rate=rate, weight=weight) for rate in RATES for weight in (1, 4)],
    "vadd-kl": [Settings(learning_rate=rate, p=0.5, weight=weight) for rate in RATES for weight in (1, 4)],
    "vadd-kl+vat": [Settings(learning_rate=rate, p=0.5, weight=1, eps=eps) for rate in RATES for eps in (0.5, 2)],
}


@dataclass(frozen=True)
class Sentences:
    """Token ids of shape (N, MAX_LENGTH), padded, and labels."""

    ids: Tensor
    labels: Tensor

    @classmethod
    def read(cls, file: Path, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> "Sentences":
        frame = pd.read_parquet(file).sample(frac=1, random_state=0)[:rows]
        tokens = tokenizer(
            list(frame["text"]), padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        return cls(tokens["input_ids"], torch.tensor(frame["label"].to_list()))


def trimmed(ids: Tensor) -> Tensor:
    """``ids`` without the columns that are padding in every row."""
    return ids[:, : int((ids != PAD).sum(dim=1).max())]


class Classifier(nn.Module):
    """A model of Transformers that maps token ids to logits, cut in front of its AdversarialDropout layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def under(self, ids: Tensor) -> Tensor:
        pooled: Tensor = self.model.bert(input_ids=ids, attention_mask=(ids != PAD).long()).pooler_output  # type: ignore[operator]
        return pooled

    def upper(self, h: Tensor) -> Tensor:
        logits: Tensor = self.model.classifier(self.model.dropout(h))  # type: ignore[operator]
        return logits

    def forward(self, ids: Tensor) -> Tensor:
        return self.upper(self.under(ids))


class Loss:
    """The loss of one update, by the name of the method."""

    def __init__(self, method: str, settings: Settings) -> None:
        self.method = method
        self.weight = settings.weight
        self.vadd = VirtualAdversarialDropout(divergence="kl", noise="shared")
        self.vat = VirtualAdversarialTraining(eps=settings.eps, embedding=EMBEDDING) if settings.eps else None

    def __call__(self, model: Classifier, ids: Tensor, labels: Tensor, unlabelled: Tensor) -> Tensor:
        if self.method == "r-drop":
            # Two passes over all rows: cross-entropy of both, and their symmetric KL divergence.
            first, second = model(ids), model(ids)
            loss = (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)) / 2
            others = model(unlabelled), model(unlabelled)
            first, second = torch.cat([first, others[0]]), torch.cat([second, others[1]])
            both = kl_divergence(first, second) + kl_divergence(second, first)
            return loss + self.weight * both.mean() / 2
        loss = F.cross_entropy(model(ids), labels)
        if self.method.startswith("vadd"):
            loss = loss + self.weight * self.vadd(model, unlabelled)
        if self.vat is not None:
            loss = loss + self.vat(model, unlabelled)
        return loss


@dataclass(frozen=True)
class Study:
    """The pretrained model without its dropout layer, the data, and the number of updates."""

    pretrained: nn.Module
    parts: dict[str, Sentences]
    updates: int

    def model(self, settings: Settings) -> Classifier:
        """The pretrained encoder with a new head."""
        model = copy.deepcopy(self.pretrained)
        model.dropout = AdversarialDropout(settings.p, settings.delta)
        nn.init.normal_(model.classifier.weight, std=0.02)  # type: ignore[arg-type,union-attr]
        nn.init.zeros_(model.classifier.bias)  # type: ignore[arg-type,union-attr]
        return Classifier(model).train()

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Token ids, labels and unlabelled token ids of each update, endlessly."""
        train = self.parts["train"]
        order = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(train.labels), generator=order)
        of_classes = [shuffled[train.labels[shuffled] == label] for label in (0, 1)]
        labelled = torch.cat([rows[:LABELS_PER_CLASS] for rows in of_classes])
        unlabelled = torch.cat([rows[LABELS_PER_CLASS:] for rows in of_classes])

        def endless(rows: Tensor, size: int) -> Iterator[Tensor]:
            while True:
                yield from rows[torch.randperm(len(rows), generator=order)].split(size)  # type: ignore[no-untyped-call]

        for some, others in zip(endless(labelled, LABELLED), endless(unlabelled, UNLABELLED), strict=False):
            yield trimmed(train.ids[some]), train.labels[some], trimmed(train.ids[others])

    def trainer(self, method: str, settings: Settings, seed: int) -> Iterator[Classifier]:
        """Make one update per step."""
        torch.manual_seed(seed)
        model, loss_of = self.model(settings), Loss(method, settings)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
        warm_up = max(1, self.updates // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm_up, (self.updates - step) / (self.updates - warm_up))
        )
        for ids, labels, unlabelled in self.batches(seed):
            loss = loss_of(model, ids, labels, unlabelled)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            yield model

    def accuracy(self, model: Classifier, part: str) -> float:
        """Share of the sentences of a part that the model classifies right."""
        model.eval()
        sentences = self.parts[part]
        with torch.inference_mode():
            found = torch.cat([model(trimmed(ids)).argmax(dim=1) for ids in sentences.ids.split(64)])  # type: ignore[no-untyped-call]
        return float((found == sentences.labels).double().mean())

    def run(self, method: str, settings: Settings, seed: int, part: str, folder: Path) -> float:
        """Train once, measure on ``part`` and write the record; read the record if there is one."""
        path = folder / part / method / str(settings) / f"seed-{seed}.json"
        if path.exists():
            return float(records.read_json(path)["accuracy"])
        start, processor = time.perf_counter(), time.process_time()
        *_, model = itertools.islice(self.trainer(method, settings, seed), self.updates)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        accuracy = self.accuracy(model, part)
        content = {
            "method": method,
            "settings": dataclasses.asdict(settings),
            "seed": seed,
            "evaluated_on": part,
            "sentences": len(self.parts[part].labels),
            "accuracy": accuracy,
            "seconds": seconds,
            "processor_seconds": processor,
            **self.what(),
        }
        records.write_measured(path, content)
        print(f"{part} {method} {settings} seed {seed}: {accuracy:.4f}, {seconds:.0f} s", flush=True)
        return accuracy

    def what(self) -> dict[str, object]:
        return {
            "updates": self.updates,
            "labels": 2 * LABELS_PER_CLASS,
            "labelled_rows": LABELLED,
            "unlabelled_rows": UNLABELLED,
            "max_length": MAX_LENGTH,
            "threads": torch.get_num_threads(),
            "model": f"{type(self.pretrained).__name__} of {sum(p.numel() for p in self.pretrained.parameters())} "
            f"parameters, {self.pretrained.config.num_hidden_layers} layers",  # type: ignore[union-attr]
            "transformers": version("transformers"),
        }

    def chosen(self, method: str, folder: Path) -> Settings:
        """The setting with the highest mean accuracy on the validation part; the first of several equal ones."""
        return max(
            TRIALS[method],
            key=lambda trial: statistics.fmean(
                self.run(method, trial, seed, "validation", folder) for seed in TUNING_SEEDS
            ),
        )

    def cost(self, rounds: int, folder: Path) -> None:
        """Write the seconds of one update of each method, one of each in every round, after three for warming up."""
        trainers = {name: self.trainer(name, self.chosen(name, folder), seed=0) for name in TRIALS}
        seconds: dict[str, list[float]] = {name: [] for name in TRIALS}
        for _ in range(3 + rounds):
            for name, trainer in trainers.items():
                start = time.perf_counter()
                next(trainer)
                seconds[name].append(time.perf_counter() - start)
        timed = {name: values[3:] for name, values in seconds.items()}
        records.write_measured(folder / "cost.json", {"seconds": timed, **self.what()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a BERT")
    parser.add_argument("--data", type=Path, required=True, help="folder with train, validation and test")
    parser.add_argument("--out", type=Path, default=Path("results/finetuning"))
    parser.add_argument("--updates", type=int, default=80)
    parser.add_argument("--rows", type=int, help="rows of each part to use; all by default")
    parser.add_argument(
        "--cost", type=int, metavar="ROUNDS", help="measure the seconds of one update, in so many rounds"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    pretrained = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2)
    parts = {}
    for part in ("train", "validation", "test"):
        (file,) = arguments.data.rglob(f"{part}-*.parquet")
        parts[part] = Sentences.read(file, tokenizer, arguments.rows)
    study = Study(pretrained, parts, arguments.updates)
    if arguments.cost is not None:
        study.cost(arguments.cost, arguments.out)
        return
    best = {method: study.chosen(method, arguments.out) for method in TRIALS}
    for seed, (method, settings) in itertools.product(SEEDS, best.items()):
        study.run(method, settings, seed, "test", arguments.out)


if __name__ == "__main__":
    main()

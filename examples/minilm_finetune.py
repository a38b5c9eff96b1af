"""A pretrained encoder, fine-tuned with transformers.Trainer and the mixin, with 200 labelled sentences.

    python examples/minilm_finetune.py --model sentence-transformers/all-MiniLM-L6-v2 --data FOLDER

The model is a hub id or a folder of a BERT; HF_HUB_OFFLINE=1 keeps to what is on disk. The data folder holds
train-*.parquet and test-*.parquet with the columns text and label, such as Rotten Tomatoes. Beside an ordinary
fine-tuning there are the layer, the mixin in front of Trainer, and the arguments that name the regulariser, its weight
and the unlabelled rows.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.integrations.transformers import AdversarialDropoutMixin


class RegularizedTrainer(AdversarialDropoutMixin, Trainer):
    """Trainer with the terms of regularisers in its training loss."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder or hub id of a BERT")
    parser.add_argument("--data", type=Path, required=True, help="folder with train-*.parquet and test-*.parquet")
    parser.add_argument("--labels", type=int, default=200, help="number of labelled sentences")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1.5e-4)
    arguments = parser.parse_args()

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def read(part: str) -> Dataset:
        """Tokens and labels of the sentences, in random order."""
        (file,) = arguments.data.rglob(f"{part}-*.parquet")
        rows = pd.read_parquet(file).sample(frac=1, random_state=0)
        tokens = tokenizer(rows["text"].to_list(), truncation=True, max_length=32)
        return Dataset.from_dict({**tokens, "labels": rows["label"].to_list()})

    train, test = read("train"), read("test")

    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2)
    model.dropout = AdversarialDropout(p=0.5, delta=0.05)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RegularizedTrainer(
            model,
            TrainingArguments(
                folder,
                max_steps=arguments.updates,
                per_device_train_batch_size=8,
                learning_rate=arguments.learning_rate,
                warmup_steps=arguments.updates // 10,
                logging_steps=arguments.updates // 4,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=train.select(range(arguments.labels)),
            processing_class=tokenizer,
            regularizer=VirtualAdversarialDropout(divergence="kl", noise="shared"),
            weight=1.0,
            unlabelled_dataset=train.select(range(arguments.labels, len(train))),
            unlabelled_batch_size=16,
        )
        trainer.train()
        predicted = trainer.predict(test)

    accuracy = (np.argmax(predicted.predictions, axis=1) == predicted.label_ids).mean()
    print(f"accuracy {accuracy:.3f} on {len(test)} test sentences")


if __name__ == "__main__":
    main()

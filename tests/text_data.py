"""Sentences and a tiny BERT for the tests of examples and studies."""

import random
from pathlib import Path

import pandas as pd
import pytest
import torch

ADJECTIVES = (("dull", "stale", "clumsy", "empty"), ("warm", "clever", "moving", "sharp"))
NOUNS = ("plot", "cast", "script", "ending")


def parquet_files(folder: Path, **rows: int) -> Path:
    """Write sentences of parts such as ``train=400``, sorted by label, laid out as on the hub."""
    for part, count in rows.items():
        draw = random.Random(part)
        labels = sorted(draw.randrange(2) for _ in range(count))
        texts = [
            " and ".join(f"a {draw.choice(ADJECTIVES[label])} {draw.choice(NOUNS)}" for _ in range(draw.randint(1, 4)))
            for label in labels
        ]
        (folder / "default").mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame({"text": texts, "label": labels})
        frame.to_parquet(folder / "default" / f"{part}-00000-of-00001.parquet")
    return folder


def tiny_bert(folder: Path) -> Path:
    """Write a small random BERT that knows the words of those sentences, with its tokenizer."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "and", *NOUNS, *ADJECTIVES[0], *ADJECTIVES[1]]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder

"""A GRU from scratch on sentences, some of them labelled, with masks over features.

    python examples/gru_sentences.py                       # a few hundred made-up sentences
    python examples/gru_sentences.py --data FOLDER         # Rotten Tomatoes: train-*.parquet and test-*.parquet with
                                                           # the columns text and label

Beside the import, adversarial dropout is the three lines marked 1, 2 and 3. The search flips a feature in all time
steps at once: granularity="feature". Padding changes nothing: the GRU does not read it, and the mean leaves it out.
"""

import argparse
import random
from collections import Counter
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout

PADDING, UNKNOWN = 0, 1


class SentenceClassifier(nn.Module):
    def __init__(self, words: int, features: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, features, padding_idx=PADDING)
        self.gru = nn.GRU(features, features, batch_first=True, bidirectional=True)
        self.dropout: nn.Module = nn.Dropout(0.5)
        self.classifier = nn.Linear(2 * features, 2)

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids != PADDING).sum(dim=1)
        packed = pack_padded_sequence(self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=ids.shape[1])
        h = self.dropout(h)
        logits: Tensor = self.classifier(h.sum(dim=1) / lengths.unsqueeze(1))  # h is 0 where there is padding.
        return logits


def made_up(count: int, seed: int) -> pd.DataFrame:
    """Sentences whose adjectives decide the label."""
    draw = random.Random(seed)
    adjectives = (["dull", "stale", "clumsy", "empty", "flat"], ["warm", "clever", "moving", "sharp", "funny"])
    nouns = ["plot", "cast", "script", "ending", "music", "camera"]
    labels = [draw.randrange(2) for _ in range(count)]
    texts = [
        " and ".join(f"a {draw.choice(adjectives[label])} {draw.choice(nouns)}" for _ in range(draw.randint(1, 4)))
        for label in labels
    ]
    return pd.DataFrame({"text": texts, "label": labels})


def read(folder: Path | None, part: str) -> pd.DataFrame:
    if folder is None:
        return made_up(600 if part == "train" else 200, seed=len(part))
    (file,) = folder.rglob(f"{part}-*.parquet")
    return pd.read_parquet(file).sample(frac=1, random_state=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder with train-*.parquet and test-*.parquet")
    parser.add_argument("--labels", type=int, default=2000, help="number of labelled sentences")
    parser.add_argument("--updates", type=int, default=200)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    train, test = read(arguments.data, "train"), read(arguments.data, "test")
    counts = Counter(word for text in train["text"] for word in text.split())
    vocabulary = {word: 2 + i for i, (word, count) in enumerate(counts.items()) if count > 1}

    def ids(texts: pd.Series) -> Tensor:
        sentences = [torch.tensor([vocabulary.get(word, UNKNOWN) for word in text.split()]) for text in texts]
        return pad_sequence(sentences, batch_first=True, padding_value=PADDING)

    x_train, y_train = ids(train["text"]), torch.tensor(train["label"].to_list())
    x_test, y_test = ids(test["text"]), torch.tensor(test["label"].to_list())
    x_labelled, y_labelled = x_train[: arguments.labels], y_train[: arguments.labels]

    model = SentenceClassifier(2 + len(counts))
    model.dropout = AdversarialDropout(p=0.5, delta=0.03, granularity="feature")  # 1
    vadd = VirtualAdversarialDropout(divergence="kl", noise="shared")  # 2
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for _ in range(arguments.updates):
        rows = torch.randint(len(x_labelled), (32,))
        x_unlabelled = x_train[torch.randint(len(x_train), (64,))]
        loss = F.cross_entropy(model(x_labelled[rows]), y_labelled[rows])
        loss = loss + vadd(model, x_unlabelled)  # 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    with torch.inference_mode():
        accuracy = (model(x_test).argmax(dim=1) == y_test).double().mean().item()
    print(f"accuracy {accuracy:.3f} on {len(y_test)} test sentences")


if __name__ == "__main__":
    main()

"""A Transformer from scratch on sentences, some of them labelled.

    python examples/transformer_sentences.py               # a few hundred made-up sentences
    python examples/transformer_sentences.py --data FOLDER # Rotten Tomatoes: train-*.parquet and test-*.parquet with
                                                           # the columns text and label

Beside the import, adversarial dropout is the three lines marked 1, 2 and 3. Padding changes nothing: attention does not
look at it, and the mean leaves it out.
"""

import argparse
import random
from collections import Counter
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout

PADDING, UNKNOWN = 0, 1


class SentenceClassifier(nn.Module):
    def __init__(self, words: int, longest: int, features: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, features, padding_idx=PADDING)
        self.position = nn.Parameter(0.02 * torch.randn(longest, features))
        layer = nn.TransformerEncoderLayer(features, 4, 2 * features, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.dropout: nn.Module = nn.Dropout(0.5)
        self.classifier = nn.Linear(features, 2)

    def forward(self, ids: Tensor) -> Tensor:
        is_word = ids != PADDING
        h = self.embedding(ids) + self.position[: ids.shape[1]]
        h = self.encoder(h, src_key_padding_mask=~is_word) * is_word.unsqueeze(2)
        mean = h.sum(dim=1) / is_word.sum(dim=1, keepdim=True)
        logits: Tensor = self.classifier(self.dropout(mean))
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

    model = SentenceClassifier(2 + len(counts), longest=max(x_train.shape[1], x_test.shape[1]))
    model.dropout = AdversarialDropout(p=0.5, delta=0.05)  # 1
    vadd = VirtualAdversarialDropout(divergence="kl", noise="shared")  # 2
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

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

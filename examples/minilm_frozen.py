"""A frozen pretrained encoder, and a small head with adversarial dropout on its embeddings of sentences.

    python examples/minilm_frozen.py --model sentence-transformers/all-MiniLM-L6-v2 --data FOLDER

The model is a hub id or a folder; HF_HUB_OFFLINE=1 keeps to what is on disk. The data folder holds train-*.parquet and
test-*.parquet with the columns text and label, such as Rotten Tomatoes. Beside the import, adversarial dropout is the
three lines marked 1, 2 and 3.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout


def read(folder: Path, part: str) -> pd.DataFrame:
    (file,) = folder.rglob(f"{part}-*.parquet")
    return pd.read_parquet(file).sample(frac=1, random_state=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder or hub id of an encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with train-*.parquet and test-*.parquet")
    parser.add_argument("--labels", type=int, default=200, help="number of labelled sentences")
    parser.add_argument("--sentences", type=int, default=2000, help="training sentences with and without label")
    parser.add_argument("--updates", type=int, default=500)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    encoder = AutoModel.from_pretrained(arguments.model).eval()

    def embed(texts: list[str]) -> Tensor:
        """The mean of the last hidden states over the tokens, scaled to length 1, as all-MiniLM is used."""
        rows = []
        for start in range(0, len(texts), 16):
            batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                h = encoder(**batch).last_hidden_state
            is_token = batch["attention_mask"].unsqueeze(2)
            rows.append(F.normalize((h * is_token).sum(dim=1) / is_token.sum(dim=1)))
        return torch.cat(rows)

    train, test = read(arguments.data, "train")[: arguments.sentences], read(arguments.data, "test")
    x_train, x_test = embed(train["text"].to_list()), embed(test["text"].to_list())
    y_train, y_test = torch.tensor(train["label"].to_list()), torch.tensor(test["label"].to_list())
    x_labelled, y_labelled = x_train[: arguments.labels], y_train[: arguments.labels]

    model = nn.Sequential(
        nn.Linear(x_train.shape[1], 256),
        nn.ReLU(),
        AdversarialDropout(p=0.5, delta=0.025),  # 1
        nn.Linear(256, 2),
    )
    vadd = VirtualAdversarialDropout(divergence="kl")  # 2
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for _ in range(arguments.updates):
        rows = torch.randint(len(x_labelled), (32,))
        x_unlabelled = x_train[torch.randint(len(x_train), (128,))]
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

"""A residual CNN as a plain nn.Module, with masks over channels: digits, 100 of them labelled.

    python examples/resnet_channels.py                     # scikit-learn's 8 x 8 digits
    python examples/resnet_channels.py --data FOLDER       # MNIST: parquet files with the columns image and label

Beside the import, adversarial dropout is the three lines marked 1, 2 and 3. The search flips whole feature maps,
because neighbouring activations of a map say almost the same: granularity="channel".
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])

    def forward(self, h: Tensor) -> Tensor:
        inner = self.second(F.relu(self.norms[0](self.first(h))))
        return F.relu(self.norms[1](inner) + self.shortcut(h))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(1, 16, 1), Block(16, 32, 2))
        self.top = Block(32, 64, 1)
        self.dropout: nn.Module = nn.Dropout2d(0.3)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        h = self.dropout(self.top(self.blocks(images)))
        logits: Tensor = self.classifier(h.mean(dim=(2, 3)))
        return logits


def read(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (N, 1, height, width) between 0 and 1, and labels."""
    if folder is None:
        digits = load_digits()
        return digits.images[:, None].astype("float32") / 16, digits.target
    frame = pd.concat([pd.read_parquet(file) for file in sorted(folder.rglob("train-*.parquet"))])
    frame = frame.sample(min(10_000, len(frame)), random_state=0)
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"])), dtype="float32") for image in frame["image"]]
    return np.stack(images)[:, None] / 255, frame["label"].to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder with parquet files of MNIST")
    parser.add_argument("--updates", type=int, default=300)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images, labels = read(arguments.data)
    split = train_test_split(images, labels, test_size=500, random_state=0, stratify=labels)
    x_train, x_test, y_train, y_test = (torch.as_tensor(part) for part in split)
    x_labelled, y_labelled = x_train[:100], y_train[:100]

    model = ResNet()
    model.dropout = AdversarialDropout(p=0.3, delta=0.05, granularity="channel")  # 1
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
    print(f"accuracy {accuracy:.3f} on {len(y_test)} test images")


if __name__ == "__main__":
    main()

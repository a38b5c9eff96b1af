"""Accelerate: a loop of your own, in one process or several.

Digits of scikit-learn, 8 × 8, 100 of them with a label. Run it with

    pip install . accelerate scikit-learn
    python examples/accelerate_loop.py
    torchrun --nproc-per-node 2 examples/accelerate_loop.py
"""

import argparse
from itertools import cycle

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels for training and for the test."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=500, stratify=y, random_state=0)
    images, test_images = (torch.tensor(part, dtype=torch.float32) for part in (x_train, x_test))
    return images, torch.tensor(y_train), test_images, torch.tensor(y_test)


def train(accelerator: Accelerator, images: Tensor, labels: Tensor, *, epochs: int, weight: float) -> nn.Module:
    """A classifier that agrees with itself on the unlabelled images."""
    model: nn.Module = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        AdversarialDropout(p=0.5, delta=0.05),  # 1
        nn.Linear(256, 10),
    )
    vadd = VirtualAdversarialDropout(divergence="kl")  # 2
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    size = 50 // accelerator.num_processes
    labelled = DataLoader(TensorDataset(images[:100], labels[:100]), batch_size=size, shuffle=True)
    unlabelled = DataLoader(TensorDataset(images), batch_size=size, shuffle=True, drop_last=True)
    model, optimizer, labelled, unlabelled = accelerator.prepare(model, optimizer, labelled, unlabelled)
    set_seed(1, device_specific=True)  # Each process draws noise of its own.

    step, steps = 0, epochs * len(unlabelled)
    for _ in range(epochs):
        for (x, y), (x_unlabelled,) in zip(cycle(labelled), unlabelled, strict=False):
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)  # Through the wrapper: the processes exchange their gradients.
                with accelerator.autocast():
                    term = vadd(accelerator.unwrap_model(model), x_unlabelled)  # 3
                accelerator.backward(loss + weight * min(1.0, 3 * step / steps) * term)  # One backward pass for both.
                optimizer.step()
                optimizer.zero_grad()
            step += 1
    return accelerator.unwrap_model(model)


def main() -> None:
    """Train, and print the accuracy on images that were left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--weight", type=float, default=1.0, help="0 trains without adversarial dropout")
    arguments = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # Otherwise torchrun needs a GPU per process.
    set_seed(0)
    images, labels, test_images, test_labels = digits()
    model = train(accelerator, images, labels, epochs=arguments.epochs, weight=arguments.weight).eval()
    with torch.no_grad():
        predicted = model(test_images.to(accelerator.device)).argmax(dim=1).cpu()
    accuracy = (predicted == test_labels).double().mean().item()
    accelerator.print(f"processes {accelerator.num_processes}, accuracy {accuracy:.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()

"""Lightning: three lines in a LightningModule, with labelled and unlabelled batches side by side.

Digits of scikit-learn, 8 × 8, 100 of them with a label. Run it with

    pip install '.[lightning]' scikit-learn
    python examples/lightning_module.py
"""

import argparse

import lightning
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout


class Digits(lightning.LightningModule):
    """A classifier that agrees with itself on the unlabelled images."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.model = nn.Sequential(
            nn.Linear(64, 256),
            nn.ReLU(),
            AdversarialDropout(p=0.5, delta=0.05),  # 1
            nn.Linear(256, 10),
        )
        self.vadd = VirtualAdversarialDropout(divergence="kl")  # 2

    def training_step(self, batch: dict[str, list[Tensor]], index: int) -> Tensor:
        (x, y), (x_unlabelled,) = batch["labelled"], batch["unlabelled"]
        loss = F.cross_entropy(self.model(x), y)
        term = self.vadd(self.model, x_unlabelled)  # 3
        self.log_dict({"cross_entropy": loss, "vadd": term})
        ramp = min(1.0, 3 * self.global_step / self.trainer.estimated_stepping_batches)
        return loss + self.weight * ramp * term

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(dim=1) == y).float().mean(), on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def loaders(batch_size: int) -> tuple[CombinedLoader, DataLoader[tuple[Tensor, ...]]]:
    """Batches for training, labelled and unlabelled, and batches for validation."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=500, stratify=y, random_state=0)
    images, labels = torch.tensor(x_train, dtype=torch.float32), torch.tensor(y_train)
    labelled = TensorDataset(images[:100], labels[:100])
    test = TensorDataset(torch.tensor(x_test, dtype=torch.float32), torch.tensor(y_test))
    train = {
        "labelled": DataLoader(labelled, batch_size=batch_size, shuffle=True, drop_last=True),
        "unlabelled": DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True, drop_last=True),
    }
    return CombinedLoader(train, "max_size_cycle"), DataLoader(test, batch_size=500)


def main() -> None:
    """Train, and print the accuracy on images that were left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--weight", type=float, default=1.0, help="0 trains without adversarial dropout")
    arguments = parser.parse_args()
    lightning.seed_everything(0)
    train, test = loaders(batch_size=50)
    trainer = lightning.Trainer(max_epochs=arguments.epochs, logger=False, enable_checkpointing=False)
    module = Digits(arguments.weight)
    trainer.fit(module, train)
    trainer.validate(module, test)


if __name__ == "__main__":
    main()

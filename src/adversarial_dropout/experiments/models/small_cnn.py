"""A small network for images of 8 × 8 pixels."""

from torch import Tensor, nn

from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.layers import AdversarialDropout


class SmallCNN(nn.Module):
    """Three 3 × 3 convolutions with ReLU, two poolings, and adversarial dropout on the 256 units before the output.

    Args:
        noise: The layer that the input goes through first.
        dropout: The layer between the last pooling and the linear output.
        classes: Number of classes.

    Shapes:
        Input (N, 1, 8, 8) in [0, 1]; output logits (N, classes).
    """

    def __init__(self, noise: GaussianNoise, dropout: AdversarialDropout, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            noise,
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.dropout = dropout
        self.output = nn.Linear(256, classes)

    def under(self, x: Tensor) -> Tensor:
        """Features that the dropout layer sees, shape (N, 256)."""
        features: Tensor = self.features(x)
        return features

    def upper(self, h: Tensor) -> Tensor:
        """Logits from the features, through the dropout layer."""
        logits: Tensor = self.output(self.dropout(h))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.under(x))

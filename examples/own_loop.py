"""A training loop of your own: scikit-learn's digits, 100 of them labelled.

    python examples/own_loop.py

Beside the import, adversarial dropout is the three lines marked 1, 2 and 3. Without them this is the plain loop.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = (
    torch.as_tensor(part)
    for part in train_test_split(images.astype("float32") / 16, labels, test_size=500, random_state=0, stratify=labels)
)
labelled = 100

model = nn.Sequential(
    nn.Linear(64, 256),
    nn.ReLU(),
    AdversarialDropout(p=0.5, delta=0.025),  # 1
    nn.Linear(256, 10),
)
vadd = VirtualAdversarialDropout(divergence="kl")  # 2
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for _ in range(300):
    rows = torch.randint(labelled, (32,))
    x, y = x_train[rows], y_train[rows]
    x_unlabelled = x_train[torch.randint(len(x_train), (128,))]

    loss = F.cross_entropy(model(x), y)
    loss = loss + vadd(model, x_unlabelled)  # 3
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

model.eval()
with torch.inference_mode():
    accuracy = (model(x_test).argmax(dim=1) == y_test).double().mean().item()
print(f"accuracy {accuracy:.3f} on {len(y_test)} test images")

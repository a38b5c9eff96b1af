"""What the paper's Discussion says of the penalties of eqs. 13 and 16, in numbers.

The penalties are the second and the third term of eq. 13 (adversarial training) and of eq. 16 (adversarial dropout),
for each example. Source: Park et al., AAAI 2018.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from adversarial_dropout.experiments.studies.theory.theory import dropout_masks, input_gradients, sign_perturbation

TERMS = ("eq. 13, second", "eq. 13, third", "eq. 16, second", "eq. 16, third")
"""The four penalties: of adversarial training, then of adversarial dropout."""


def penalties(w: Tensor, x: Tensor, y: Tensor, *, delta: float, k: int) -> Tensor:
    """The four penalties of each example, shape (4, N), in the order of :data:`TERMS`; arguments as in ``theory``.

    Where r_i is not 0 they are 2 δ abs(r_i) ‖w‖₁ and δ² ‖w‖₁², without any feature, and 2 abs(r_i) Σ abs(x_ij w_j) and
    (Σ x_ij w_j)² over the dropped features. Their sums over the examples are the terms of eqs. 13 and 16.
    """
    gradients = input_gradients(w, x, y)
    dropped = (1 - dropout_masks(w, x, y, k=k)) * x
    return torch.stack(
        [
            (delta * gradients).abs().sum(dim=1),
            (sign_perturbation(w, x, y, delta=delta) @ w).square(),
            (dropped * gradients).abs().sum(dim=1),
            (dropped @ w).square(),
        ]
    )


def rescalings(w: Tensor, x: Tensor, y: Tensor, *, delta: float, k: int, factor: float) -> list[dict[str, Any]]:
    """What multiplying a data point, a feature or δ by ``factor``, or a larger k, does to the four penalties.

    w is the same before and after, so the penalties of a data point do not depend on the others, and all data points
    are scaled at once.

    Returns, for each ``change``: the ``lowest`` and the ``highest`` factor by which each of :data:`TERMS` changes, over
    the examples where it was not 0.
    """
    before = penalties(w, x, y, delta=delta, k=k)
    scaled, fitted = factor * x, x @ w
    with_other_unit = []
    for feature in range(x.shape[1]):
        other_x, other_w = x.clone(), w.clone()
        other_x[:, feature] *= factor
        other_w[feature] /= factor
        with_other_unit.append(penalties(other_w, other_x, y, delta=delta, k=k))
    c = f"{factor:g}"
    more = min(k + 1, x.shape[1])
    after = {
        f"features of a data point × {c}, its residual unchanged": [
            penalties(w, scaled, scaled @ w + (y - fitted), delta=delta, k=k)
        ],
        f"features of a data point × {c}, its target unchanged": [penalties(w, scaled, y, delta=delta, k=k)],
        f"features and target of a data point × {c}": [penalties(w, scaled, factor * y, delta=delta, k=k)],
        f"one feature of all data points × {c}, its coefficient / {c}": with_other_unit,
        f"δ × {c}": [penalties(w, x, y, delta=factor * delta, k=k)],
        f"k = {more} for k = {k}": [penalties(w, x, y, delta=delta, k=more)],
    }
    rows = []
    for change, changed in after.items():
        factors = [
            torch.cat([penalty[was > 0] / was[was > 0] for penalty in of_term])
            for was, *of_term in zip(before, *changed, strict=True)
        ]
        lowest, highest = [float(term.min()) for term in factors], [float(term.max()) for term in factors]
        rows.append({"change": change, "lowest": lowest, "highest": highest})
    return rows


def activity(w: Tensor, x: Tensor, y: Tensor, *, flips: Sequence[int]) -> dict[str, Any]:
    """Share of the pairs (i, j) with a penalty: x_ij is moved by δ against the gradient, or is dropped and contributes.

    Returns the share in eq. 13 (``training``), and the share in eq. 16 (``dropout``) for each k of ``flips``.
    """
    gradients = input_gradients(w, x, y)
    dropped = [(1 - dropout_masks(w, x, y, k=k)) * x * gradients != 0 for k in flips]
    return {
        "training": float((gradients != 0).double().mean()),
        "flips": list(flips),
        "dropout": [float(pairs.double().mean()) for pairs in dropped],
    }


def dropped_beyond_k(problems: Iterable[tuple[Tensor, Tensor, Tensor, int]]) -> dict[str, int]:
    """Count the examples of which more than k features are dropped, as printed in eq. 14 and by the library.

    ``problems`` are w, x, y and k of each. Those with k = 0 are left out, because eq. 14 has no s_i0 there.

    Returns the number of ``examples``; of those, how many lose more than k features by the printed rule (``printed``)
    and by the library's (``ours``), and more than k² by the printed rule (``printed_squared``), which a literal
    ‖ε_i − εˢ‖₂ ≤ k would allow; the largest number by which the printed rule exceeds k (``most``).
    """
    counts = [torch.zeros(0, 3, dtype=torch.long)]
    for w, x, y, k in problems:
        if k:
            printed, ours = ((dropout_masks(w, x, y, k=k, printed=p) == 0).sum(dim=1) for p in (True, False))
            counts.append(torch.stack([printed - k, printed - k * k, ours - k], dim=1))
    beyond = torch.cat(counts)
    printed, printed_squared, ours = (beyond > 0).sum(dim=0).tolist()
    return {
        "examples": len(beyond),
        "printed": printed,
        "printed_squared": printed_squared,
        "most": max([0, *beyond[:, 0].tolist()]),
        "ours": ours,
    }

"""The numbers of the page on the theory: equations, penalties, coefficient paths, distances of masks."""

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_diabetes

from adversarial_dropout.errors import check_at_least
from adversarial_dropout.experiments.studies.theory.distances import proportions
from adversarial_dropout.experiments.studies.theory.equations import equations, overshoot, random_problems
from adversarial_dropout.experiments.studies.theory.paths import (
    DROPOUT,
    TRAINING,
    coefficient_path,
    fit,
    least_delta_of_zero,
)
from adversarial_dropout.experiments.studies.theory.penalties import activity, dropped_beyond_k, rescalings

_FACTOR = 10.0
_LEVELS = 25  # Of δ above 0.
_FEW, _MANY = 1, 5
_SPARSE = 0.0125  # A δ at which adversarial training makes some of the coefficients 0.


def measure(*, problems: int, seed: int, deltas: Sequence[float], flips: Sequence[int]) -> dict[str, Any]:
    """Compute everything that the page shows, as the content of theory.json.

    The data are scikit-learn's diabetes data: 442 examples, 10 features, centred and scaled to unit norm; the target is
    centred here.

    Args:
        problems: Number of random problems for the equations, 1 or more.
        seed: Seed of the random problems.
        deltas: Settings of adversarial training, δ ≥ 0; if empty, from 0 to where all coefficients are 0.
        flips: Settings of adversarial dropout, k in [0, 10]; if empty, all of them.
    """
    check_at_least("problems", problems, 1)
    data = load_diabetes()
    x, y = torch.from_numpy(data.data), torch.from_numpy(data.target - data.target.mean())
    features = x.shape[1]
    fractions = torch.logspace(-2, 0, _LEVELS, dtype=torch.float64)
    paths = [
        coefficient_path(TRAINING, x, y, deltas or [0.0, *(fractions * least_delta_of_zero(x, y)).tolist()]),
        coefficient_path(DROPOUT, x, y, flips or range(features + 1)),
    ]
    fitted = {
        "least squares": fit(TRAINING, x, y, 0.0),
        f"adversarial training, δ = {_SPARSE:g}": fit(TRAINING, x, y, _SPARSE),
        f"adversarial dropout, k = {_FEW}": fit(DROPOUT, x, y, _FEW),
    }
    generator = torch.Generator().manual_seed(seed)
    shapes = ((features,), (1000, features), (1000,))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    regressions = {
        ("random", "random"): drawn,
        **{("diabetes", name): [w, x, y] for name, w in fitted.items()},
    }
    normal, whole = (
        [(w, x, y, k) for w, x, y, _, k in random_problems(problems, seed, whole=whole)] for whole in (False, True)
    )
    return {
        "seed": seed,
        "problems": problems,
        "factor": _FACTOR,
        "deviations": equations(problems=problems, seed=seed),
        "rescalings": rescalings(fitted["least squares"], x, y, delta=_SPARSE, k=_FEW, factor=_FACTOR),
        "activities": [
            {"data": name, "coefficients": coefficients, **activity(*regression, flips=(1, 2, _MANY, features))}
            for (name, coefficients), regression in regressions.items()
        ],
        "dropped": [
            {"data": "random, normal numbers", "flips": None, **dropped_beyond_k(normal)},
            {"data": "random, whole numbers from −2 to 2", "flips": None, **dropped_beyond_k(whole)},
            *(
                {"data": f"diabetes, {name}", "flips": k, **dropped_beyond_k([(w, x, y, k)])}
                for name, w in fitted.items()
                for k in (_FEW, _MANY)
            ),
        ],
        "proportions": proportions(units=6, below=3, above=2),
        "overshoot": overshoot(problems=problems, seed=seed),
        "features": list(data.feature_names),
        "paths": paths,
    }

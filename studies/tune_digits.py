"""Choose the hyper-parameters of digits-100 on a validation split, and record all candidates.

    python studies/tune_digits.py [--out runs/tuning] [--record results/digits-100-tuning.json]

300 training examples are held out, and the test part is not used. The seeds (100 to 104) differ from those of the
reported runs (0 to 4). A candidate is a method with certain values; the errors of all seeds are recorded.
"""

import argparse
import dataclasses
from pathlib import Path

from adversarial_dropout.experiments import presets, records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.grid.grid import run_grid
from adversarial_dropout.experiments.terms import Pi, Sadd, Term, Vadd, Vat, by_kind

SEEDS = range(100, 105)
UNITS = 256

FIRST_BEST = (
    "pi qe weight=100.0",
    "vat eps=0.5 weight=1.0",
    "sadd flips=6 weight=3.0",
    "vadd kl flips=6 weight=1.0",
    "vadd qe flips=6 weight=30.0",
    "vadd qe flips=12 weight=10.0 + vat eps=0.25",
)
"""The best of each method at the learning rate 3e-3; they are tried at 6e-3 too, the best one of plain training."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    terms: tuple[Term, ...] = ()
    flips: int = 3
    learning_rate: float = 3e-3


def candidates() -> dict[str, Candidate]:
    tried = {f"plain lr={rate}": Candidate(learning_rate=rate) for rate in (1e-3, 3e-3, 6e-3)}
    for weight in (10.0, 30.0, 100.0):
        tried[f"pi qe weight={weight}"] = Candidate((Pi(divergence="qe", weight=weight),))
    for eps in (0.25, 0.5, 1.0):
        for weight in (1.0, 3.0):
            tried[f"vat eps={eps} weight={weight}"] = Candidate((Vat(eps=eps, weight=weight),))
    for flips in (3, 6, 12):
        for weight in (0.3, 1.0, 3.0):
            sadd = Sadd(divergence="ce", weight=weight)
            tried[f"sadd flips={flips} weight={weight}"] = Candidate((sadd,), flips)
            vadd = Vadd(divergence="kl", weight=weight)
            tried[f"vadd kl flips={flips} weight={weight}"] = Candidate((vadd,), flips)
        for weight in (10.0, 30.0, 100.0):
            vadd = Vadd(divergence="qe", weight=weight)
            tried[f"vadd qe flips={flips} weight={weight}"] = Candidate((vadd,), flips)
    for flips in (3, 12):
        for weight in (10.0, 30.0):
            for eps in (0.25, 0.5, 1.0):
                terms = (Vadd(divergence="qe", weight=weight), Vat(eps=eps))
                tried[f"vadd qe flips={flips} weight={weight} + vat eps={eps}"] = Candidate(terms, flips)
    for name in FIRST_BEST:
        tried[f"{name} lr=0.006"] = dataclasses.replace(tried[name], learning_rate=6e-3)
    return tried


def config(name: str, candidate: Candidate, seed: int) -> ExperimentConfig:
    base = presets.get("digits-100", "vadd-qe", "quick", seed)  # It has the settings that only some candidates use.
    return base.changed(
        preset="digits-100-tuning",
        method=name.replace(" ", "_"),
        data=dataclasses.replace(base.data, validation=300),
        model=dataclasses.replace(base.model, delta=candidate.flips / UNITS),
        training=dataclasses.replace(base.training, learning_rate=candidate.learning_rate),
        terms=by_kind(*candidate.terms),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--record", type=Path, default=Path("results/digits-100-tuning.json"))
    parser.add_argument(
        "--only", default="", help="only candidates whose name contains this; the record keeps the others"
    )
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    tried = {name: candidate for name, candidate in candidates().items() if arguments.only in name}
    cells = [config(name, candidate, seed) for name, candidate in tried.items() for seed in SEEDS]
    finished = run_grid(cells, arguments.out, jobs=arguments.jobs)
    errors = {name: [run.error for run in finished if run.config.method == name.replace(" ", "_")] for name in tried}
    content = {
        "what": "validation error in percent at the last epoch, one value per seed",
        "seeds": list(SEEDS),
        "base": config("base", Candidate(), SEEDS[0]).to_dict(),
        "errors": {**(records.read_json(arguments.record)["errors"] if arguments.only else {}), **errors},
        "environment": finished[0].final["environment"],
    }
    records.write_json(arguments.record, content)


if __name__ == "__main__":
    main()

"""Check that the loss falls in the 20 steps of the CIFAR-10 presets at scale quick.

    adversarial-dropout reproduce table2 --presets paper/cifar10-4000 paper/cifar10-all --seeds 1 --data FOLDER \\
        --methods plain at vat pi sadd vadd-kl vadd-qe vadd-kl+vat vadd-qe+vat
    python studies/cifar_steps.py --runs runs

The loss of a single step is noisy, because a step has only 4 or 12 labelled images. This script computes the
cross-entropy over all labelled images that the run has seen, without noise and with the batch statistics of these
images, under the first and under the last weights. Writes results/cifar10-steps.json.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.models.noise import GaussianNoise
from adversarial_dropout.experiments.records import Record
from adversarial_dropout.experiments.run.batches import batches
from adversarial_dropout.experiments.trained.trained import Trained
from adversarial_dropout.layers import AdversarialDropout

RESULTS = Path(__file__).resolve().parents[1] / "results"


def seen(trained: Trained, config: ExperimentConfig) -> tuple[Tensor, Tensor]:
    """The labelled images of all steps, and their labels."""
    order = torch.Generator().manual_seed(config.seed)
    data, split = trained.data(), trained.split()
    steps = [
        step
        for _ in range(config.training.epochs)
        for step in batches(data, trained.pixels, split, config.training, order, needs_unlabelled=False)
    ]
    return torch.cat([step.images for step in steps]), torch.cat([step.labels for step in steps])


def loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | GaussianNoise | AdversarialDropout):
            module.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(images), labels))


def before_and_after(record: Record) -> tuple[float, float]:
    trained, config = Trained.load(record), record.config
    images, labels = seen(trained, config)
    torch.manual_seed(config.seed)  # As training begins.
    untrained = config.model.build(trained.shape, len(trained.classes))
    return loss(untrained, images, labels), loss(trained.model, images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    finished = [run for run in records.find_records(parser.parse_args().runs) if run.config.data.name == "cifar10"]
    runs = []
    for record in finished:
        before, after = before_and_after(record)
        config = record.config
        runs.append(
            {"preset": config.preset, "method": config.method, "seed": config.seed, "before": before, "after": after}
        )
        print(config.preset, config.method, config.seed, f"{before:.3f} {after:.3f}", flush=True)
    records.write_measured(RESULTS / "cifar10-steps.json", {"runs": runs})


if __name__ == "__main__":
    main()

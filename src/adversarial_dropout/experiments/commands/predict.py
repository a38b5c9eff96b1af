"""``predict``: classes of images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import OfRun
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Predict(OfRun):
    """Print the class of each image and its probability."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    format: Literal["csv", "json"] = "csv"
    """"json" has the probabilities of all classes."""
    out: Path | None = None
    """File to write to instead of the terminal."""
    resize: bool = False
    """Resize the images to the size that the run was trained on."""

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained.evaluation import predict

        predictions, bad = predict(Trained.of(self.run_folder), self.images, resize=self.resize)
        if self.format == "csv":
            rows = [(given["image"], given["class"], f"{given['probability']:.6f}") for given in predictions]
            text = Table(("image", "class", "probability"), rows).csv()
        else:
            text = json.dumps(predictions, indent=1, ensure_ascii=False) + "\n"
        if self.out is None:
            print(text, end="")
        else:
            records.write_bytes(self.out, text.encode())
        if bad:
            raise InvalidValueError(
                f"{len(bad)} of {len(predictions) + len(bad)} images are left out:\n" + "\n".join(bad)
            )

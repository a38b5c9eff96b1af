"""``predict``: classes of images."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console

from adversarial_dropout.errors import InvalidValueError, check_at_least, check_fraction
from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.commands.options import OfRun
from adversarial_dropout.experiments.show.table import Table
from adversarial_dropout.experiments.trained.trained import Trained

if TYPE_CHECKING:
    from adversarial_dropout.experiments.trained.evaluation import Prediction


@dataclass(frozen=True, kw_only=True)
class Predict(OfRun):
    """Print the class of each image and its probability."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, folders of them, or lists in .csv files."""
    format: Literal["csv", "json"] = "csv"
    """"json" has the probabilities of all classes."""
    threshold: float = 0.0
    """Give no class to an image whose highest probability is below this: "" in CSV, null in JSON."""
    top: int | None = None
    """How many of the most probable classes to list: in CSV as class_1, probability_1, ...; if not given, none in CSV
    and all in JSON."""
    out: Path | None = None
    """File to write to instead of the terminal."""
    resize: bool = False
    """Resize the images to the size that the run was trained on."""

    def __post_init__(self) -> None:
        check_fraction("threshold", self.threshold)
        if self.top is not None:
            check_at_least("top", self.top, 1)

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained.evaluation import predict

        trained = Trained.of(self.run_folder)
        if self.top is not None and self.top > len(trained.classes):
            raise InvalidValueError(
                f"expected --top to be at most the {len(trained.classes)} classes of the run, got {self.top}"
            )
        predictions, bad = predict(trained, self.images, resize=self.resize, threshold=self.threshold)
        # With non-UTF-8 names of files, their bytes are written as they are.
        text = (self._csv(predictions) if self.format == "csv" else self._json(predictions)).encode(
            errors="surrogateescape"
        )
        if self.out is None:
            print(text.decode(errors="replace"), end="")
        else:
            records.write_bytes(self.out, text)
        if self.threshold:
            without = sum(given["class"] is None for given in predictions)
            said = f"{without} of {len(predictions)} images get no class, with probabilities below {self.threshold:g}"
            print(said, file=sys.stderr if self.out is None else None)
        if bad:
            raise InvalidValueError(
                f"{len(bad)} of {len(predictions) + len(bad)} images are left out:\n" + "\n".join(bad)
            )

    def _csv(self, predictions: Sequence["Prediction"]) -> str:
        top = self.top or 0
        header = ["image", "class", "probability"]
        header += [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "probability")]
        rows = []
        for given in predictions:
            best = list(given["probabilities"].items())[:top]
            cells = [cell for name, probability in best for cell in (name, f"{probability:.6f}")]
            rows.append((given["image"], given["class"], f"{given['probability']:.6f}", *cells))
        return Table(header, rows).csv()

    def _json(self, predictions: Sequence["Prediction"]) -> str:
        listed = [
            {**given, "probabilities": dict(list(given["probabilities"].items())[: self.top])} for given in predictions
        ]
        return json.dumps(listed, indent=1, ensure_ascii=False) + "\n"

"""``export``: a trained network for use elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.experiments.commands.options import OfRun
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Export(OfRun):
    """Write a trained network for use elsewhere: model.safetensors and config.json."""

    out: Path | None = None
    """Folder to write to; RUN/export if not given."""
    onnx: bool = False
    """Write model.onnx too, which takes stored pixels and gives probabilities (needs the extra "onnx")."""

    def run(self, console: Console) -> None:
        from adversarial_dropout.experiments.trained.export import export

        for path in export(Trained.of(self.run_folder), self.out or self.run_folder / "export", onnx=self.onnx):
            console.print(f"wrote {path}", soft_wrap=True, markup=False)

"""``export``: a trained network for use elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adversarial_dropout.experiments.commands.options import RunFolder
from adversarial_dropout.experiments.trained.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained network for use elsewhere: model.safetensors and config.json."""

    run_folder: RunFolder
    """Folder of the run."""
    out: Path | None = None
    """Folder to write to; RUN/export if not given."""
    onnx: bool = False
    """Write model.onnx too, which takes stored pixels and gives probabilities (needs the extra "onnx")."""

    def run(self, console: Console) -> None:
        """Write a network for use elsewhere."""
        from adversarial_dropout.experiments.trained.export import export as write

        folder = self.out or self.run_folder / "export"
        for path in write(Trained.of(self.run_folder), folder, onnx=self.onnx):
            console.print(f"wrote {path}", soft_wrap=True, markup=False)

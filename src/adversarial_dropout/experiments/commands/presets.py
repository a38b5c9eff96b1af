"""``presets``: what can be trained."""

from dataclasses import dataclass

from rich.console import Console

from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.show.table import Table


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List experiments and their methods."""

    def run(self, console: Console) -> None:
        rows = [
            (preset.name, ", ".join(preset.methods), ", ".join(preset.scales), preset.summary)
            for preset in presets.PRESETS.values()
        ]
        console.print(Table(("preset", "methods", "scales", "what it is"), rows))

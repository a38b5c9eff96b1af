"""``presets``: what can be trained."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table

from adversarial_dropout.experiments import presets


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List experiments and their methods."""

    def run(self, console: Console) -> None:
        """Print what can be trained."""
        table = Table(Column("preset", no_wrap=True), "methods", "scales", "what it is")
        for preset in presets.PRESETS.values():
            table.add_row(preset.name, ", ".join(preset.methods), ", ".join(preset.scales), preset.summary)
        console.print(table)

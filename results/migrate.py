"""Bring the records under a folder to the layout of configs with a class for each term and network; run once.

    python results/migrate.py [FOLDER]

Nothing but the form changes: a config is read as the program reads an earlier one, and written as it writes one now.
The column "vadd" of an autoencoder's metrics is called "add", as its term is. Records of today's layout stay as they
are.
"""

import json
import sys
from pathlib import Path

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig


def migrate(folder: Path) -> int:
    """Rewrite the records below ``folder``; return how many had to be."""
    changed = 0
    for path in sorted(folder.rglob(records.CONFIG)):
        plain = json.loads(path.read_text())
        if not isinstance(plain.get("terms"), list):
            continue
        config = ExperimentConfig.from_dict(plain)
        if "add" in config.terms:
            _rename_column(path.parent)
        records.write_json(path, config.to_dict())
        changed += 1
    return changed


def _rename_column(folder: Path) -> None:
    metrics = folder / records.METRICS
    header, rest = metrics.read_text().split("\n", 1)
    names = ["add" if name == "vadd" else name for name in header.split(",")]
    metrics.write_text("\n".join([",".join(names), rest]))
    final = records.read_json(folder / records.FINAL)
    final["metrics"] = {"add" if name == "vadd" else name: value for name, value in final["metrics"].items()}
    records.write_json(folder / records.FINAL, final)


if __name__ == "__main__":
    print(migrate(Path(sys.argv[1] if len(sys.argv) > 1 else "results")))

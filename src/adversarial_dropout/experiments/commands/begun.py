"""Checks, before anything is trained, the runs that earlier commands have begun in a folder."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.config import ExperimentConfig


def refuse_other_settings(
    out: Path, configs: Sequence[ExperimentConfig], shown: Sequence[str] = (), *, overridden: bool = False
) -> None:
    """Check, before anything is trained, that the runs begun below ``out`` are those that are asked for, and that the
    finished runs of the presets ``shown`` are what their presets say.

    With ``overridden`` settings, the error does not say that they are those of presets.
    """
    from adversarial_dropout.experiments.results.paper_tables import check_settings
    from adversarial_dropout.experiments.run import checkpoint

    asked = {records.run_folder(out, config): config for config in configs}
    begun = []
    for folder in sorted({out / preset / configs[0].scale for preset in (*shown, *(run.preset for run in configs))}):
        for path in sorted(folder.glob(f"*/*/{records.CONFIG}")):
            run, finished = path.parent, records.is_finished(path.parent)
            if not finished and not checkpoint.exists(run):
                continue
            with contextlib.suppress(records.RecordError):  # The grid reports it with the cell, and trains the others.
                config = records.read_json(path)
                held_out = config.get("data", {}).get("validation")  # Errors on held-out images are in no table.
                if run in asked or (shown and finished and not held_out):
                    begun.append((run, config))
    check_settings(begun, asked, overridden=overridden)

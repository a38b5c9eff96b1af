"""The records of the repository after the change of layout: the same runs as before."""

import importlib.util
import json
from pathlib import Path

from adversarial_dropout.experiments import records

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("migrate", ROOT / "results" / "migrate.py")

EARLIER = {
    "preset": "paper/autoencoder",
    "method": "dropout+add",
    "scale": "paper",
    "seed": 0,
    "threads": 1,
    "data": {"name": "mnist", "labelled": None},
    "model": {"name": "autoencoder", "kernel_size": 3, "width": 256, "input_noise": 0.0, "p": 0.5, "delta": 0.3},
    "training": {"epochs": 1, "batch_labelled": 128, "batch_unlabelled": 0, "ramp_up": 0, "ramp_down": 0},
    "terms": [{"kind": "vadd", "weight": 0.2, "divergence": "se", "noise": "shared", "ramp": False}],
}


def test_a_record_is_read_as_before(tmp_path: Path) -> None:
    assert SPEC is not None
    assert SPEC.loader is not None
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    folder = tmp_path / "run"
    records.write_json(folder / records.CONFIG, EARLIER)
    (folder / records.METRICS).write_text("epoch,loss,se,vadd,error\n1.0,0.5,0.4,0.25,26.5\n")
    metrics = {"epoch": 1.0, "loss": 0.5, "se": 0.4, "vadd": 0.25, "error": 26.5}
    environment = dict.fromkeys(("python", "packages", "system", "processor", "cores", "gpu", "commit"), "x")
    final = {"metrics": metrics, "evaluated_on": "test", "seconds": 1.0, "environment": environment}
    records.write_json(folder / records.FINAL, final)
    before = records.read_record(folder)
    assert module.migrate(tmp_path) == 1
    after = records.read_record(folder)
    assert after.config == before.config
    assert list(after.metrics[0].values()) == list(before.metrics[0].values())
    assert list(after.metrics[0]) == ["epoch", "loss", "se", "add", "error"]
    assert json.loads((folder / records.CONFIG).read_text())["terms"] == {"add": {"weight": 0.2, "ramp": True}}
    assert module.migrate(tmp_path) == 0

"""The examples for Lightning and Accelerate: what they say that they do, in one process and in two."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*command: str | Path) -> str:
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.parametrize("name", ["lightning_module.py", "accelerate_loop.py"])
def test_an_example_is_short_and_its_three_lines_are_three(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) < 120
    marked = [line.split("# ")[-1] for line in lines if line.endswith(("# 1", "# 2", "# 3"))]
    assert marked == ["1", "2", "3"]


def test_the_accelerate_example_runs() -> None:
    pytest.importorskip("accelerate", reason="needs accelerate")
    assert run(EXAMPLES / "accelerate_loop.py", "--epochs", "1").startswith("processes 1, accuracy 0.")


SAME_WEIGHTS = """
import runpy, torch
from accelerate import Accelerator
from accelerate.utils import set_seed
names = runpy.run_path({example!r})
accelerator = Accelerator(cpu=True)
set_seed(0)
images, labels, _, _ = names["digits"]()
model = names["train"](accelerator, images[:200], labels, epochs=2, weight=1.0)
ends = torch.cat([weight.detach().flatten() for weight in model.parameters()])
first, second = accelerator.gather(ends).chunk(2)
assert torch.equal(first, second), "the ranks have different weights"
accelerator.print("equal on", accelerator.num_processes)
accelerator.end_training()
"""


def test_the_processes_of_accelerate_keep_the_same_weights(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate")
    (tmp_path / "same.py").write_text(SAME_WEIGHTS.format(example=str(EXAMPLES / "accelerate_loop.py")))
    assert run(*LAUNCH, tmp_path / "same.py") == "equal on 2\n"


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_lightning_takes_the_steps_of_a_loop_by_hand() -> None:
    lightning = pytest.importorskip("lightning", reason="needs the extra [lightning]")
    names = runpy.run_path(str(EXAMPLES / "lightning_module.py"))
    train, _ = names["loaders"](batch_size=50)
    batches = [batch for batch, _, _ in train][:4]

    class Seeded(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_start(self, trainer: object, module: object, batch: object, place: int) -> None:
            torch.manual_seed(10 + place)

    def fitted(accumulate: int) -> torch.nn.Module:
        torch.manual_seed(1)
        module: torch.nn.Module = names["Digits"](weight=2.0)
        trainer = lightning.Trainer(
            max_steps=4 // accumulate,
            accumulate_grad_batches=accumulate,
            accelerator="cpu",
            callbacks=[Seeded()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(batches, batch_size=None))
        return module

    def by_hand(accumulate: int) -> torch.nn.Module:
        torch.manual_seed(1)
        module: torch.nn.Module = names["Digits"](weight=2.0)
        optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
        for place, batch in enumerate(batches):
            (x, y), (unlabelled,) = batch["labelled"], batch["unlabelled"]
            torch.manual_seed(10 + place)
            ramp = min(1.0, 3 * (place // accumulate) / (4 // accumulate))
            loss = F.cross_entropy(module.model(x), y) + 2.0 * ramp * module.vadd(module.model, unlabelled)
            (loss / accumulate).backward()
            if (place + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        return module

    for accumulate in (1, 2):
        found, expected = fitted(accumulate), by_hand(accumulate)
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


TWO = """
import runpy, lightning, torch
names = runpy.run_path({example!r})


class Checked(names["Digits"]):
    def on_train_end(self):
        ends = torch.cat([weight.detach().flatten() for weight in self.parameters()])
        both = self.all_gather(ends)
        assert both.shape[0] == 2
        assert torch.equal(*both), "the ranks have different weights"
        if self.global_rank == 0:
            print("equal")


if __name__ == "__main__":
    lightning.seed_everything(0, verbose=False)
    train, _ = names["loaders"](batch_size=50)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(max_steps=6, accelerator="cpu", devices=2, strategy="ddp", **quiet)
    trainer.fit(Checked(), train)
"""


def test_the_processes_of_lightning_keep_the_same_weights(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the extra [lightning]")
    (tmp_path / "two.py").write_text(TWO.format(example=str(EXAMPLES / "lightning_module.py")))
    assert "equal" in run(tmp_path / "two.py").splitlines()


def test_the_lightning_example_runs() -> None:
    pytest.importorskip("lightning", reason="needs the extra [lightning]")
    assert "accuracy" in run(EXAMPLES / "lightning_module.py", "--epochs", "1")

"""A process that trains keeps what it frees."""

import subprocess
import sys

import pytest

CODE = """
import ctypes, resource, sys, torch
from adversarial_dropout.experiments.training.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
    keep_freed_memory()
def step():
    blocks = [torch.ones(2_000_000) for _ in range(12)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_blocks_that_are_taken_again_cause_no_page_faults() -> None:
    assert faults("keep") < max(faults("give back") / 4, 1000)

"""The mutations of ``mutants.py`` fit the code; whether the tests notice them is seen by running it."""

import pytest
from mutants import MUTANTS, ROOT, Mutant, place


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutation_finds_its_line(mutant: Mutant) -> None:
    assert place(mutant.file, ROOT).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert (ROOT / "tests" / mutant.tests).exists()

"""The mutants still break what they say they break."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
LEAST = 20


def test_mutants_are_many_and_have_names_of_their_own() -> None:
    """Two of one name could not be told apart in the table."""
    names = Counter(mutant.name for mutant in MUTANTS)
    assert len(MUTANTS) >= LEAST
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_text_that_a_mutant_replaces_occurs_once(mutant: Mutant) -> None:
    """A mutant whose text is gone breaks nothing, and one that fits twice breaks something else."""
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_selection_of_a_mutant_names_tests_that_exist(mutant: Mutant) -> None:
    """A misspelt path would fail, and would look as if the mutant had been caught."""
    assert mutant.tests
    for selection in mutant.tests:
        assert (ROOT / selection.split()[0].split("::")[0]).is_file()

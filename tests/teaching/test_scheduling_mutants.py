"""Every scheduler that is broken on purpose is caught."""

from __future__ import annotations

import pytest

from radix_lib.router import Router
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.scheduling_mutants import (
    SCHEDULING_MUTANTS,
    examine_scheduling,
)

#: What is said of each, so that it is caught for what it is and not by an accident.
SAYS = {
    "keeps the uncomputed": "reads the K/V of None",
    "skips one token": "reads the K/V of",
    "counts the last token": "reads the K/V of None",
    "cancels at once": "failed",
    "mixes up rows": "was answered",
    "forgets the namespace": "another's namespace",
    "keeps an aborted lease": "Leases outside this scheduler|pages are held",
    "gives a page twice": "not its holders' number",
    "grows over the tree": "not its holders' number",
}


def test_the_library_passes():
    assert examine_scheduling(Scheduler) == ""
    assert examine_scheduling(Router) == ""


@pytest.mark.parametrize("name", SCHEDULING_MUTANTS)
def test_a_mutant_is_caught(name: str):
    found = examine_scheduling(SCHEDULING_MUTANTS[name].part)
    assert found
    assert any(words in found for words in SAYS[name].split("|")), found


def test_the_gallery_says_what_is_wrong_with_each():
    assert SCHEDULING_MUTANTS.keys() == SAYS.keys()
    whats = [mutant.what for mutant in SCHEDULING_MUTANTS.values()]
    assert len(set(whats)) == len(whats)
    assert all(what.endswith(".") for what in whats)

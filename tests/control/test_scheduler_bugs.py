"""Bugs of the field: a scheduler without the mending shows each, and ours does not."""

from __future__ import annotations

import pytest

from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.scheduler_bugs import FIELD_BUGS


@pytest.mark.parametrize("name", FIELD_BUGS)
def test_a_bug_of_the_field_is_mended(name: str):
    bug = FIELD_BUGS[name]
    assert bug.measure(Scheduler) <= bug.limit


@pytest.mark.parametrize("name", FIELD_BUGS)
def test_a_bug_of_the_field_is_back_when_its_mending_is_taken_out(name: str):
    bug = FIELD_BUGS[name]
    assert bug.measure(bug.unmended) > 1.5 * bug.limit


def test_each_names_where_it_was_met_and_what_is_wrong():
    assert len(FIELD_BUGS) == 5
    assert len({bug.source for bug in FIELD_BUGS.values()}) == 5
    assert all(bug.unmended.__doc__ for bug in FIELD_BUGS.values())

"""Ctrl-C, wherever Python may deliver it, leaves nothing half done."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.interrupts import interrupted
from tests.support.world import CONTROL_PLANE, OPERATIONS, World, check_aftermath

FILES = {module.__file__ for module in CONTROL_PLANE}


@pytest.mark.parametrize(
    "operation", [name for name in OPERATIONS if "with" not in name]
)
def test_ctrl_c_anywhere_leaves_nothing_half_done(operation):
    at = 0
    while True:
        at += 1
        world = World()
        if not interrupted(partial(OPERATIONS[operation], world), at, FILES):
            break
        check_aftermath(world, operation)
    assert at > 3

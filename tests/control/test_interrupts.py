"""Ctrl-C, wherever Python may deliver it, leaves nothing half done."""

from __future__ import annotations

import pytest

from tests.support.interrupts import interrupted_everywhere
from tests.support.world import CONTROL_PLANE, OPERATIONS, World, check_aftermath

pytestmark = pytest.mark.usefixtures("no_collector")

FILES = {module.__file__ for module in CONTROL_PLANE}


@pytest.mark.parametrize(
    "operation", [name for name in OPERATIONS if "with" not in name]
)
def test_ctrl_c_anywhere_leaves_nothing_half_done(operation):
    n_places = 0
    for world in interrupted_everywhere(World, OPERATIONS[operation], FILES):
        n_places += 1
        check_aftermath(world, operation)
    assert n_places > 3


def test_every_place_is_interrupted():
    """Else fewer would be, and nobody would know: each Python traces in its own way."""

    def note(seen: list[str], text: str) -> None:
        seen.append(text)

    def call(seen: list[str]) -> None:
        note(seen, "a")
        for text in "bc":
            note(seen, text)
        note(seen, "d")

    seen = ["".join(s) for s in interrupted_everywhere(list, call, {__file__})]
    # Where a function starts, after `append`, and where the loop jumps back.
    n_seen = {"": 2, "a": 2, "ab": 3, "abc": 3, "abcd": 1}
    assert seen == [text for text, n in n_seen.items() for _ in range(n)]

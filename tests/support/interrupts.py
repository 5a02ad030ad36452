"""Ctrl-C, wherever Python may deliver it."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import CodeType, FrameType
from typing import Any, TypeVar

W = TypeVar("W")


class CtrlC:
    """Raises KeyboardInterrupt at the n-th place where CPython looks for signals.

    Only places in `files` count. It looks when a function of Python's starts or a
    generator goes on, after a call, and when a loop jumps back; nowhere else. So two
    plain stores in a row are never parted, and a function that has its result returns
    it: `return f(x)` is one place, inside the `try` around it.
    """

    def __init__(self, at: int, files: Collection[str | None]):
        self.at = at
        self.files = files
        self.seen = 0

    def place(self) -> None:
        """A place where it may come."""
        self.seen += 1
        if self.seen == self.at:
            sys.settrace(None)
            raise KeyboardInterrupt

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        names = opcode_names(frame.f_code)
        before = ""

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            if event == "opcode":
                last, before = before, names[frame.f_lasti]
                called = last.startswith("CALL") and "RETURN" not in before
                if called or "JUMP_BACKWARD" in last:
                    self.place()
            return trace

        self.place()
        return trace


@functools.cache
def opcode_names(code: CodeType) -> dict[int, str]:
    """The name of each instruction, by its offset."""
    return {
        instruction.offset: instruction.opname
        for instruction in dis.get_instructions(code)
    }


def interrupted(
    call: Callable[[], Any], at: int, files: Collection[str | None]
) -> bool:
    """Make a call with Ctrl-C at place number `at`; whether it came to it."""
    outer = sys.gettrace()
    try:
        sys.settrace(CtrlC(at, files))
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(outer)
    return False


def interrupted_everywhere(
    start: Callable[[], W], call: Callable[[W], Any], files: Collection[str | None]
) -> Iterator[W]:
    """What `start` makes, after `call` on it was interrupted, at each place in turn."""
    # From Python 3.12 on, a function shows its places from its second traced call on.
    interrupted(partial(call, start()), 0, files)
    at = 0
    while True:
        at += 1
        world = start()
        if not interrupted(partial(call, world), at, files):
            return
        yield world

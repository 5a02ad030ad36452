"""Ctrl-C, wherever Python may deliver it."""

from __future__ import annotations

import dis
import functools
import gc
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType, FunctionType
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
        self.before: dict[FrameType, str] = {}  # the last instruction of each frame

    def place(self) -> None:
        """A place where it may come."""
        self.seen += 1
        if self.seen == self.at:
            raise KeyboardInterrupt

    def enter(self, frame: FrameType) -> None:
        """A function starts, or a generator goes on."""
        self.before[frame] = ""
        self.place()

    def instruction(self, frame: FrameType, offset: int) -> None:
        """A function is about to run the instruction at `offset`."""
        last = self.before.get(frame, "")
        self.before[frame] = name = opcode_names(frame.f_code)[offset]
        called = last.startswith("CALL") and "RETURN" not in name
        if called or "JUMP_BACKWARD" in last:
            self.place()


@contextmanager
def traced(ctrl_c: CtrlC) -> Iterator[None]:
    """Tell it of each start and instruction in this thread, with `sys.settrace`."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            if frame.f_code.co_filename not in ctrl_c.files:
                return None
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
            ctrl_c.enter(frame)
        elif event == "opcode":
            ctrl_c.instruction(frame, frame.f_lasti)
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(outer)


@contextmanager
def monitored(ctrl_c: CtrlC) -> Iterator[None]:
    """As `traced`, from Python 3.12 on, where a trace misses most instructions."""
    monitoring = sys.monitoring
    events = monitoring.events
    tool = monitoring.DEBUGGER_ID
    codes = [code for file in ctrl_c.files if file for code in codes_of(file)]

    def start(code: CodeType, offset: int) -> None:
        ctrl_c.enter(sys._getframe(1))

    def instruction(code: CodeType, offset: int) -> None:
        ctrl_c.instruction(sys._getframe(1), offset)

    def watch(what: int) -> None:
        for code in codes:
            monitoring.set_local_events(tool, code, what)

    monitoring.use_tool_id(tool, "Ctrl-C")
    try:
        for event in (events.PY_START, events.PY_RESUME):
            monitoring.register_callback(tool, event, start)
        monitoring.register_callback(tool, events.INSTRUCTION, instruction)
        watch(events.PY_START | events.PY_RESUME | events.INSTRUCTION)
        yield
    finally:
        watch(0)
        monitoring.free_tool_id(tool)


@functools.cache
def opcode_names(code: CodeType) -> dict[int, str]:
    """The name of each instruction, by its offset."""
    return {
        instruction.offset: instruction.opname
        for instruction in dis.get_instructions(code)
    }


@functools.cache
def codes_of(file: str) -> set[CodeType]:
    """The code of every function in a file that was imported."""
    functions = [x for x in gc.get_objects() if isinstance(x, FunctionType)]
    waiting = [f.__code__ for f in functions if f.__code__.co_filename == file]
    codes: set[CodeType] = set()
    while waiting:
        code = waiting.pop()
        codes.add(code)
        # Those inside it, too: comprehensions, lambdas.
        waiting += [part for part in code.co_consts if isinstance(part, CodeType)]
    return codes


def interrupted(
    call: Callable[[], Any], at: int, files: Collection[str | None]
) -> bool:
    """Make a call with Ctrl-C at place number `at`; whether it came to it."""
    watched = monitored if sys.version_info >= (3, 12) else traced
    try:
        with watched(CtrlC(at, files)):
            call()
    except KeyboardInterrupt:
        return True
    return False


def interrupted_everywhere(
    start: Callable[[], W], call: Callable[[W], Any], files: Collection[str | None]
) -> Iterator[W]:
    """What `start` makes, after `call` on it was interrupted, at each place in turn."""
    at = 0
    while True:
        at += 1
        world = start()
        if not interrupted(partial(call, world), at, files):
            return
        yield world

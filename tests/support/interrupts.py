"""What may happen in the middle of a call, at each place of it in turn.

Ctrl-C comes where Python looks for signals. The other kinds are made to happen at the
same places: memory runs out, or the collector closes a stream that was forgotten.
"""

from __future__ import annotations

import dis
import functools
import gc
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType, FunctionType
from typing import Any, NoReturn, TypeVar

W = TypeVar("W")


def ctrl_c() -> NoReturn:
    raise KeyboardInterrupt


def out_of_memory() -> NoReturn:
    raise MemoryError


class Interruption:
    """Makes something happen at the n-th place where CPython looks for signals.

    Only places in `files` count. It looks when a function of Python's starts or a
    generator goes on, after a call of what is not written in Python, and when a loop
    jumps back; nowhere else. So two plain stores in a row are never parted, and what a
    function of Python's returns reaches who called it. (Up to 3.11 it looks there too
    if the call unpacks its arguments: `f(*args)`.)
    """

    def __init__(
        self, at: int, files: Collection[str | None], happens: Callable[[], object]
    ):
        self.at = at
        self.files = files
        self.happens = happens
        self.seen = 0
        self.before: dict[FrameType, str] = {}  # the last instruction of each frame
        self.called: set[FrameType] = set()  # they wait for a function of ours

    def place(self) -> None:
        """A place where it may come."""
        self.seen += 1
        if self.seen == self.at:
            self.happens()

    def enter(self, frame: FrameType) -> None:
        """A function starts, or a generator goes on, in whatever file."""
        caller = frame.f_back
        # No others: a frame that is kept keeps alive what it made, such as a guard.
        if (
            caller is not None
            and caller.f_code.co_filename in self.files
            and is_called_directly(frame.f_code)
        ):
            self.called.add(caller)
        if frame.f_code.co_filename in self.files:
            self.before[frame] = ""
            self.place()

    def instruction(self, frame: FrameType, offset: int) -> None:
        """A function is about to run the instruction at `offset`."""
        last = self.before.get(frame, "")
        self.before[frame] = opcode_names(frame.f_code)[offset]
        looks = last.startswith("CALL")
        if frame in self.called:
            self.called.remove(frame)
            looks = last == "CALL_FUNCTION_EX" and sys.version_info < (3, 12)
        if looks or "JUMP_BACKWARD" in last:
            self.place()


def is_called_directly(code: CodeType) -> bool:
    """Not by what makes an object, enters a `with` or asks a generator."""
    is_generator = code.co_flags & inspect.CO_GENERATOR
    return not is_generator and not code.co_name.startswith("__")


@contextmanager
def traced(watcher: Interruption) -> Iterator[None]:
    """Tell it of each start and instruction in this thread, with `sys.settrace`."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            is_watched = frame.f_code.co_filename in watcher.files
            # Else something is thrown into a generator, where nobody looks.
            if not is_watched or is_at(frame, "RESUME"):
                watcher.enter(frame)
            if not is_watched:
                return None
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
        elif event == "opcode":
            watcher.instruction(frame, frame.f_lasti)
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(outer)


@contextmanager
def monitored(watcher: Interruption) -> Iterator[None]:
    """As `traced`, from Python 3.12 on, where a trace misses most instructions."""
    monitoring = sys.monitoring
    events = monitoring.events
    tool = monitoring.DEBUGGER_ID
    starts = events.PY_START | events.PY_RESUME
    codes = [code for file in watcher.files if file for code in codes_of(file)]

    def start(code: CodeType, offset: int) -> None:
        watcher.enter(sys._getframe(1))

    def instruction(code: CodeType, offset: int) -> None:
        watcher.instruction(sys._getframe(1), offset)

    def watch(everywhere: int, in_files: int) -> None:
        monitoring.set_events(tool, everywhere)
        for code in codes:
            monitoring.set_local_events(tool, code, in_files)

    monitoring.use_tool_id(tool, "interruptions")
    try:
        monitoring.register_callback(tool, events.PY_START, start)
        monitoring.register_callback(tool, events.PY_RESUME, start)
        monitoring.register_callback(tool, events.INSTRUCTION, instruction)
        watch(starts, events.INSTRUCTION)
        yield
    finally:
        watch(0, 0)
        monitoring.free_tool_id(tool)


def is_at(frame: FrameType, opcode: str) -> bool:
    return opcode_names(frame.f_code)[frame.f_lasti] == opcode


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
    functions = [x for x in gc.get_objects() if type(x) is FunctionType]
    waiting = [f.__code__ for f in functions if f.__code__.co_filename == file]
    codes: set[CodeType] = set()
    while waiting:
        code = waiting.pop()
        codes.add(code)
        # Those inside it, too: comprehensions, lambdas.
        waiting += [part for part in code.co_consts if isinstance(part, CodeType)]
    return codes


def interrupted(
    call: Callable[[], Any],
    at: int,
    files: Collection[str | None],
    happens: Callable[[], object] = ctrl_c,
) -> bool:
    """Make a call in which something `happens` at place `at`; whether it came to it."""
    watched = monitored if sys.version_info >= (3, 12) else traced
    watcher = Interruption(at, files, happens)
    try:
        with watched(watcher):
            call()
    except (KeyboardInterrupt, MemoryError):
        return True
    came = watcher.seen >= at
    assert not came or happens is not ctrl_c, "Ctrl-C was swallowed"
    return came


def interrupted_everywhere(
    start: Callable[[], W],
    call: Callable[[W], Any],
    files: Collection[str | None],
    happens: Callable[[], object] = ctrl_c,
) -> Iterator[W]:
    """What `start` makes, after `call` on it was interrupted, at each place in turn."""
    at = 0
    while True:
        at += 1
        world = start()
        if not interrupted(partial(call, world), at, files, happens):
            return
        yield world

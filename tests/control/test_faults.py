"""An exception or an interrupt anywhere inside a request's life leaves nothing half
done.

The methods that a call runs through are not listed here: a dry run finds them, so that
a new step is tested from the day it is written. Each is made to fail before and after
its effect. Then:

- tree, pages, locks and heap add up, and free + unlocked + locked + private = pool;
- no request holds anything but those that were there, and these are as they were;
- what counts as evictable can be evicted, so that the room promised can be had;
- requests after it are right, and in the end all of the pool is free.

A last test interrupts at every single place where Python may deliver Ctrl-C.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.stateful import run_state_machine_as_test as run_machine

from radix_lib import eviction, page_manager, radix_cache, radix_tree, router
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Lease, Router
from tests.support.oracle import (
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    Memory,
    check_idle,
    check_router,
    contents,
    spell,
)

MODULES = [radix_tree, page_manager, eviction, radix_cache, router]


class Fault(Exception):
    """What is thrown where a program goes wrong; KeyboardInterrupt is what a reader
    throws.
    """


# ── A world in the middle of its work, and what is done in it ─────────────────────────


@dataclass
class World:
    """A pool of 20 pages of two tokens, in use.

    In the tree are [1 … 8], in one edge, and a tenant's [1, 2, 3, 4]. `chat` runs on a
    part of the first. `first`, `twin` and `half` compute the same, `half` only at its
    start; `first` has committed it already.
    """

    router: Router = field(
        default_factory=lambda: Router(RadixCache(PageManager(20, 2)))
    )
    memory: Memory = field(default_factory=lambda: Memory(2))

    def __post_init__(self) -> None:
        self.serve([1, 2, 3, 4, 5, 6, 7, 8])
        self.serve([1, 2, 3, 4], "tenant")
        self.chat = self.router.admit([1, 2, 3, 4, 9, 9, 9], max_new_tokens=1)
        self.memory.compute(self.chat)
        self.first, self.twin = (self.router.admit([5, 5, 5, 5, 5]) for _ in range(2))
        self.half = self.router.admit([5, 5, 6, 6, 6])
        for lease in (self.first, self.twin, self.half):
            self.memory.compute(lease)
        self.router.commit(self.first)
        self.leases = list(self.router.leases)
        check_router(self.router, self.memory)

    def serve(self, tokens: list[int], namespace: Any = None) -> int:
        """One request from start to end; returns how much of it was cached."""
        lease = self.router.admit(tokens, namespace)
        self.memory.check(lease)
        self.memory.compute(lease)
        self.router.finish(lease)
        return lease.n_cached

    def evicting(self) -> int:
        """How many tokens take all free pages and one that has to be evicted."""
        return 2 * (self.router.usage().free + 1)


def leave(world: World, error: type[BaseException] | None = None) -> None:
    """A `with` block that ends by itself, or by an error inside."""
    try:
        with world.router.admit([1, 2, 3, 4, 5, 6, 0]) as lease:
            world.memory.compute(lease)
            if error:
                raise error
    except ZeroDivisionError:
        pass


def fork(world: World, room: int) -> None:
    lease = world.router.fork(world.chat, room)
    if lease.n_computed > lease.n_shared * 2:
        tail = lease.n_shared
        world.memory.copy_page(
            int(world.chat.page_table[tail]), int(lease.page_table[tail])
        )


OPERATIONS: dict[str, Callable[[World], Any]] = {
    "admit, nothing cached": lambda w: w.router.admit([8, 8, 8]),
    "admit, a new namespace": lambda w: w.router.admit([1, 2, 3], "new"),
    "admit, a hit": lambda w: w.router.admit([1, 2, 3, 4, 5, 6, 7, 8, 9]),
    "admit, a hit that cuts an edge in use": lambda w: w.router.admit([1, 2, 8]),
    "admit, a hit that cuts an idle edge": lambda w: w.router.admit(
        [1, 2, 3, 4, 5, 6, 0]
    ),
    "admit, evicting": lambda w: w.router.admit([8] * w.evicting()),
    "admit, evicting all": lambda w: w.router.admit(
        [8] * 2 * sum(w.router.usage()[:2])
    ),
    "commit": lambda w: w.router.commit(w.chat),
    "commit, duplicates": lambda w: w.router.commit(w.twin),
    "commit, duplicates at its start": lambda w: w.router.commit(w.half),
    "commit, nothing new": lambda w: w.router.commit(w.first),
    "finish": lambda w: w.router.finish(w.chat),
    "finish, duplicates": lambda w: w.router.finish(w.twin),
    "finish, duplicates at its start": lambda w: w.router.finish(w.half),
    "finish, nothing new": lambda w: w.router.finish(w.first),
    "cancel": lambda w: w.router.cancel(w.chat),
    "fork": lambda w: fork(w, 4),
    "fork, evicting": lambda w: fork(w, w.evicting() - 2),
    "grow": lambda w: w.router.grow(w.chat, 4),
    "grow, evicting": lambda w: w.router.grow(w.chat, w.evicting()),
    "with": leave,
    "with, an error inside": lambda w: leave(w, ZeroDivisionError),
}
#: The request that an operation ends: if interrupted, it may have ended or not.
ENDS = {
    "finish": "chat",
    "finish, duplicates": "twin",
    "finish, duplicates at its start": "half",
    "finish, nothing new": "first",
    "cancel": "chat",
}


def check_aftermath(world: World, operation: str) -> None:
    """Whatever happened, the router is whole, and goes on."""
    router, memory = world.router, world.memory
    check_router(router, memory)
    own = getattr(world, ENDS.get(operation, ""), None)
    others = [lease for lease in world.leases if lease is not own]
    assert [lease for lease in router.leases if lease is not own] == others

    # Requests after it find what is there, all of it.
    for namespace, tokens in [
        (None, (1, 2, 3, 4, 9, 9, 9, 0)),
        (None, (1, 2, 3, 4, 5, 6, 7, 8, 9)),
        (None, (5, 5, 5, 5, 5)),
        ("tenant", (1, 2, 3, 4, 5)),
        ("new", (1, 2, 3)),
    ]:
        there = contents(router.cache)
        n_cached = 2 * sum(
            (namespace, tokens[:n]) in there for n in range(2, len(tokens), 2)
        )
        if -(-len(tokens) // 2) - n_cached // 2 <= router.usage().free:
            assert world.serve(list(tokens), namespace) == n_cached

    # One that needs everything that is not in use gets it.
    room = 2 * (router.usage().free + router.usage().unlocked)
    if room:
        world.serve(list(range(100, 100 + room)), "all")
    check_router(router, memory)

    # What was running goes on to its end.
    for lease in list(router.leases):
        if lease.n_tokens < 2 * len(lease.page_table):
            lease.append(6)
        memory.compute(lease)
        router.commit(lease)
    check_router(router, memory)
    for lease in list(router.leases):
        router.finish(lease)
    check_idle(router)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_aftermath_of_no_fault_is_sound(operation):
    world = World()
    OPERATIONS[operation](world)
    for lease in list(world.router.leases):
        if lease not in world.leases:
            world.router.cancel(lease)
    check_aftermath(world, operation)


# ── Faults at every step ──────────────────────────────────────────────────────────────


@dataclass
class Steps:
    """Counts the methods that are entered, and fails at one of them."""

    fail_at: int | None = None
    when: str = "before"
    error: type[BaseException] = Fault
    entered: list[str] = field(default_factory=list)
    depth: int = 0

    def run(self, name: str, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Run one step, or fail before it, or let it take effect and fail then."""
        number = len(self.entered)
        self.entered.append(name if self.depth else f"{name}, called from outside")
        if number == self.fail_at and self.when == "before":
            raise self.error(name)
        self.depth += 1
        result = function(*args, **kwargs)
        self.depth -= 1
        if number == self.fail_at:
            raise self.error(name)
        return result


def wrapped(steps: Steps, name: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def step(*args, **kwargs):
        return steps.run(name, function, args, kwargs)

    return step


#: Every method of every class of the control plane. Not `__enter__` and `__exit__`: an
#: interrupt that arrives between a `with` statement and these reaches no code of ours.
METHODS = [
    (cls, name, function)
    for module in MODULES
    for _, cls in inspect.getmembers(module, inspect.isclass)
    if cls.__module__ == module.__name__
    for name, function in vars(cls).items()
    if inspect.isfunction(function) and name not in ("__enter__", "__exit__")
]


@contextmanager
def watched(steps: Steps) -> Iterator[None]:
    """Every method reports to `steps`."""
    with pytest.MonkeyPatch.context() as patch:
        for cls, name, function in METHODS:
            patch.setattr(cls, name, wrapped(steps, f"{cls.__name__}.{name}", function))
        yield


def dry_run(operation: str) -> list[str]:
    """The steps of an operation. If it fails by itself, those that came first: others
    will tell.
    """
    steps = Steps()
    with suppress(Exception):
        world = World()
        with watched(steps):
            OPERATIONS[operation](world)
    return steps.entered


POINTS = [
    pytest.param(operation, number, id=f"{operation}: {number} {name}")
    for operation in OPERATIONS
    for number, name in enumerate(dry_run(operation))
]


@pytest.mark.parametrize(("operation", "number"), POINTS)
def test_a_fault_at_a_step_leaves_nothing_half_done(operation, number):
    outside = dry_run(operation)[number].endswith("called from outside")
    for error in (Fault, KeyboardInterrupt):
        # What fails after the call has returned is not the library's to put right.
        for when in ("before",) if outside else ("before", "after"):
            world = World()
            with pytest.raises(error), watched(Steps(number, when, error)):
                OPERATIONS[operation](world)
            check_aftermath(world, operation)


def test_the_steps_that_matter_are_among_those_that_fail():
    """That the dry runs see what they should: the names are not needed anywhere
    else.
    """
    names = {name for operation in OPERATIONS for name in dry_run(operation)}
    assert names >= {
        "PageManager.allocate",
        "PageManager.retain",
        "PageManager.release",
        "RadixCache.match",
        "RadixCache.insert_below",
        "RadixCache.lock",
        "RadixCache.unlock",
        "RadixCache.evict",
        "TreeNode.split",
        "CacheNode.split",
        "EvictionHeap.add",
        "EvictionHeap.discard",
        "EvictionHeap.pop",
        "Lease.__init__",
    }


# ── Faults on the way, one after another ──────────────────────────────────────────────


#: No fault, or one at the n-th step.
FAULTS = st.none() | st.builds(
    lambda number, when, error: Steps(number, when, error),
    st.integers(1, 40),
    st.sampled_from(["before", "after"]),
    st.sampled_from([Fault, KeyboardInterrupt]),
)


class FaultMachine(RuleBasedStateMachine):
    """Requests in any order, some of whose steps fail: whatever is left goes on as if
    never so.
    """

    @initialize(page_size=PAGE_SIZES, n_pages=st.integers(4, 16))
    def start(self, page_size, n_pages):
        self.router = Router(RadixCache(PageManager(n_pages, page_size)))
        self.memory = Memory(page_size)

    def lease(self, i: int) -> Lease:
        return list(self.router.leases)[i % len(self.router.leases)]

    def attempt(self, steps: Steps | None, call: Callable[[], Any]) -> Any:
        """The result of a call, or None if it failed, or had to wait."""
        before = list(self.router.leases)
        try:
            if steps is None:
                return call()
            with watched(steps):
                return call()
        except OutOfPages:
            assert list(self.router.leases) == before
        except (Fault, KeyboardInterrupt):
            assert set(self.router.leases) <= set(before)
        return None

    @rule(
        words=WORDS,
        tail=TAILS,
        namespace=NAMESPACES,
        room=st.integers(0, 5),
        steps=FAULTS,
    )
    def admit(self, words, tail, namespace, room, steps):
        size = self.router.page_size
        tokens = (spell(words, tail, size) or [0])[: self.router.max_tokens]
        room = min(room, self.router.max_tokens - len(tokens))
        there = contents(self.router.cache)
        ends = range(size, len(tokens), size)
        n_cached = size * sum((namespace, tuple(tokens[:n])) in there for n in ends)
        lease = self.attempt(steps, lambda: self.router.admit(tokens, namespace, room))
        assert lease is None or lease.n_cached == n_cached

    @precondition(lambda self: self.router.leases)
    @rule(
        i=st.integers(0, 99),
        token=st.integers(0, 2),
        n_tokens=st.integers(1, 40),
        steps=FAULTS,
    )
    def compute_and_commit(self, i, token, n_tokens, steps):
        lease = self.lease(i)
        if lease.n_tokens < len(lease.page_table) * self.router.page_size:
            lease.append(token)
        self.memory.compute(lease, min(n_tokens, len(lease.pending)))
        self.attempt(steps, lambda: self.router.commit(lease))
        assert lease in self.router.leases

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), room=st.integers(0, 5), steps=FAULTS)
    def fork(self, i, room, steps):
        lease = self.lease(i)
        room = min(room, self.router.max_tokens - lease.n_tokens)
        fork = self.attempt(steps, lambda: self.router.fork(lease, room))
        if fork and fork.n_computed > fork.n_shared * self.router.page_size:
            tail = fork.n_shared
            self.memory.copy_page(
                int(lease.page_table[tail]), int(fork.page_table[tail])
            )

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), keep=st.booleans(), steps=FAULTS)
    def end(self, i, keep, steps):
        lease, end = self.lease(i), self.router.finish if keep else self.router.cancel
        self.attempt(steps, lambda: end(lease))

    @invariant()
    def is_whole(self):
        check_router(self.router, self.memory)

    def teardown(self):
        if hasattr(self, "router"):
            for lease in list(self.router.leases):
                self.router.finish(lease)
            check_idle(self.router)


def test_faults_one_after_another_leave_nothing_half_done():
    run_machine(FaultMachine, settings=settings(QUICK, max_examples=50))


@pytest.mark.long
def test_faults_one_after_another_leave_nothing_half_done_at_length():
    run_machine(FaultMachine, settings=LONG)


# ── Ctrl-C, wherever Python may deliver it ────────────────────────────────────────────

FILES = {module.__file__ for module in MODULES}


class CtrlC:
    """Raises KeyboardInterrupt at the n-th place where CPython looks for signals.

    It does so when a function of Python's starts or a generator goes on, after a call,
    and when a loop jumps back; nowhere else. So two plain stores in a row are never
    parted, and a function that has its result returns it: `return f(x)` is one place,
    inside the `try` around it.
    """

    def __init__(self, at: int):
        self.at = at
        self.seen = 0

    def place(self) -> None:
        """A place where it may come."""
        self.seen += 1
        if self.seen == self.at:
            sys.settrace(None)
            raise KeyboardInterrupt

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        names = opcode_names(frame.f_code)
        before = ""

        def trace(frame, event, arg):
            nonlocal before
            if event == "opcode":
                last, before = before, names[frame.f_lasti]
                if (
                    "CALL" in last and "RETURN" not in before
                ) or "JUMP_BACKWARD" in last:
                    self.place()
            return trace

        self.place()
        return trace


@functools.cache
def opcode_names(code) -> dict[int, str]:
    return {
        instruction.offset: instruction.opname
        for instruction in dis.get_instructions(code)
    }


def interrupted(operation: str, at: int) -> tuple[World, bool]:
    """The world after an operation with Ctrl-C at place number `at`, and whether it
    came to it.
    """
    world, tracer = World(), CtrlC(at)
    outer = sys.gettrace()
    try:
        sys.settrace(tracer)
        OPERATIONS[operation](world)
    except KeyboardInterrupt:
        return world, True
    finally:
        sys.settrace(outer)
    return world, False


@pytest.mark.parametrize(
    "operation", [name for name in OPERATIONS if "with" not in name]
)
def test_ctrl_c_anywhere_leaves_nothing_half_done(operation):
    at = 0
    while True:
        at += 1
        world, came = interrupted(operation, at)
        if not came:
            break
        check_aftermath(world, operation)
    assert at > 3

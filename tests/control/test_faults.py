"""An exception or an interrupt at a step of a request's life leaves nothing half done.

The methods that a call runs through are not listed here: a dry run finds them, so that
a new step is tested from the day it is written. Each is made to fail before and after
its effect. Then:

- tree, pages, locks and heap add up, and free + unlocked + locked + private = pool;
- no request holds anything but those that were there, and these are as they were;
- what counts as evictable can be evicted, so that the room promised can be had;
- requests after it are right, and in the end all of the pool is free.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test as run_machine,
)

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import check_idle, check_router, contents
from tests.support.strategies import (
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    spell,
)
from tests.support.world import CONTROL_PLANE, OPERATIONS, World, check_aftermath

pytestmark = pytest.mark.usefixtures("no_collector")


class Fault(Exception):
    """Thrown where a program goes wrong; a reader throws KeyboardInterrupt."""


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
    for module in CONTROL_PLANE
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


@functools.cache
def dry_run(operation: str) -> list[str]:
    """The steps of an operation, as far as it comes by itself."""
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
    """The dry runs see what they should; nothing else needs the names."""
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
    """Requests in any order, some of whose steps fail; whatever is left goes on."""

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
        lease = self.lease(i)
        end = self.router.finish if keep else self.router.cancel
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

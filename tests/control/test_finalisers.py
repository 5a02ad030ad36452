"""Python closes forgotten streams in the middle of any call: nothing must come of it.

Garbage is collected at every line that a call runs through, with a stream in it whose
`with` block holds a lease. The request ends when the call is over, not inside it.
"""

from __future__ import annotations

import gc
import sys

import pytest

from radix_lib import router as router_module
from radix_lib.page_manager import OutOfPages
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import check_idle, check_router
from tests.support.small_routers import refused, router_of, serve
from tests.support.streams import forgotten_stream, stream
from tests.support.world import CONTROL_PLANE, OPERATIONS, World, check_aftermath

pytestmark = pytest.mark.usefixtures("no_collector")

FILES = {module.__file__ for module in CONTROL_PLANE}


# ── In the middle of a call ───────────────────────────────────────────────────────────


class Collector:
    """Collects garbage at the n-th line or function that a call comes to."""

    def __init__(self, at: int):
        self.at = at
        self.seen = 0

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        if event in ("call", "line"):
            self.seen += 1
            if self.seen == self.at:
                gc.collect()
        return self


def collected(operation: str, at: int, tokens: list[int]) -> tuple[World, Lease, bool]:
    """The world after an operation with a collection at place `at`; did it come to it?

    The lease is that of the stream that was forgotten.
    """
    world = World()
    collector = Collector(at)
    lost = forgotten_stream(world.router, world.memory, tokens, room=2)
    assert lost in world.router.leases
    outer = sys.gettrace()
    try:
        sys.settrace(collector)
        OPERATIONS[operation](world)
    finally:
        sys.settrace(outer)
    return world, lost, collector.seen >= at


#: The stream has a path in common with others, computes what others do, or is apart.
FORGOTTEN = [
    pytest.param([1, 2, 3, 4, 5, 6, 0], id="on a path in use"),
    pytest.param([5, 5, 5, 5, 5], id="the same", marks=pytest.mark.long),
    pytest.param([7, 7, 7], id="apart", marks=pytest.mark.long),
]


@pytest.mark.parametrize("tokens", FORGOTTEN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_stream_closed_anywhere_inside_a_call_ends_when_it_is_over(operation, tokens):
    at = n_late = 0
    while True:
        at += 1
        world, lost, came = collected(operation, at, tokens)
        if not came:
            break
        if lost in world.router.leases:
            # It came to the line after the last look at what waits: the next call sees
            # to it. (Nothing is allocated in that line, so Python does not collect.)
            n_late += 1
            world.router.match_prefix([0])
        assert lost not in world.router.leases
        for lease in set(world.router.leases) - set(world.leases):
            world.router.cancel(lease)  # what the operation gave
        check_aftermath(world, operation)
    assert at > 10
    assert n_late <= 1


def run_inside(router: Router, call) -> list[Exception]:
    """Serve a request, and make a call in the middle of it; what that raised."""
    errors: list[Exception] = []

    def match(*args):
        del router.cache.match
        found = router.cache.match(*args)
        try:
            call()
        except Exception as error:
            errors.append(error)
        return found

    router.cache.match = match
    serve(router, [1, 2, 3, 4, 5])
    return errors


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_a_request_may_be_ended_in_the_middle_of_a_call_and_ends_after_it(end):
    router = router_of()
    memory = Memory(2)
    lease = router.admit([7, 8, 9])
    memory.compute(lease)
    seen = []

    def call():
        getattr(router, end)(lease)
        seen.append(lease in router.leases)

    assert run_inside(router, call) == []
    assert seen == [True]
    assert lease not in router.leases
    assert len(router.cache.match([7, 8]).pages) == (1 if end == "finish" else 0)
    check_idle(router)


def test_a_request_that_is_ended_twice_in_the_middle_of_a_call_ends_once():
    router = router_of()
    lease = router.admit([7, 8, 9])

    def call():
        router.cancel(lease)
        router.finish(lease)

    assert run_inside(router, call) == []
    check_idle(router)


def test_a_request_that_was_never_live_here_is_refused_in_the_middle_of_a_call_too():
    router = router_of()
    lease = router_of().admit([7, 8, 9])
    (error,) = run_inside(router, lambda: router.cancel(lease))
    assert "not live here" in str(error)
    check_idle(router)


@pytest.mark.parametrize(
    "call",
    [
        lambda router, lease: router.admit([1, 2, 3]),
        lambda router, lease: router.match_prefix([1, 2, 3]),
        lambda router, lease: router.commit(lease),
        lambda router, lease: router.fork(lease),
        lambda router, lease: router.grow(lease, 9),
    ],
    ids=["admit", "match_prefix", "commit", "fork", "grow"],
)
def test_any_other_call_in_the_middle_of_one_is_refused_by_name(call):
    router = router_of()
    lease = router.admit([7, 8, 9])
    lease.advance(3)
    (error,) = run_inside(router, lambda: call(router, lease))
    assert isinstance(error, RuntimeError)
    assert "called a Router in the middle of another call: do that later" in str(error)
    check_router(router)
    assert list(router.leases) == [lease]
    router.finish(lease)
    check_idle(router)


def test_where_the_pages_are_may_be_asked_in_the_middle_of_a_call():
    router = router_of()
    seen = []
    assert run_inside(router, lambda: seen.append(sum(router.usage()))) == []
    assert seen == [16]


# ── Pages that only garbage holds ─────────────────────────────────────────────────────


def test_pages_that_only_garbage_holds_do_not_make_a_request_wait():
    router = router_of(n_pages=8)
    memory = Memory(2)
    lease = router.admit([1, 2, 3])
    lease.advance(3)
    for take in [
        lambda: router.cancel(router.admit([4] * 12)),
        lambda: router.cancel(router.fork(lease, 9)),
        lambda: router.grow(lease, 13),
    ]:
        lost = forgotten_stream(router, memory, [9] * 5, room=7)
        assert router.usage().free == 0
        take()
        assert lost not in router.leases
        check_router(router)
    router.cancel(lease)
    check_idle(router)


def test_what_only_garbage_holds_does_not_keep_a_cache_from_being_flushed():
    router = router_of()
    memory = Memory(2)
    serve(router, [1, 2, 3, 4])
    forgotten_stream(router, memory, [1, 2, 3, 9])
    router.flush()
    check_idle(router)
    assert router.usage() == (16, 0, 0, 0)


def test_a_stream_that_somebody_still_holds_keeps_its_pages():
    router = router_of(n_pages=4)
    memory = Memory(2)
    held = stream(router, memory, [1, 2, 3, 4])
    lease = next(held)
    words = "pages needed: 3, free: 2, evictable: 0"
    refused(router, OutOfPages, words, lambda: router.admit([9] * 6))
    refused(router, RuntimeError, "still running: 1", router.flush)
    assert lease in router.leases
    held.close()
    check_idle(router)


def test_without_a_with_block_no_time_goes_into_collecting(monkeypatch):
    router = router_of(n_pages=4)
    lease = router.admit([1, 2, 3, 4, 5])
    monkeypatch.setattr(router_module.gc, "collect", lambda: pytest.fail("collected"))
    words = "pages needed: 2, free: 1"
    refused(router, OutOfPages, words, lambda: router.admit([9] * 4))
    refused(router, RuntimeError, "still running: 1", router.flush)
    router.cancel(lease)

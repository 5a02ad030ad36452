"""Every public call × every kind of bad argument: refused by name, nothing changed.

A call stands here once for each of its arguments, with the kinds of bad value that this
argument is given. What is refused for where the books stand, and not for what it is, is
tested beside the structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
import pytest

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import TokenTime
from tests.support.inspection import snapshot
from tests.support.scheduling import check_scheduler
from tests.support.small_routers import remember


class Moody:
    """An object whose hash changes: filed under one, it is looked for under another."""

    def __init__(self) -> None:
        self.n_asked = 0

    def __hash__(self) -> int:
        self.n_asked += 1
        return self.n_asked


NAN = float("nan")
INFINITY = float("inf")
NO_NUMBERS = ["a", b"a", None, 1.5, NAN, INFINITY, [1], {}, np.float32(2), 1j, ...]
TOKENS = [-1, 2**32, 2**80, *NO_NUMBERS]
IDS = np.array([0, 1, 2])


class Place:
    """A model in token time in the middle of its work, and leases of all kinds."""

    def __init__(self) -> None:
        self.model = TokenTime(n_pages=24, page_size=2, vocab_size=100)
        self.router: Router = self.model.router
        self.cache: RadixCache = self.router.cache
        self.manager: PageManager = self.router.page_manager
        self.scheduler = Scheduler(self.model, token_budget=8)
        self.running = self.scheduler.submit([1, 2, 3], 6)
        self.scheduler.step()
        remember(self.cache, [7, 7, 8, 8])
        self.waiting = self.scheduler.submit([4, 5, 6], 2, priority=1)
        self.lease = self.router.admit([9, 9, 9], "tenant", 3)
        self.ended = self.router.admit([1])
        self.router.cancel(self.ended)
        self.foreign = TokenTime(4, 2).router.admit([1, 2])
        self.pages = self.manager.allocate(3)

    def state(self) -> Any:
        scheduler = self.scheduler
        requests = [
            (r.number, r.key, r.namespace, r.priority, r.outcome, r.lease)
            for r in (*scheduler.inbox, *scheduler.waiting, *scheduler.running)
        ]
        return snapshot(self.router), requests, scheduler.n_steps, self.model.now


LEASES: dict[str, Callable[[Place], Any]] = {
    "one that has ended": lambda place: place.ended,
    "another router's": lambda place: place.foreign,
    "None": lambda place: None,
    "a number": lambda place: 0,
    "a list": lambda place: [place.lease],
    "a request": lambda place: place.running,
}
NAMESPACES = [True, 1.0, NAN, b"a", [], {}, {"a"}, ("a", [1]), ("a", True), Moody(), 1j]
PAGES = [
    None,
    3,
    "ab",
    [0, 1, 2],
    IDS.astype(float),
    IDS.reshape(1, 3),
    IDS - 1,
    IDS + 99,
    IDS == 0,
]


class Case(NamedTuple):
    """A call with one argument left open, and the bad values for it."""

    name: str
    call: Callable[[Place, Any], Any]
    bad: list[Any]
    kind: str = "{!r}"


COUNTS = [-1, 2**80, *NO_NUMBERS]
FROM_ONE = [0, *COUNTS]

CASES = [
    # Chapter 03
    Case("PageManager(n_pages)", lambda p, x: PageManager(x), [0, -1, *NO_NUMBERS]),
    Case(
        "PageManager(page_size)", lambda p, x: PageManager(4, x), [0, -1, *NO_NUMBERS]
    ),
    Case("PageManager.allocate", lambda p, x: p.manager.allocate(x), [-1, *NO_NUMBERS]),
    Case("PageManager.retain", lambda p, x: p.manager.retain(x), PAGES),
    Case("PageManager.release", lambda p, x: p.manager.release(x), PAGES),
    Case("PageManager.held", lambda p, x: p.manager.held(x), PAGES),
    # Chapter 04
    Case(
        "RadixCache(policy)",
        lambda p, x: RadixCache(PageManager(4), x),
        ["best", None, 1, NAN, []],
    ),
    Case("RadixCache.match(tokens)", lambda p, x: p.cache.match([1, x]), TOKENS),
    Case(
        "RadixCache.match(all)", lambda p, x: p.cache.match(x), [None, 1, "ab", b"abc"]
    ),
    Case("RadixCache.match(namespace)", lambda p, x: p.cache.match([1], x), NAMESPACES),
    Case(
        "RadixCache.insert(tokens)",
        lambda p, x: p.cache.insert([1, x], p.pages),
        TOKENS,
    ),
    Case("RadixCache.insert(pages)", lambda p, x: p.cache.insert([1] * 6, x), PAGES),
    Case(
        "RadixCache.insert(namespace)",
        lambda p, x: p.cache.insert([1, 2], p.pages, x),
        NAMESPACES,
    ),
    Case("RadixCache.evict", lambda p, x: p.cache.evict(x), [-1, *NO_NUMBERS]),
    # Chapter 05
    Case(
        "Router(vocab_size)",
        lambda p, x: Router(RadixCache(PageManager(4)), vocab_size=x),
        [0, -1, *NO_NUMBERS],
    ),
    Case(
        "Router(max_tokens)",
        lambda p, x: Router(RadixCache(PageManager(4)), max_tokens=x),
        [x for x in [0, -1, *NO_NUMBERS] if x is not None],
    ),
    Case(
        "Router.match_prefix(tokens)", lambda p, x: p.router.match_prefix([x]), TOKENS
    ),
    Case(
        "Router.match_prefix(namespace)",
        lambda p, x: p.router.match_prefix([1], x),
        NAMESPACES,
    ),
    Case("Router.admit(token)", lambda p, x: p.router.admit([1, x]), [100, *TOKENS]),
    Case(
        "Router.admit(tokens)",
        lambda p, x: p.router.admit(x),
        [[], (), b"", None, 1, "ab", b"abc", [[1]], [1] * 99, {}],
    ),
    Case("Router.admit(namespace)", lambda p, x: p.router.admit([1], x), NAMESPACES),
    Case("Router.admit(room)", lambda p, x: p.router.admit([1], None, x), COUNTS),
    Case("Router.fork(room)", lambda p, x: p.router.fork(p.lease, x), COUNTS),
    Case("Router.grow(room)", lambda p, x: p.router.grow(p.lease, x), COUNTS),
    Case("Router.checked_key", lambda p, x: p.router.checked_key([x]), [100, *TOKENS]),
    Case("Lease.append", lambda p, x: p.lease.append(x), [100, *TOKENS]),
    Case("Lease.advance", lambda p, x: p.lease.advance(x), [4, *COUNTS]),
    *(
        Case(
            f"Router.{name}(lease)",
            lambda p, x, name=name: getattr(p.router, name)(LEASES[x](p)),
            list(LEASES),
            "{}",
        )
        for name in ("commit", "fork", "grow", "finish", "cancel", "check_live")
    ),
    # Chapter 08
    Case(
        "Scheduler.submit(token)",
        lambda p, x: p.scheduler.submit([1, x]),
        [100, *TOKENS],
    ),
    Case(
        "Scheduler.submit(tokens)",
        lambda p, x: p.scheduler.submit(x, 2),
        [[], (), [[1]], [1] * 99],
    ),
    Case(
        "Scheduler.submit(max_new_tokens)",
        lambda p, x: p.scheduler.submit([1], x),
        FROM_ONE,
    ),
    Case(
        "Scheduler.submit(namespace)",
        lambda p, x: p.scheduler.submit([1], 1, namespace=x),
        NAMESPACES,
    ),
    Case(
        "Scheduler.submit(priority)",
        lambda p, x: p.scheduler.submit([1], 1, priority=x),
        NO_NUMBERS,
    ),
    *(
        Case(
            f"Scheduler({name})",
            lambda p, x, name=name: Scheduler(p.model, **{name: x}),
            [
                bad
                for bad in [0, -1, *NO_NUMBERS]
                if bad is not None or name in ("token_budget", "patience")
            ],
        )
        for name in ("token_budget", "max_running", "chunk_tokens", "patience")
    ),
    Case(
        "Scheduler(lpm_fallback)",
        lambda p, x: Scheduler(p.model, lpm_fallback=x),
        [-1, *(bad for bad in NO_NUMBERS if bad is not None)],
    ),
    Case(
        "Scheduler(order)",
        lambda p, x: Scheduler(p.model, order=x),
        ["lifo", None, 1, NAN, []],
    ),
]


def all_calls() -> Iterator[Any]:
    for case in CASES:
        for number, bad in enumerate(case.bad):
            name = case.kind.format(bad) if len(repr(bad)) < 40 else type(bad).__name__
            yield pytest.param(case, bad, id=f"{case.name} {number} {name}")


def names_of(case: Case, bad: Any) -> list[str]:
    """One of these is to be in the message: the value, one in it, or how many."""
    if case.bad == list(LEASES):
        return ["a lease is what admit and fork return, not", "this lease is not live"]
    if isinstance(bad, np.ndarray):
        bad = [bad, *bad.tolist()]
    if isinstance(bad, Sized):
        return [repr(bad), str(len(bad)), *(repr(part) for part in bad)]
    return [repr(bad)]


@pytest.mark.parametrize(("case", "bad"), list(all_calls()))
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(case: Case, bad: Any):
    place = Place()
    before = place.state()
    words = "|".join(re.escape(name) for name in names_of(case, bad))
    with pytest.raises(ValueError, match=words):
        case.call(place, bad)
    assert place.state() == before
    place.manager.release(place.pages)
    check_scheduler(place.scheduler)
    place.router.cancel(place.lease)
    place.scheduler.run()
    assert place.running.outcome == place.waiting.outcome == "finished"

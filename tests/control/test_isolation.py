"""What requests of different namespaces share: no page, and so no hit.

Within a namespace a hit is faster than a miss, so whoever may send requests there can
tell what others have sent. That is what a salt is for: across namespaces the time does
not tell how much of a guess is right. (How busy the others are, it does tell: the pool
and the steps are everybody's.)
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable
from contextlib import suppress

import pytest

from radix_lib.admission import NewTokenRatio
from radix_lib.eviction import POLICIES
from radix_lib.orders import ORDERS
from radix_lib.page_manager import OutOfPages
from radix_lib.request import Request
from radix_lib.router import Lease, Namespace
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Cost, TokenTime
from tests.support.inspection import check_idle

NAMES: list[Hashable] = [
    None,
    "",
    "a",
    0,
    ("a",),
    Namespace("a", "bc"),
    Namespace("ab", "c"),
]


def pages_by_namespace(scheduler: Scheduler) -> dict[Hashable, set[int]]:
    """The pages of each namespace, those in the tree and those in page tables."""
    held: dict[Hashable, set[int]] = defaultdict(set)
    for node in scheduler.router.cache.nodes():
        held[node.namespace] |= {*node.pages.tolist()}
    for lease in scheduler.router.leases:
        held[lease.namespace] |= {*lease.page_table.tolist()}
    return held


def check_apart(scheduler: Scheduler) -> None:
    held = pages_by_namespace(scheduler)
    everyones = [page for pages in held.values() for page in pages]
    assert len(everyones) == len(set(everyones)), f"a page is shared: {held}"


class Traffic:
    """Requests of all namespaces, which all say the same, in one scheduler."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        draw = self.rng.choice
        page_size = draw([1, 2, 7, 16])
        self.model = TokenTime(
            n_pages=draw([6, 12, 40]), page_size=page_size, policy=draw(list(POLICIES))
        )
        self.router = self.model.router
        self.scheduler = Scheduler(
            self.model,
            token_budget=draw([4, 16, 64]),
            order=draw(list(ORDERS)),
            chunk_tokens=draw([None, 3]),
            share_in_batch=draw([True, False]),
            prefill_first=draw([True, False]),
            ratio=NewTokenRatio(0, 0),
        )
        self.requests: list[Request] = []
        self.forks: list[Lease] = []
        self.n_hits = 0

    def operate(self) -> None:
        name = self.rng.choice(NAMES)
        operation = self.rng.choice(
            [
                "submit",
                "submit",
                "step",
                "step",
                "step",
                "cancel",
                "fork",
                "end",
                "flush",
            ]
        )
        if operation == "submit" and self.scheduler.n_unfinished < 12:
            longest = self.router.max_tokens
            n_tokens = self.rng.randint(1, longest // 2)
            n_new = self.rng.randint(1, longest - n_tokens)
            self.requests.append(
                self.scheduler.submit(range(n_tokens), min(n_new, 9), namespace=name)
            )
        elif operation == "step":
            self.n_hits += sum(r.n_cached > 0 for r in self.scheduler.step().admitted)
        elif operation == "cancel" and self.requests:
            self.rng.choice(self.requests).cancel()
        elif operation == "fork" and self.router.leases and len(self.forks) < 2:
            lease = self.rng.choice(list(self.router.leases))
            with suppress(OutOfPages):
                self.forks.append(self.router.fork(lease))
        elif operation == "end" and self.forks:
            self.router.finish(self.forks.pop())
        elif operation == "flush" and not self.router.leases:
            self.router.flush()

    def finish(self) -> None:
        for lease in self.forks:
            self.router.cancel(lease)
        while self.scheduler.n_unfinished:
            self.scheduler.advance()
            check_apart(self.scheduler)
        check_idle(self.router)


def play(seeds: range, n_operations: int) -> int:
    """Returns how many requests were hits."""
    n_hits = 0
    for seed in seeds:
        traffic = Traffic(seed)
        for _ in range(n_operations):
            traffic.operate()
            check_apart(traffic.scheduler)
            traffic.router.check_integrity()
        traffic.finish()
        n_hits += traffic.n_hits
    return n_hits


def test_no_page_is_shared_between_namespaces_in_any_interleaving():
    assert play(range(60), 100) > 90  # within them, many are


@pytest.mark.long
def test_no_page_is_shared_between_namespaces_at_length():
    assert play(range(1_000, 2_000), 500) > 10_000


def test_a_page_that_is_shared_between_namespaces_is_seen():
    traffic = Traffic(0)
    router = traffic.router
    with router.admit([1], "a") as ours, router.admit([1], "b") as theirs:
        check_apart(traffic.scheduler)
        own = ours.page_table
        ours.page_table = theirs.page_table
        with pytest.raises(AssertionError, match="a page is shared"):
            check_apart(traffic.scheduler)
        ours.page_table = own


SECRET = [7, 1, 3, 3, 7, 0, 4, 2]


def ticks_to_first_token(guess: list[int], namespace: Hashable) -> float:
    """What somebody measures who asks `guess` after Ann, of "ann", sent the secret."""
    model = TokenTime(n_pages=32, page_size=2, cost=Cost(a=10, b=1, c=0))
    scheduler = Scheduler(model)
    scheduler.submit(SECRET, 1, namespace="ann").wait()
    request = scheduler.submit(guess, 1, namespace=namespace)
    request.wait()
    assert request.first_token_at is not None
    return request.first_token_at - request.submitted_at


def guesses() -> list[list[int]]:
    """Guesses that are right for so many tokens, and wrong from there on."""
    return [SECRET[:n] + [9] * (9 - n) for n in range(len(SECRET) + 1)]


def test_within_a_namespace_the_time_tells_how_much_of_a_guess_is_right():
    ticks = [ticks_to_first_token(guess, "ann") for guess in guesses()]
    assert ticks == [19, 19, 17, 17, 15, 15, 13, 13, 11]  # a page of two at a time


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ann"], ids=repr)
def test_across_namespaces_the_time_tells_nothing_of_a_guess(name: Hashable):
    assert {ticks_to_first_token(guess, name) for guess in guesses()} == {19}

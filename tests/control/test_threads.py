"""Threads that share a router: each call is whole, and each reads its own K/V.

They are as entangled as Python can make them, in a pool too small for all.
"""

from __future__ import annotations

import gc
import random
import threading
from functools import partial

import pytest

from radix_lib.page_manager import OutOfPages
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import check_idle
from tests.support.small_routers import router_of
from tests.support.streams import forgotten_stream
from tests.support.threads import together


class Client:
    """Sends requests, computes them in chunks, forks some, and ends each somehow."""

    def __init__(self, router: Router, memory: Memory, seed: int):
        self.router = router
        self.memory = memory
        self.random = random.Random(seed)
        self.n_served = 0

    def serve(self) -> None:
        """One request from start to end, or until pages are short."""
        # Two words that differ in their last token: prompts meet, and part in a page.
        words = self.random.choices([(0, 0), (0, 1)], k=self.random.randint(1, 4))
        tokens = [token for word in words for token in word] + [7]
        lease = self.router.admit(tokens, max_new_tokens=1)
        try:
            self.work(lease)
            if self.random.random() < 0.3:
                fork = self.router.fork(lease, 2)
                try:
                    self.copy_tail(lease, fork)
                    fork.append(self.random.randrange(2))
                    self.work(fork)
                finally:
                    self.router.finish(fork)
            lease.append(self.random.randrange(2))
            self.work(lease)
        except OutOfPages:
            pass
        finally:
            end = self.random.choice([self.router.finish, self.router.cancel])
            end(lease)
        self.n_served += 1

    def work(self, lease: Lease) -> None:
        self.memory.check(lease)
        while lease.pending:
            self.memory.compute(lease, min(3, len(lease.pending)))
            self.router.commit(lease)
            self.memory.check(lease)

    def copy_tail(self, lease: Lease, fork: Lease) -> None:
        tail = fork.n_shared
        if fork.n_computed > tail * self.router.page_size:
            source = int(lease.page_table[tail])
            self.memory.copy_page(source, int(fork.page_table[tail]))

    def forget(self) -> None:
        """Lose a stream, and have it closed on whichever thread collects it."""
        forgotten_stream(self.router, self.memory, [0, 0, 0, 1, 9])
        gc.collect(0)


@pytest.mark.parametrize(("n_threads", "n_rounds"), [(2, 150), (8, 40)])
def test_threads_read_their_own_and_lose_no_page(n_threads, n_rounds):
    router = router_of(n_pages=10, page_size=2)
    memory = Memory(2)
    clients = [Client(router, memory, seed) for seed in range(n_threads)]

    def run(client: Client) -> None:
        for number in range(n_rounds):
            try:
                client.serve()
                if number % 20 == 0:
                    client.forget()
            except OutOfPages:
                continue
            assert sum(router.usage()) == 10
            assert min(router.usage()) >= 0

    together(*(partial(run, client) for client in clients))
    assert sum(client.n_served for client in clients) > n_rounds
    gc.collect()
    check_idle(router)


CALLS = {
    "admit": lambda router, lease: router.admit([4, 5, 6]),
    "match_prefix": lambda router, lease: router.match_prefix([4, 5, 6]),
    "commit": lambda router, lease: router.commit(lease),
    "fork": lambda router, lease: router.fork(lease),
    "grow": lambda router, lease: router.grow(lease, 9),
    "finish": lambda router, lease: router.finish(lease),
    "cancel": lambda router, lease: router.cancel(lease),
    "usage": lambda router, lease: router.usage(),
    "check_integrity": lambda router, lease: router.check_integrity(),
    "repair": lambda router, lease: router.repair(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_waits_for_that_of_another_thread(name):
    router = router_of()
    lease = router.admit([7, 8, 9])
    lease.advance(3)
    inside = threading.Event()
    go_on = threading.Event()
    done: list[str] = []

    def match(*args):
        del router.cache.match
        inside.set()
        go_on.wait()
        return router.cache.match(*args)

    def admit():
        router.admit([1, 2, 3])
        done.append("admit")

    def call():
        CALLS[name](router, lease)
        done.append(name)

    router.cache.match = match
    first = threading.Thread(target=admit)
    second = threading.Thread(target=call)
    first.start()
    inside.wait()
    second.start()
    second.join(timeout=0.02)
    done_inside = list(done)
    go_on.set()
    first.join()
    second.join()
    assert done_inside == []
    assert sorted(done) == sorted(["admit", name])
    for own in list(router.leases):
        router.cancel(own)
    check_idle(router)

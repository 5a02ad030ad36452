"""Chapter 08: what admission and retraction rest on.

How many pages to keep back for those who run, whom to send back when that was too
little, and whose prefix a neighbour is about to compute. Source: SGLang 0.5.9,
`managers/scheduler.py`, `managers/schedule_batch.py`, `managers/schedule_policy.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np

from radix_lib.radix_tree import TOKEN_BYTES, RadixTree
from radix_lib.request import Request
from radix_lib.router import Router


class NewTokenRatio:
    """What share of the tokens that may still come gets a reserve of pages.

    It falls from `start` by `decay` in each decode step, down to `floor`, since most
    answers end early, and rises when that was too bold. Numbers and formula are
    SGLang's (0.5.9), whose ratio may also fall after a retraction.
    `NewTokenRatio(1, 1)` reserves all that may come.
    """

    def __init__(self, start: float = 0.7, floor: float = 0.098, decay: float = 0.001):
        if not (0 <= floor <= start <= 1 and decay >= 0):
            raise ValueError(
                f"start={start}, floor={floor}, decay={decay}: the first two are shares, "
                "0 ≤ floor ≤ start ≤ 1, and decay is not negative"
            )
        self.value = start
        self.floor = floor
        self.decay = decay

    def fall(self) -> None:
        """After a decode step in which all had room."""
        self.value = max(self.floor, self.value - self.decay)

    def rise(self, running: Collection[Request]) -> None:
        """After a retraction: to what those who run have used, and 20 tokens more."""
        used = sum(request.n_output + 20 for request in running)
        most = sum(request.max_new_tokens for request in running)
        self.value = max(self.value, min(1.0, used / (most + 1)))

    def expected_tokens(self, request: Request) -> int:
        """How many tokens a request is expected to have when it ends."""
        n_left = request.max_new_tokens - request.n_output
        return request.n_tokens + math.ceil(self.value * n_left)


class PageBudget:
    """What the pages of a pool are needed for: now, and as far as can be foreseen."""

    def __init__(self, router: Router, ratio: NewTokenRatio):
        self.router = router
        self.ratio = ratio

    @property
    def n_available(self) -> int:
        """How many pages can be had now: free ones, and those that can be evicted."""
        return self.router.page_manager.n_free + self.router.cache.n_evictable

    def n_expected(self, request: Request) -> int:
        """How many pages a request is expected to have when it ends."""
        return self.router.page_manager.pages_for(self.ratio.expected_tokens(request))

    def n_promised(self, running: Iterable[Request]) -> int:
        """How many pages those who run are expected to ask for yet."""
        return sum(
            self.n_expected(request) - len(request.lease.page_table)
            for request in running
            if request.lease
        )

    def fits_cold(self, request: Request, n_promised: int) -> bool:
        """Whether a request fits beside what is promised, with nothing of it cached."""
        return self.n_expected(request) + n_promised <= self.n_available

    def fits(self, request: Request, n_promised: int) -> bool:
        """Whether it fits, given what is cached of it: one look into the tree.

        Cached pages need not be allocated. Those that nobody locks yet cannot be
        evicted either, once the request locks them: to count what is evictable before
        the lock would be to count them twice.
        """
        n_pages = self.n_expected(request) + n_promised
        return self.router.has_room(request.key, request.namespace, n_pages)


def first_to_retract(request: Request) -> tuple[int, int, int, int]:
    """The least important, then fewest outputs, then the longest prompt, the newest."""
    return request.priority, request.n_output, -request.n_prompt, -request.number


class Coming:
    """The prompts that those who run are about to compute, in a tree of their own.

    In place of a page id it holds 1 for a page whose K/V are still to come, 0 for one
    that is there. Pages of an answer are shared when it ends: nobody waits for them.
    """

    def __init__(self, running: Iterable[Request], page_size: int):
        self.tree = RadixTree(page_size)
        for request in running:
            if not request.is_decoding:
                self.add(request)

    def add(self, request: Request) -> None:
        """Enter the whole pages of a running request."""
        page_size = self.tree.page_size
        n_computed = (request.n_tokens - request.n_pending) // page_size
        still_to_come = np.arange(request.n_tokens // page_size) >= n_computed
        pages = still_to_come.astype(np.int64)
        self.tree.insert(request.key, pages, request.namespace)

    def has_part_of(self, request: Request) -> bool:
        """Whether a page that `request` needs is about to be computed for another."""
        usable = request.key[:-TOKEN_BYTES]
        return bool(self.tree.match(usable, request.namespace).pages.any())

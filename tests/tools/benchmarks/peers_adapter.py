"""This library in a bench of several caches: a step is the whole life of a request.

Timed on our side, through public `Router` calls: packing and checking the prompt's
token ids, match, lock, eviction, allocation with a count a page, the page table as the
integer array that the executor reads, insertion, duplicates, unlock, release. On
SGLang's side: its own match, lock, evict, alloc, the row of `req_to_token`,
`cache_finished_req` or `checkpoint`; its keys are built untimed in `prepare`, and it
keeps no count a page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from radix_lib import PageManager, RadixCache, Router


class Ours:
    """`Router` over a `RadixCache` of `cap` tokens in pages of `page` tokens."""

    def __init__(self, cap: int, page: int, policy: str = "lru"):
        self.cap = cap // page * page
        self.router = Router(
            RadixCache(PageManager(cap // page, page), policy), vocab_size=32000
        )

    def prepare(self, requests: list[list[int]]) -> list[list[int]]:
        """Nothing is built before the clock starts."""
        return requests

    def step(self, tokens: Sequence[int]) -> int:
        """A request's life; returns the tokens that were found."""
        lease = self.router.admit(tokens)
        lease.advance(lease.n_tokens - lease.n_cached)
        self.router.finish(lease)
        return lease.n_cached

    def check(self) -> dict[str, int]:
        """Nothing is held at the end."""
        self.router.check_integrity()
        usage = self.router.usage()
        assert usage.locked == usage.private == 0, usage
        return {"free": usage.free, "unlocked": usage.unlocked}

"""Chapter 09: recorded traffic, replayed. What would a cache have found?

A trace has a number for each block of a prompt, and no text (`trace_files`). That is
all a prefix cache needs: a trace is replayed on the control plane alone, one request at
a time, a block in place of a token.

Left out here: when requests overlap (`scheduler`), and made traffic (`workloads`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import pack_tokens
from radix_lib.router import Router
from radix_lib.trace_files import Recorded
from radix_lib.workloads import Workload


class Replayed(NamedTuple):
    """What a cache found of a trace. A block counts as found before its own request."""

    requests: int
    requests_with_hits: int
    blocks: int
    hits: int  # blocks

    @property
    def hit_rate(self) -> float:
        """Blocks found ÷ blocks asked for."""
        return self.hits / self.blocks if self.blocks else 0.0


def replay(requests: Sequence[Recorded], n_pages: int, policy: str = "lru") -> Replayed:
    """Send a trace through a `Router` of `n_pages` pages, a block each, one by one.

    Whatever the tree has of a request counts, its last block included: the one token
    that a server always computes is less than a block. A request of more than `n_pages`
    blocks is asked for, and not kept.
    """
    return replay_through(
        Router(RadixCache(PageManager(n_pages, page_size=1), policy)), requests
    )


def replay_through(router: Router, requests: Sequence[Recorded]) -> Replayed:
    """As `replay`, through a router whose pages hold a block each."""
    n_pages = router.page_manager.n_pages
    hits = 0
    requests_with_hits = 0
    for request in requests:
        found = len(router.cache.match(request.blocks).pages)
        hits += found
        requests_with_hits += found > 0
        if len(request.blocks) <= n_pages:
            lease = router.admit(request.blocks)
            lease.advance(lease.n_tokens - lease.n_computed)
            router.finish(lease)
    blocks = sum(len(request.blocks) for request in requests)
    return Replayed(len(requests), requests_with_hits, blocks, hits)


def replay_with_foresight(requests: Sequence[Recorded], n_pages: int) -> Replayed:
    """As `replay`, with a cache that knows what will come: the most any can find.

    The page whose block is needed furthest ahead goes first (L. A. Belady, *A study of
    replacement algorithms*, IBM Systems Journal 5(2), 1966). Whoever needs a block
    needs those before it, so no block outlives its prefix.
    """
    next_use = _next_uses(requests)
    cached: dict[int, int] = {}  # block → the request that needs it next
    furthest: list[tuple[int, int, int]] = []  # (-next use, -place in a prompt, block)
    hits = 0
    requests_with_hits = 0
    for number, request in enumerate(requests):
        found = 0
        while found < len(request.blocks) and request.blocks[found] in cached:
            found += 1
        hits += found
        requests_with_hits += found > 0
        if len(request.blocks) > n_pages:
            continue
        # What a request needs is its own while it runs: it is entered when it ends.
        for block in request.blocks[:found]:
            cached.pop(block, None)
        n_room = n_pages - len(request.blocks)
        while len(cached) > n_room:
            use, _, block = heappop(furthest)
            if cached.get(block) == -use:
                del cached[block]
        for place, block in enumerate(request.blocks):
            use = next_use[number][place]
            cached[block] = use
            heappush(furthest, (-use, -place, block))
    blocks = sum(len(request.blocks) for request in requests)
    return Replayed(len(requests), requests_with_hits, blocks, hits)


def _next_uses(requests: Sequence[Recorded]) -> list[list[int]]:
    """For each block of each request, the number of the next request that has it."""
    never = len(requests)
    seen: dict[int, int] = {}
    uses: list[list[int]] = []
    for number in range(len(requests) - 1, -1, -1):
        blocks = requests[number].blocks
        uses.append([seen.get(block, never) for block in blocks])
        seen.update(dict.fromkeys(blocks, number))
    uses.reverse()
    return uses


def distinct_blocks(requests: Sequence[Recorded]) -> int:
    """How many pages hold all of a trace: with as many, a cache forgets nothing."""
    return len({block for request in requests for block in request.blocks})


# ── Made traffic as a trace ──────────────────────────────────────────────────────────


def recorded(workload: Workload, page_size: int) -> list[Recorded]:
    """What a recorder would have written of a workload: its prompts, in whole pages.

    A block has a number of its own for each text before it, as a hash would say. The
    answers are not in it, until a next turn repeats them.
    """
    names: dict[tuple[int, bytes], int] = {}
    trace = []
    for request in workload:
        blocks: list[int] = []
        before = -1
        for start in range(0, len(request.prompt) - page_size + 1, page_size):
            tokens = pack_tokens(request.prompt[start : start + page_size])
            before = names.setdefault((before, tokens), len(names))
            blocks.append(before)
        if blocks:
            n_output = request.max_new_tokens
            trace.append(Recorded(request.time, len(request.prompt), n_output, blocks))
    return trace


def made_trace(n: int, seed: int = 0) -> list[Recorded]:
    """A trace like Mooncake's of conversations, for those who have none: no real one.

    Its shape was read off that trace (FAST'25): all share the first block; 37 of 100 go
    on where one of some hundred requests before ended, the others begin anew.
    """
    rng = random.Random(seed)
    trace: list[Recorded] = []
    n_names = 1
    for number in range(n):
        gap = 90 + int(rng.lognormvariate(5.8, 1.05))  # requests, 420 in the median
        if rng.random() < 0.37 and gap <= number:
            blocks = trace[number - gap].blocks
            n_new = rng.lognormvariate(0.9, 1.2)
        else:
            blocks = [0]
            n_new = rng.lognormvariate(2.2, 1.2)
        n_new = min(250, max(1, round(n_new)))
        blocks = blocks + list(range(n_names, n_names + n_new))
        n_names += n_new
        trace.append(Recorded(0.3 * number, 512 * len(blocks), 350, blocks))
    return trace

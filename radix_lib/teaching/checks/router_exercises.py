"""Chapter 05: what a request reads, a staged interruption, the exercises' checks.

A check takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Memory

SYSTEM = list(b"You are a robot.")


def reading(lease: Lease, memory: Memory) -> str:
    """What a request reads in its pages, a letter a token; ? where nothing is written.

    >>> router = Router(RadixCache(PageManager(n_pages=2, page_size=2)))
    >>> memory = Memory(page_size=2)
    >>> lease = router.admit(list(b"Hi!"))
    >>> memory.compute(lease, 2)
    >>> lease.advance(1)               # nothing was computed for it
    >>> reading(lease, memory)
    'Hi?'
    """
    letters = []
    for position in range(lease.n_computed):
        page, place = divmod(position, memory.page_size)
        written = memory.written.get((int(lease.page_table[page]), place))
        letters.append(chr(written[1][-1]) if written else "?")
    return "".join(letters)


def stop_inside(
    part: object, name: str, action: Callable[..., object], *arguments: object
) -> None:
    """Run an action that is interrupted where it first calls `part.name`."""

    def interrupted(*_: object) -> None:
        delattr(part, name)
        raise KeyboardInterrupt

    setattr(part, name, interrupted)
    with suppress(KeyboardInterrupt):
        action(*arguments)
    vars(part).pop(name, None)


def survives_interruptions(router_type: Any) -> None:
    """The books add up wherever admit, commit, fork and finish are interrupted.

    That is: at the first call that each makes of each part of cache and page manager.
    """
    in_cache = ["lock", "unlock", "insert_below", "match"]
    for name in (*in_cache, "retain", "release", "allocate"):
        for operation in ("admit", "commit", "fork", "finish"):
            router = router_type(RadixCache(PageManager(12, page_size=4)))
            part = router.cache if name in in_cache else router.page_manager
            other = router.admit(SYSTEM)
            lease = router.admit(SYSTEM)
            other.advance(8)
            lease.advance(12)
            router.commit(other)
            if operation == "admit":
                router.cancel(other)
                stop_inside(part, name, router.admit, list(b"Hi!"))
            else:
                stop_inside(part, name, getattr(router, operation), lease)
            router.check_integrity()


class _Noting(Router):
    """Notes how many tokens were computed at each commit."""

    def __init__(self, cache: RadixCache):
        super().__init__(cache)
        self.noted: list[int] = []

    def commit(self, lease: Lease) -> None:
        self.noted.append(lease.n_computed)
        super().commit(lease)


def bills_right(cached_tokens: Callable[[Router, Memory, list[int], int], int]) -> None:
    """`cached_tokens(router, memory, tokens, chunk)` serves in chunks; what was cached.

    A prompt of 16 tokens in chunks of 5, cold, then again with 12 of them cached.
    """
    router = _Noting(RadixCache(PageManager(12, page_size=4)))
    memory = Memory(4)
    for due, commits in (0, [5, 10, 15, 16]), (12, [16]):
        router.noted.clear()
        found = cached_tokens(router, memory, SYSTEM, 5)
        assert found == due, f"{found} cached tokens of 16 on the bill, not {due}"
        noted = router.noted
        assert noted == commits, f"commits at {noted} tokens, not at {commits}"
        assert not router.leases, "the request was not finished"
    router.check_integrity()


def tells_the_truth(would_fit: Callable[[Router, list[int]], bool]) -> None:
    """`would_fit(router, tokens)` says what `admit` would do now, and changes nothing.

    Three pools: nearly full, roomy with the hit locked, nearly full with it locked.
    """
    prompts = [b"", b" Bye now", b"!", b" Tell me more"]
    own = [b"Good day to you.", b"You are a wizard now", b"Hi", b"Y" * 24]
    for prompt in [*(bytes(SYSTEM) + more for more in prompts), *own]:
        for n_pages, busy in (8, False), (10, True), (8, True):
            router = _crowded(n_pages, busy)
            before = router.usage()
            n_nodes = len(list(router.cache.nodes()))
            told = would_fit(router, list(prompt))
            assert router.usage() == before, "something changed"
            assert len(list(router.cache.nodes())) == n_nodes, "a node was split"
            due = _is_admitted(router, list(prompt))
            assert told == due, f"{prompt.decode()!r}: {told}, but admit says {due}"


def _crowded(n_pages: int, busy: bool) -> Router:
    """4 pages in the tree, perhaps locked, 3 private, the rest free."""
    router = Router(RadixCache(PageManager(n_pages, page_size=4)))
    with router.admit(SYSTEM) as lease:
        lease.advance(len(SYSTEM))
    router.admit(list(b"Tell me more"))
    if busy:
        router.admit([*SYSTEM, *b"!"])
    return router


def _is_admitted(router: Router, tokens: list[int]) -> bool:
    try:
        router.admit(tokens)
    except OutOfPages:
        return False
    return True


class _Counting(Memory):
    """Counts the tokens that are computed."""

    n_written = 0

    def write(self, lease: Lease, positions: Any) -> None:
        self.n_written += len(positions)
        super().write(lease, positions)


BestOf = Callable[[Router, Memory, list[int], int], Sequence[Lease]]


def samples_apart(best_of: BestOf) -> None:
    """`best_of(router, memory, tokens, n)` gives n leases on tokens computed once."""
    router = Router(RadixCache(PageManager(16, page_size=4)))
    memory = _Counting(4)
    leases = best_of(router, memory, list(b"Pick a hue"), 3)
    n = memory.n_written
    assert n == 10, f"{n} tokens were computed for one prompt of 10"
    assert len({id(lease) for lease in leases}) == 3, "three different leases are due"
    for lease, answer in zip(leases, (b"red!", b"blue", b"pink"), strict=True):
        lease.append(*answer)
        memory.compute(lease)
    for lease in leases:
        text = reading(lease, memory)
        assert text == bytes(lease.tokens).decode(), f"a request reads {text!r}"
    assert router.usage().locked == 2, "the prompt's two whole pages are shared"

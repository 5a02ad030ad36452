"""Streams that somebody forgot: only garbage holds them, and a `with` block in each."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Memory


def stream(
    router: Router, memory: Memory, tokens: Sequence[int], room: int = 0
) -> Iterator[Lease]:
    """A request that is computed, and then waits for somebody to ask for more."""
    with router.admit(tokens, max_new_tokens=room) as lease:
        memory.compute(lease)
        yield lease


def forgotten_stream(
    router: Router, memory: Memory, tokens: Sequence[int], room: int = 0
) -> Lease:
    """The lease of a stream in a cycle: only the collector can close it."""
    started = stream(router, memory, tokens, room)
    cycle: list[object] = [started]
    cycle.append(cycle)
    return next(started)


@contextmanager
def no_automatic_collection() -> Iterator[None]:
    """Garbage stays until `gc.collect()`, which is quick: it leaves out what is old."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()

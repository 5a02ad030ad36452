"""Chapter 04: what to evict next. Policies, and a heap that need not be rebuilt.

SGLang 0.5.9 builds a heap of all evictable leaves at every call of `evict`, so an
eviction costs more the more leaves there are (`mem_cache/radix_cache.py`, `evict`).
Here a leaf enters the heap when it becomes evictable; an entry that is out of date is
recognised by its serial number and dropped when it surfaces, or when such entries
outnumber the live ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol


class Evictable(Protocol):
    """What a policy may look at. Times are ticks of the cache's own clock."""

    last_access: int
    created: int
    hits: int
    entry: int  # serial number of the node's entry in the heap, 0 for none


#: The leaf with the smallest value goes first.
POLICIES: dict[str, Callable[[Evictable], Any]] = {
    "lru": lambda node: node.last_access,
    "lfu": lambda node: (node.hits, node.last_access),
    "fifo": lambda node: node.created,
    "mru": lambda node: -node.last_access,
}


class EvictionHeap:
    """The evictable leaves, in the order of a policy.

    Add, discard and pop cost O(log n), on the average of many: now and then all entries
    are gone through, and those that are out of date dropped.
    """

    def __init__(self, policy: str):
        if policy not in tuple(POLICIES):  # it may be unhashable
            raise ValueError(
                f"no eviction policy {policy!r}: choose from {', '.join(POLICIES)}"
            )
        self._priority = POLICIES[policy]
        self.clear()

    def clear(self) -> None:
        """Forget every entry."""
        self._entries: list[tuple[Any, int, Any]] = []
        self._serial = 0
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def add(self, node: Evictable) -> None:
        """Enter a node at its present priority, in place of an entry that it has."""
        self._serial += 1
        if not node.entry:
            self._live += 1
        node.entry = self._serial
        heapq.heappush(self._entries, (self._priority(node), self._serial, node))
        if len(self._entries) > 2 * self._live + 64:
            self._compact()

    def discard(self, node: Evictable) -> None:
        """Take a node out, if it is in."""
        if node.entry:
            node.entry = 0
            self._live -= 1

    def pop(self) -> Any:
        """Take out the node to evict next. Raises IndexError if there is none."""
        while True:
            _, serial, node = heapq.heappop(self._entries)
            if node.entry == serial:
                self.discard(node)
                return node

    def _compact(self) -> None:
        self._entries = [entry for entry in self._entries if entry[2].entry == entry[1]]
        heapq.heapify(self._entries)

"""What the cache has to do, done the slow and obvious way: no tree, no heap, no split.

`PrefixOracle` remembers every prefix that is a whole number of pages long, one by one,
with the page that holds its last `page_size` tokens. The longest match is the longest
prefix remembered; what may be evicted is what is not locked and not continued.

`Memory` stands for the executor and its K/V pool: it remembers which prefix was written
to which slot, so that a page table that points to the wrong page is seen at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radix_lib.router import Lease

Prefix = tuple[Hashable, tuple[int, ...]]  # namespace, tokens


@dataclass
class Page:
    """One page of the cache: its id, and when it was used."""

    id: int
    created: int = 0
    last_use: int = 0
    hits: int = 0


#: The page with the smallest value goes first, among those that may go.
EVICTION_ORDER: dict[str, Callable[[Page], Any]] = {
    "lru": lambda page: page.last_use,
    "lfu": lambda page: (page.hits, page.last_use),
    "fifo": lambda page: page.created,
    "mru": lambda page: -page.last_use,
}


class PrefixOracle:
    """Every prefix seen, at page boundaries, and nothing cleverer."""

    def __init__(self, page_size: int, policy: str = "lru"):
        self.page_size = page_size
        self.policy = policy
        self.clock = 0
        self.pages: dict[Prefix, Page] = {}
        self.locks: list[Prefix] = []

    def prefixes(self, tokens: Sequence[int], namespace: Hashable) -> list[Prefix]:
        """All prefixes of `tokens` that are whole pages, shortest first."""
        ends = range(self.page_size, len(tokens) + 1, self.page_size)
        return [(namespace, tuple(tokens[:end])) for end in ends]

    def peek(self, tokens: Sequence[int], namespace: Hashable = None) -> list[int]:
        """The page ids of the longest prefix that is remembered."""
        found = []
        for prefix in self.prefixes(tokens, namespace):
            if prefix not in self.pages:
                break
            found.append(self.pages[prefix].id)
        return found

    def match(self, tokens: Sequence[int], namespace: Hashable = None) -> list[int]:
        """As `peek`, and the pages found count as used."""
        self.clock += 1
        found = self.peek(tokens, namespace)
        for prefix in self.prefixes(tokens, namespace)[: len(found)]:
            self.pages[prefix].last_use = self.clock
            self.pages[prefix].hits += 1
        return found

    def insert(
        self, tokens: Sequence[int], pages: Iterable[int], namespace: Hashable = None
    ) -> list[int]:
        """Remember all prefixes of `tokens`; return the pages of those known before."""
        self.clock += 1
        known = self.peek(tokens, namespace)
        for prefix, page in zip(self.prefixes(tokens, namespace), pages, strict=False):
            kept = self.pages.setdefault(prefix, Page(page, created=self.clock))
            kept.last_use = self.clock
        return known

    def is_locked(self, prefix: Prefix) -> bool:
        """A prefix is locked with every longer one that is."""
        namespace, tokens = prefix
        return any(
            namespace == other and tokens == longer[: len(tokens)]
            for other, longer in self.locks
        )

    def may_go(self) -> list[Prefix]:
        """The prefixes that may be evicted now: not locked, not continued."""
        continued = {(space, tokens[: -self.page_size]) for space, tokens in self.pages}
        return [p for p in self.pages if p not in continued and not self.is_locked(p)]

    def evict(self, n_pages: int) -> list[int]:
        """Forget `n_pages`, one after another, and return their ids."""
        order = EVICTION_ORDER[self.policy]
        evicted = []
        for _ in range(n_pages):
            first = min(self.may_go(), key=lambda prefix: order(self.pages[prefix]))
            evicted.append(self.pages.pop(first).id)
        return evicted

    @property
    def n_locked(self) -> int:
        """How many pages are locked."""
        return sum(self.is_locked(prefix) for prefix in self.pages)

    @property
    def n_evictable(self) -> int:
        """How many pages are not: all of them can go, the last of each prefix first."""
        return len(self.pages) - self.n_locked


@dataclass
class Memory:
    """Which prefix was written last to each slot of each page: K/V without the numbers.

    K and V of a token depend on it and on all tokens before it, so a slot is right for
    a request exactly when the prefix that was written there is the request's own.
    """

    page_size: int
    written: dict[tuple[int, int], Prefix] = field(default_factory=dict)

    def compute(self, lease: Lease, n_tokens: int | None = None) -> None:
        """Do what an executor does: write the next tokens' slots, then say so."""
        first = lease.n_computed
        count = lease.n_tokens - first if n_tokens is None else n_tokens
        self.write(lease, range(first, first + count))
        lease.advance(count)

    def write(self, lease: Lease, positions: Iterable[int]) -> None:
        """Write the K/V of a request's tokens at `positions`."""
        for position in positions:
            self.written[self._slot(lease, position)] = self._due(lease, position)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page."""
        for i in range(self.page_size):
            if (source, i) in self.written:
                self.written[target, i] = self.written[source, i]

    def check(self, lease: Lease) -> None:
        """All K/V that a lease says it has are there, and are its own."""
        for position in range(lease.n_computed):
            found = self.written.get(self._slot(lease, position))
            due = self._due(lease, position)
            assert found == due, (
                f"position {position} reads the K/V of {found}, not of {due}"
            )

    def _slot(self, lease: Lease, position: int) -> tuple[int, int]:
        page, place = divmod(position, self.page_size)
        return int(lease.page_table[page]), place

    def _due(self, lease: Lease, position: int) -> Prefix:
        return lease.namespace, tuple(lease.tokens[: position + 1])

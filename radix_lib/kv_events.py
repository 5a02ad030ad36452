"""Chapter 10: KV events. A cache tells what it keeps, so that a router need not guess.

A router that remembers past requests does not see what a worker has evicted since. So
the cache tells: which blocks it stored, which it removed, that all are gone. A block is
a page of tokens, named by a hash of itself *and of all before it*, so that equal names
mean equal prefixes, on any worker.

Left out here: how events travel, and who reads the index (`dispatch`). Source: SGLang
0.5.9, `disaggregation/kv_events.py`, whose events are also vLLM's.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from numbers import Integral
from typing import Any, NamedTuple

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.radix_tree import TOKEN_BYTES, Pages, pack_tokens, unpack_tokens


class BlockStored(NamedTuple):
    """Blocks that follow one another were stored."""

    block_hashes: list[bytes]
    parent_block_hash: bytes | None  # of the block before the first; None: it is first
    token_ids: list[int]
    block_size: int


class BlockRemoved(NamedTuple):
    """Blocks were evicted."""

    block_hashes: list[bytes]


class AllBlocksCleared(NamedTuple):
    """Nothing is stored any more."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


def block_hashes(
    key: bytes, block_size: int, namespace: Hashable = None, parent: bytes | None = None
) -> list[bytes]:
    """The name of each whole block of packed tokens that follow `parent`.

    A first block's name begins with the namespace, so that no two of them share names.
    Equal ones, of texts, whole numbers and tuples of these, have the same.
    """
    n_bytes = block_size * TOKEN_BYTES
    names = []
    for start in range(0, len(key) - n_bytes + 1, n_bytes):
        before = repr(_plain(namespace)).encode() if parent is None else parent
        parent = sha256(before + key[start : start + n_bytes]).digest()
        names.append(parent)
    return names


def _plain(namespace: Hashable) -> Hashable:
    """A namespace in Python's own types: what is equal is written alike."""
    if isinstance(namespace, tuple):
        return tuple(map(_plain, namespace))
    if isinstance(namespace, str):
        return str(namespace)
    return int(namespace) if isinstance(namespace, Integral) else namespace


class TellingCache(RadixCache):
    """A `RadixCache` that keeps a list of `events`, for whoever takes them away.

    If nobody does, there are at most about twice as many as pages: then the whole tree
    is told anew, in place of all that.
    """

    def __init__(self, page_manager: PageManager, policy: str = "lru"):
        super().__init__(page_manager, policy)
        self.events: deque[Event] = deque()
        self.names: dict[int, bytes] = {}  # page in the tree → the name of its block

    def take_events(self) -> list[Event]:
        """All events since the last call. Other threads may add or take some."""
        events = self.events
        taken = []
        with suppress(IndexError):  # there are no more
            while True:
                taken.append(events.popleft())
        return taken

    def evict(self, n_pages: int) -> Pages:
        """As in the cache; the blocks are told of."""
        pages = super().evict(n_pages)
        if len(pages):
            removed = [self.names.pop(page) for page in pages.tolist()]
            self._tell(BlockRemoved(removed))
        return pages

    def rebuild(self, locked: Iterable[CacheNode]) -> None:
        """As in the cache; whatever was told before, the tree is told anew."""
        super().rebuild(locked)
        self._tell_anew()

    def _add_leaf(self, parent: Any, key: bytes, pages: Pages) -> Any:
        leaf = super()._add_leaf(parent, key, pages)
        self._tell_stored(leaf)
        return leaf

    def _tell_stored(self, node: CacheNode) -> None:
        before = node.parent
        assert before is not None
        parent = self.names[int(before.pages[-1])] if len(before.pages) else None
        names = block_hashes(node.key, self.page_size, node.namespace, parent)
        self.names.update(zip(node.pages.tolist(), names, strict=True))
        tokens = unpack_tokens(node.key)
        self._tell(BlockStored(names, parent, tokens, self.page_size))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        # The tree itself takes one event a node: at most one a page, and the first.
        if len(self.events) > 2 * self.page_manager.n_pages + 1:
            self._tell_anew()

    def _tell_anew(self) -> None:
        self.events = deque([AllBlocksCleared()])
        self.names.clear()
        for node in self.nodes():
            self._tell_stored(node)


class PrefixIndex:
    """Which worker holds which blocks now, as far as it has told.

    >>> cache = TellingCache(PageManager(n_pages=4, page_size=2))
    >>> pages = cache.page_manager.allocate(2)
    >>> _ = cache.insert([1, 2, 3, 4], pages)
    >>> index = PrefixIndex(block_size=2)
    >>> index.apply(0, cache.take_events())
    >>> index.match([1, 2, 3, 9, 9])
    {0: 2}
    """

    def __init__(self, block_size: int):
        self.block_size = block_size
        self.holders: defaultdict[bytes, set[int]] = defaultdict(set)

    def apply(self, worker: int, events: Iterable[Event]) -> None:
        """Take in what a worker tells. Raises ValueError for blocks of another size."""
        for event in events:
            if isinstance(event, AllBlocksCleared):
                self.forget(worker)
                continue
            if isinstance(event, BlockStored):
                self._check_size(worker, event.block_size)
                for name in event.block_hashes:
                    self.holders[name].add(worker)
            else:
                for name in event.block_hashes:
                    self._discard(name, worker)

    def forget(self, worker: int) -> None:
        """A worker has nothing any more, or is gone."""
        for name in [name for name, who in self.holders.items() if worker in who]:
            self._discard(name, worker)

    def match(
        self, tokens: Sequence[int] | bytes, namespace: Hashable = None
    ) -> dict[int, int]:
        """How many tokens of a prompt each worker would reuse, if any.

        One token is always left to compute, as in a worker's own router.
        """
        key = pack_tokens(tokens)[:-TOKEN_BYTES]
        found: dict[int, int] = {}
        still: set[int] | None = None
        for place, name in enumerate(block_hashes(key, self.block_size, namespace), 1):
            who = self.holders.get(name, set())
            still = set(who) if still is None else still & who
            if not still:
                break
            found.update(dict.fromkeys(still, place * self.block_size))
        return found

    def _discard(self, name: bytes, worker: int) -> None:
        holders = self.holders.get(name)
        if holders is None:
            return
        holders.discard(worker)
        if not holders:
            del self.holders[name]

    def _check_size(self, worker: int, block_size: int) -> None:
        if block_size != self.block_size:
            raise ValueError(
                f"worker {worker} has pages of {block_size} tokens, this index of "
                f"{self.block_size}: start both with one page size"
            )

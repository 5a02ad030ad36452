"""The pages of a pool and who holds them, at one moment."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, cast

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Lease, Router
from radix_lib.teaching.figures.tree_snapshot import Marks, TreeSnapshot, letters_of

#: What has pages: a lease, a list of page ids, or such a list with the number of tokens
#: in it.
Holder = Lease | Sequence[int] | tuple[Sequence[int], int]
Source = PageManager | RadixCache | Router


@dataclass(frozen=True)
class RequestSnapshot:
    """One request, or any other holder of pages, at one moment."""

    name: str
    pages: tuple[int, ...]
    n_tokens: int
    n_computed: int  # tokens whose K/V lie in the pages
    n_cached: int = 0  # of these, found in the tree
    n_shared: int = 0  # its first pages, which belong to the tree
    tokens: tuple[int, ...] = ()

    def level(self, i: int, page_size: int) -> float:
        """How full the request's i-th page is, from 0 to 1."""
        return min(max(self.n_computed - i * page_size, 0), page_size) / page_size


@dataclass(frozen=True)
class PoolSnapshot:
    """The pages of a pool at one moment. `tree` is None where there are only pages."""

    page_size: int
    counts: tuple[int, ...]  # the number of holders of each page
    requests: tuple[RequestSnapshot, ...]
    tree: TreeSnapshot | None
    given: Marks

    @cached_property
    def marks(self) -> Marks:
        """What was given, and what the pages tell: those reused, those of one alone."""
        given = self.given
        if self.tree is None:
            shared = {page for page, n in enumerate(self.counts) if n > 1}
            return Marks(given.hit | shared, given.new, given.evicted)
        size = self.page_size
        hit = {p for r in self.requests for p in r.pages[: r.n_cached // size]}
        own = {p for r in self.requests for p in r.pages[r.n_shared :]}
        return Marks(given.hit | hit, given.new | own, given.evicted)

    @cached_property
    def owners(self) -> dict[int, list[str]]:
        """The node, or else the requests, that each held page belongs to."""
        owners: dict[int, list[str]] = {}
        for request in self.requests:
            for page in request.pages:
                owners.setdefault(page, []).append(request.name)
        nodes = self.tree.nodes if self.tree else ()
        return owners | {page: [node.letter] for node in nodes for page in node.pages}

    @cached_property
    def locked(self) -> frozenset[int]:
        """The pages of locked nodes."""
        nodes = self.tree.nodes if self.tree else ()
        return frozenset(page for node in nodes if node.lock_ref for page in node.pages)

    @cached_property
    def levels(self) -> dict[int, float]:
        """How full each page is that one request alone holds."""
        return {
            page: request.level(i, self.page_size)
            for request in self.requests
            for i, page in enumerate(request.pages)
            if i >= request.n_shared and self.counts[page] == 1
        }

    def state(self, page: int) -> str:
        """The state that colours a page."""
        return self.marks.of_page(page, self.counts[page] > 0, page in self.locked)


def kind_of(thing: object) -> str:
    """What a structure is, seen by what it has: a chapter draws classes of its own.

    Raises ValueError for anything else.
    """
    marks = {
        "leases": "router",
        "page_manager": "cache",
        "ref_counts": "manager",
        "roots": "tree",
    }
    for attribute, kind in marks.items():
        if hasattr(thing, attribute):
            return kind
    raise ValueError(
        f"neither a tree nor a cache, a router or a page manager: {thing!r}"
    )


def pool_snapshot(
    source: Source,
    requests: Mapping[str, Holder] | None = None,
    given: Marks | None = None,
) -> PoolSnapshot:
    """Pages, tree and requests as they are now; leases are R1, R2 … unless named."""
    kind = kind_of(source)
    whole = cast("Any", source)
    manager: PageManager = whole if kind == "manager" else whole.page_manager
    tree = None
    if kind != "manager":
        cache = whole.cache if kind == "router" else whole
        tree = letters_of(cache).view(cache)
    if requests is None:
        requests = names_of(whole) if kind == "router" else {}
    views = tuple(
        _request(name, holder, manager.page_size) for name, holder in requests.items()
    )
    counts = tuple(manager.ref_counts.tolist())
    return PoolSnapshot(manager.page_size, counts, views, tree, given or Marks())


def _request(name: str, holder: Holder, page_size: int) -> RequestSnapshot:
    if hasattr(holder, "page_table"):
        lease = cast("Lease", holder)
        return RequestSnapshot(
            name,
            tuple(lease.page_table.tolist()),
            lease.n_tokens,
            lease.n_computed,
            lease.n_cached,
            lease.n_shared,
            tuple(lease.tokens),
        )
    if isinstance(holder, tuple):
        pages, n_tokens = holder
    else:
        pages = holder
        n_tokens = len(holder) * page_size
    return RequestSnapshot(name, tuple(int(page) for page in pages), n_tokens, n_tokens)


_NAMES: weakref.WeakKeyDictionary[Lease, str] = weakref.WeakKeyDictionary()
_NUMBERS: weakref.WeakKeyDictionary[Router, count[int]] = weakref.WeakKeyDictionary()


def names_of(router: Router) -> dict[str, Lease]:
    """The live leases of a router by name: R1, R2 … as they were first seen."""
    numbers = _NUMBERS.setdefault(router, count(1))
    for lease in router.leases:
        if lease not in _NAMES:
            _NAMES[lease] = f"R{next(numbers)}"
    return {_NAMES[lease]: lease for lease in router.leases}

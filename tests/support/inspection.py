"""Looking at trees, caches and routers from outside, and what must hold of them."""

from __future__ import annotations

from typing import Any

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree, TreeNode, unpack_tokens
from radix_lib.router import Router
from radix_lib.teaching.checks.oracle import Memory, Prefix, PrefixOracle


def path_of(node: TreeNode) -> Prefix:
    """The namespace and all tokens from the root to the end of a node."""
    tokens: list[int] = []
    at: TreeNode | None = node
    while at is not None:
        tokens[:0] = unpack_tokens(at.key)
        at = at.parent
    return node.namespace, tuple(tokens)


def contents(tree: RadixTree) -> dict[Prefix, int]:
    """Every prefix in the tree at a page boundary, and the page that ends it."""
    found = {}
    for node in tree.nodes():
        namespace, tokens = path_of(node)
        for i, page in enumerate(reversed(node.pages.tolist())):
            found[namespace, tokens[: len(tokens) - i * tree.page_size]] = page
    return found


def history(cache: RadixCache) -> dict[Prefix, tuple[int, int, int]]:
    """When every page in the cache was made and last used, and how often it was hit."""
    at = {path_of(node): node for node in cache.nodes()}
    found = {}
    for prefix in contents(cache):
        namespace, tokens = prefix
        ends = [
            end for end in at if end[0] == namespace and end[1][: len(tokens)] == tokens
        ]
        # the first node to end at or after it
        node = at[min(ends, key=lambda end: len(end[1]))]
        found[prefix] = node.created, node.last_access, node.hits
    return found


def sizes(cache: RadixCache) -> tuple[int, int, int]:
    """Pages that are free, that can be evicted, and that are locked."""
    return cache.page_manager.n_free, cache.n_evictable, cache.n_locked


def remembered(oracle: PrefixOracle) -> dict[Prefix, int]:
    """What `contents` should be."""
    return {prefix: page.id for prefix, page in oracle.pages.items()}


def remembered_history(oracle: PrefixOracle) -> dict[Prefix, tuple[int, int, int]]:
    """What `history` should be."""
    return {
        p: (page.created, page.last_use, page.hits) for p, page in oracle.pages.items()
    }


def shape(tree: RadixTree) -> list[tuple]:
    """The nodes as (namespace, tokens from the root, page ids), parents first."""
    return [(*path_of(node), tuple(node.pages.tolist())) for node in tree.nodes()]


def heap_order(cache: RadixCache) -> list[tuple]:
    """The live entries of the eviction heap, first to go first: (priority, path)."""
    live = [entry for entry in cache._heap._entries if entry[2].entry == entry[1]]
    return [
        (priority, path_of(node))
        for priority, _, node in sorted(live, key=lambda e: e[:2])
    ]


def snapshot(thing: Any) -> Any:
    """All that a call must leave as it was when it refuses, as plain values to compare.

    The clock of a cache is left out: it may tick, since only the order of its ticks has
    a meaning.
    """
    if isinstance(thing, PageManager):
        return thing.ref_counts.tolist(), thing._free[: thing.n_free].tolist()
    if isinstance(thing, Router):
        leases = [
            (
                id(x),
                x.key,
                x.page_table.tolist(),
                id(x.node),
                x.n_cached,
                x.n_computed,
                x.n_shared,
            )
            for x in thing.leases
        ]
        return snapshot(thing.cache), leases
    tree = [shape(thing), list(thing.roots)]
    if isinstance(thing, RadixCache):
        uses = [(n.lock_ref, n.last_access, n.created, n.hits) for n in thing.nodes()]
        sizes = thing.n_evictable, thing.n_locked
        tree += [uses, sizes, heap_order(thing), snapshot(thing.page_manager)]
    return tree


def check_contents(memory: Memory, tree: RadixTree) -> None:
    """Every page in the tree holds what the tree says it holds."""
    for (namespace, tokens), page in contents(tree).items():
        for i in range(tree.page_size):
            due = (namespace, tokens[: len(tokens) - tree.page_size + i + 1])
            assert memory.written.get((page, i)) == due, (
                f"page {page} does not hold {due}"
            )


def check_heap(cache: RadixCache) -> None:
    """What `check_integrity` cannot see: no priority in the heap is out of date."""
    for priority, serial, node in cache._heap._entries:
        if node.entry == serial:
            due = cache._heap._priority(node)
            assert priority == due, (
                f"a priority in the heap is out of date: {priority}, not {due}"
            )


def check_cache(cache: RadixCache) -> None:
    """All that must hold between two calls of a cache."""
    cache.check_integrity()
    cache.page_manager.check_integrity()
    check_heap(cache)


def check_router(router: Router, memory: Memory | None = None) -> None:
    """All that must hold between two calls of a router, whatever its requests do."""
    router.check_integrity()
    check_heap(router.cache)
    assert sum(router.usage()) == router.page_manager.n_pages
    assert min(router.usage()) >= 0
    for node in router.cache.nodes():
        # else evicting it would free nothing, and `evictable` would lie
        if node.lock_ref == 0:
            counts = router.page_manager.ref_counts[node.pages]
            assert (counts == 1).all(), "a page that may be evicted is held by a lease"
    in_tree = contents(router.cache)
    for lease in router.leases:
        for prefix in range(lease.n_shared):
            tokens = tuple(lease.tokens[: (prefix + 1) * router.page_size])
            page = in_tree.get((lease.namespace, tokens))
            assert page == lease.page_table[prefix], (
                "what a lease shares is not the tree's"
            )
        assert (
            lease.n_shared
            <= lease.n_computed // router.page_size
            <= len(lease.page_table)
        )
        assert len(path_of(lease.node)[1]) >= lease.n_shared * router.page_size
        table = lease.page_table.tolist()
        assert len(set(table)) == len(table), "a page table lists a page twice"
        if memory is not None:
            memory.check(lease)
    if memory is not None:
        check_contents(memory, router.cache)


def check_idle(router: Router) -> None:
    """When every request has ended, nothing is held: all of the pool can be had."""
    check_router(router)
    usage = router.usage()
    assert not router.leases
    assert usage.locked == usage.private == 0
    router.cache.evict(router.cache.n_evictable)
    check_router(router)
    assert router.usage().free == router.page_manager.n_pages
    assert not router.cache.roots, "an empty namespace was kept"


def shape_of(cache: Any) -> list[object]:
    """What a cache holds: nodes with key, pages and locks; how many hold each page."""
    nodes = [(node.key, node.pages.tolist(), node.lock_ref) for node in cache.nodes()]
    return [nodes, cache.page_manager.ref_counts.tolist()]

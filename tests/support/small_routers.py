"""Small caches and routers, and requests that they serve."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.router import Lease, Router
from tests.support.inspection import snapshot


def cache_of(n_pages: int = 16, page_size: int = 1, policy: str = "lru") -> RadixCache:
    return RadixCache(PageManager(n_pages, page_size), policy)


def router_of(
    n_pages: int = 16, page_size: int = 2, policy: str = "lru", **limits: int
) -> Router:
    return Router(cache_of(n_pages, page_size, policy), **limits)


def remember(
    cache: RadixCache, tokens: Sequence[int], namespace: Hashable = None
) -> CacheNode:
    """Insert tokens as a finished request does: the tree alone holds them then."""
    pages = cache.page_manager.allocate(len(tokens) // cache.page_size)
    node: CacheNode = cache.insert(tokens, pages, namespace).node
    cache.page_manager.release(pages)
    return node


def serve(
    router: Router,
    tokens: Sequence[int],
    namespace: Hashable = None,
    answer: Sequence[int] = (),
) -> Lease:
    """A request from start to end: all is computed but the last token of its answer."""
    with router.admit(tokens, namespace, len(answer)) as lease:
        lease.advance(len(lease.pending))
        for token in answer:
            lease.advance(len(lease.pending))
            lease.append(token)
    return lease


def refused(
    thing: Any, error: type[Exception], words: str | None, call: Callable[[], Any]
) -> str:
    """`call` raises `error` with `words` in its text, which is returned.

    `thing`, a tree, a manager, a cache or a router, is as it was before.
    """
    before = snapshot(thing)
    with pytest.raises(error, match=words) as caught:
        call()
    assert snapshot(thing) == before
    return str(caught.value)

"""Chapter 08: in which order those who wait are tried.

An order takes the waiting requests, sorted as they came, and gives them back in the
order in which a scheduler should try to admit them. It may look into the cache, once a
request, and changes nothing there.

Left out here: priorities and ageing, which hold for every order (`scheduler`).
Source: SGLang 0.5.9, `managers/schedule_policy.py`; hrrn is 0.5.23's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import TOKEN_BYTES
from radix_lib.request import Request


def path_in_cache(request: Request, cache: RadixCache) -> list[tuple[Any, int]]:
    """The nodes that a request would reuse, each with how many of its pages.

    One token is left to compute. Unlike a match, this counts as no use of the nodes.
    """
    return list(cache.walk(request.key[:-TOKEN_BYTES], request.namespace))


def n_cached_tokens(request: Request, cache: RadixCache) -> int:
    """How many tokens of a request are in the cache now."""
    path = path_in_cache(request, cache)
    return sum(n_pages for _, n_pages in path) * cache.page_size


def first_come(waiting: Sequence[Request], cache: RadixCache) -> list[Request]:
    """As they came. Asks nothing of the cache."""
    return list(waiting)


def longest_prefix(waiting: Sequence[Request], cache: RadixCache) -> list[Request]:
    """Whoever has most in the cache now goes first (SGLang's lpm)."""
    return sorted(waiting, key=lambda request: -n_cached_tokens(request, cache))


def depth_first(waiting: Sequence[Request], cache: RadixCache) -> list[Request]:
    """Branch by branch, the branch first on which most requests wait (dfs-weight).

    Only nodes on the way of a waiting request are looked at; SGLang walks the tree.
    """
    paths = {request: path_in_cache(request, cache) for request in waiting}
    weights = Counter(node for path in paths.values() for node, _ in path)
    places = {node: place for place, node in enumerate(weights)}

    def turns(request: Request) -> list[tuple[int, int]]:
        """What to take at each fork; a number above 0 ends it, so children go first."""
        path = paths[request]
        n_pages = sum(n for _, n in path)
        return [*((-weights[node], places[node]) for node, _ in path), (1, -n_pages)]

    return sorted(waiting, key=turns)


def response_ratio(waiting: Sequence[Request], cache: RadixCache) -> list[Request]:
    """Who has waited longest for the least goes first (highest response ratio next).

    The wait is counted in tokens prefilled meanwhile, the work in tokens not cached.
    """

    def ratio(request: Request) -> float:
        n_lacking = request.n_tokens - n_cached_tokens(request, cache)
        return request.waited_tokens / n_lacking

    return sorted(waiting, key=lambda request: -ratio(request))


def by_lot(waiting: Sequence[Request], cache: RadixCache) -> list[Request]:
    """At random, but the same way each time: by a checksum of the request's number."""
    return sorted(waiting, key=lambda r: crc32(r.number.to_bytes(8, "little")))


ORDERS: dict[str, Callable[[Sequence[Request], RadixCache], list[Request]]] = {
    "fcfs": first_come,
    "lpm": longest_prefix,
    "dfs-weight": depth_first,
    "hrrn": response_ratio,
    "random": by_lot,
}

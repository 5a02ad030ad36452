"""Chapter 08: in which order those who wait are tried.

An order takes the waiting requests, sorted as they came, and gives them back in the
order in which a scheduler should try to admit them. It may look into the cache, once a
request, and changes nothing there.

Above every order stand priorities, and a patience that nobody exceeds (`Queue`).
Source: SGLang 0.5.9, `managers/schedule_policy.py`; hrrn is 0.5.23's.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any
from zlib import crc32

from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import TOKEN_BYTES, whole_number
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


class Queue:
    """Those who wait. Kept as they came, and tried in an order that is chosen.

    The more important go first, in each class by `order`, one of `ORDERS`. Whoever was
    passed by `patience` that came later is next, whatever the order. Under lpm, more
    than `lpm_fallback` requests are tried as they came (None: never).
    """

    def __init__(self, order: str, patience: int, lpm_fallback: int | None = None):
        if order not in tuple(ORDERS):  # it may be unhashable
            raise ValueError(f"no order {order!r}: choose from {', '.join(ORDERS)}")
        self.order = order
        self.patience = whole_number(patience, "patience", least=1)
        self.lpm_fallback: float = math.inf
        if lpm_fallback is not None:
            self.lpm_fallback = whole_number(lpm_fallback, "lpm_fallback")
        self.requests: list[Request] = []  # as they came
        self.priorities: set[int] = set()  # all that were ever seen
        self.n_seen = 0  # requests

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __contains__(self, request: object) -> bool:
        return request in self.requests

    def add(self, request: Request) -> None:
        """Put a request into its place: one that was here before comes back to it."""
        self.priorities.add(request.priority)
        self.n_seen = max(self.n_seen, request.number + 1)
        insort(self.requests, request, key=attrgetter("number"))

    def remove(self, request: Request) -> None:
        """Take a request out."""
        self.requests.remove(request)

    def replace(self, requests: Iterable[Request]) -> None:
        """Hold just these, given as they came."""
        self.requests = list(requests)

    def candidates(self, cache: RadixCache) -> Iterator[Request]:
        """Those who wait, in the order in which to try them; who is admitted leaves.

        One who was passed too often is tried first, and where it stays, alone.
        """
        while self.requests and self.n_passed(self.requests[0]) >= self.patience:
            oldest = self.requests[0]
            yield oldest
            if self.requests and self.requests[0] is oldest:
                return
        many = self.order == "lpm" and len(self) > self.lpm_fallback
        in_order = ORDERS["fcfs" if many else self.order]
        ordered = in_order(self.requests, cache)
        if len(self.priorities) > 1:
            ordered.sort(key=lambda request: -request.priority)
        yield from ordered

    def n_passed(self, oldest: Request) -> int:
        """How many requests that came after the oldest one have left the queue."""
        n_later = self.n_seen - oldest.number - 1
        return n_later - (len(self) - 1)

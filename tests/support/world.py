"""A pool in the middle of its work, what is done in it, and what must hold then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import check_idle, check_router, contents

#: All that a request's life runs through.
CONTROL_PLANE = [
    import_module(f"radix_lib.{name}")
    for name in (
        "radix_tree",
        "page_manager",
        "eviction",
        "radix_cache",
        "guard",
        "lease",
        "router",
    )
]


@dataclass
class World:
    """A pool of 20 pages of two tokens, in use.

    In the tree are [1 … 8], in one edge, and a tenant's [1, 2, 3, 4]. `chat` runs on a
    part of the first. `first`, `twin` and `half` compute the same, `half` only at its
    start; `first` has committed it already.
    """

    router: Router = field(
        default_factory=lambda: Router(RadixCache(PageManager(20, 2)))
    )
    memory: Memory = field(default_factory=lambda: Memory(2))

    def __post_init__(self) -> None:
        self.serve([1, 2, 3, 4, 5, 6, 7, 8])
        self.serve([1, 2, 3, 4], "tenant")
        self.chat = self.router.admit([1, 2, 3, 4, 9, 9, 9], max_new_tokens=1)
        self.memory.compute(self.chat)
        self.first, self.twin = (self.router.admit([5, 5, 5, 5, 5]) for _ in range(2))
        self.half = self.router.admit([5, 5, 6, 6, 6])
        for lease in (self.first, self.twin, self.half):
            self.memory.compute(lease)
        self.router.commit(self.first)
        self.leases = list(self.router.leases)
        self.tables = [lease.page_table.tolist() for lease in self.leases]
        check_router(self.router, self.memory)

    def serve(self, tokens: list[int], namespace: Any = None) -> int:
        """One request from start to end; returns how much of it was cached."""
        lease = self.router.admit(tokens, namespace)
        self.memory.check(lease)
        self.memory.compute(lease)
        self.router.finish(lease)
        return lease.n_cached

    def evicting(self) -> int:
        """How many tokens take all free pages and one that has to be evicted."""
        return 2 * (self.router.usage().free + 1)


def leave(world: World, error: type[BaseException] | None = None) -> None:
    """A `with` block that ends by itself, or by an error inside."""
    try:
        with world.router.admit([1, 2, 3, 4, 5, 6, 0]) as lease:
            world.memory.compute(lease)
            if error:
                raise error
    except ZeroDivisionError:
        pass


def fork(world: World, room: int) -> None:
    lease = world.router.fork(world.chat, room)
    if lease.n_computed > lease.n_shared * 2:
        tail = lease.n_shared
        world.memory.copy_page(
            int(world.chat.page_table[tail]), int(lease.page_table[tail])
        )


OPERATIONS: dict[str, Callable[[World], Any]] = {
    "admit, nothing cached": lambda w: w.router.admit([8, 8, 8]),
    "admit, a new namespace": lambda w: w.router.admit([1, 2, 3], "new"),
    "admit, a hit": lambda w: w.router.admit([1, 2, 3, 4, 5, 6, 7, 8, 9]),
    "admit, a hit that cuts an edge in use": lambda w: w.router.admit([1, 2, 8]),
    "admit, a hit that cuts an idle edge": lambda w: w.router.admit(
        [1, 2, 3, 4, 5, 6, 0]
    ),
    "admit, evicting": lambda w: w.router.admit([8] * w.evicting()),
    "admit, evicting all": lambda w: w.router.admit(
        [8] * 2 * sum(w.router.usage()[:2])
    ),
    "commit": lambda w: w.router.commit(w.chat),
    "commit, duplicates": lambda w: w.router.commit(w.twin),
    "commit, duplicates at its start": lambda w: w.router.commit(w.half),
    "commit, nothing new": lambda w: w.router.commit(w.first),
    "finish": lambda w: w.router.finish(w.chat),
    "finish, duplicates": lambda w: w.router.finish(w.twin),
    "finish, duplicates at its start": lambda w: w.router.finish(w.half),
    "finish, nothing new": lambda w: w.router.finish(w.first),
    "cancel": lambda w: w.router.cancel(w.chat),
    "fork": lambda w: fork(w, 4),
    "fork, evicting": lambda w: fork(w, w.evicting() - 2),
    "grow": lambda w: w.router.grow(w.chat, 4),
    "grow, evicting": lambda w: w.router.grow(w.chat, w.evicting()),
    "with": leave,
    "with, an error inside": lambda w: leave(w, ZeroDivisionError),
}
#: The request that an operation is about.
OWN = {
    "commit": "chat",
    "commit, duplicates": "twin",
    "commit, duplicates at its start": "half",
    "commit, nothing new": "first",
    "finish": "chat",
    "finish, duplicates": "twin",
    "finish, duplicates at its start": "half",
    "finish, nothing new": "first",
    "cancel": "chat",
    "fork": "chat",
    "fork, evicting": "chat",
    "grow": "chat",
    "grow, evicting": "chat",
}
#: Those that end it: interrupted, they may have ended it or not.
ENDS = [name for name in OWN if name.startswith(("finish", "cancel"))]


def check_aftermath(world: World, operation: str) -> None:
    """Whatever happened, the router is whole, and goes on."""
    router = world.router
    memory = world.memory
    check_router(router, memory)
    assert repr(router._lock).startswith("<unlocked")
    own = getattr(world, OWN.get(operation, ""), None)
    others = [lease for lease in world.leases if lease is not own]
    live = [lease for lease in router.leases if lease is not own]
    assert live == others
    assert own is None or own in router.leases or operation in ENDS
    for lease, table in zip(world.leases, world.tables, strict=True):
        # Their executors may be reading there.
        assert lease is own or lease.page_table.tolist() == table

    # Requests after it find what is there, all of it.
    for namespace, tokens in [
        (None, (1, 2, 3, 4, 9, 9, 9, 0)),
        (None, (1, 2, 3, 4, 5, 6, 7, 8, 9)),
        (None, (5, 5, 5, 5, 5)),
        ("tenant", (1, 2, 3, 4, 5)),
        ("new", (1, 2, 3)),
    ]:
        there = contents(router.cache)
        n_cached = 2 * sum(
            (namespace, tokens[:n]) in there for n in range(2, len(tokens), 2)
        )
        if -(-len(tokens) // 2) - n_cached // 2 <= router.usage().free:
            assert world.serve(list(tokens), namespace) == n_cached

    # One that needs everything that is not in use gets it.
    room = 2 * (router.usage().free + router.usage().unlocked)
    if room:
        world.serve(list(range(100, 100 + room)), "all")
    check_router(router, memory)

    # What was running goes on to its end.
    for lease in list(router.leases):
        if lease.n_tokens < 2 * len(lease.page_table):
            lease.append(6)
        memory.compute(lease)
        router.commit(lease)
    check_router(router, memory)
    for lease in list(router.leases):
        router.finish(lease)
    check_idle(router)

"""KV events: an index that is told everything knows what the caches know."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest

from radix_lib.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    PrefixIndex,
    TellingCache,
    block_hashes,
)
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_tree import pack_tokens
from radix_lib.router import Namespace, Router


def new_router(n_pages: int = 24, page_size: int = 2) -> Router:
    return Router(TellingCache(PageManager(n_pages, page_size)))


def serve(router: Router, tokens: list[int], namespace: object = None) -> int:
    with router.admit(tokens, namespace) as lease:
        lease.advance(lease.n_tokens - lease.n_computed)
    return lease.n_cached


def test_what_is_stored_is_told_with_the_block_before_it() -> None:
    router = new_router()
    serve(router, [1, 2, 3, 4])
    serve(router, [1, 2, 5, 6])
    first, second = router.cache.take_events()
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert first.token_ids == [1, 2, 3, 4]
    assert first.parent_block_hash is None
    assert second.parent_block_hash == first.block_hashes[0]
    assert second.token_ids == [5, 6]
    assert router.cache.take_events() == [], "each event is taken once"


def test_a_name_is_of_a_block_and_of_all_before_it() -> None:
    names = block_hashes(pack_tokens([1, 2, 3, 4]), 2)
    assert names[:1] == block_hashes(pack_tokens([1, 2, 9]), 2)
    assert names[1] not in block_hashes(pack_tokens([9, 9, 3, 4]), 2)
    assert names != block_hashes(pack_tokens([1, 2, 3, 4]), 2, namespace="bob")
    assert names[1:] == block_hashes(pack_tokens([3, 4]), 2, parent=names[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Namespace("a"), ("a", "")),
        (1, np.int64(1)),
        (("a", 1), (np.str_("a"), np.uint8(1))),
    ],
)
def test_equal_namespaces_give_equal_names(one: object, other: object) -> None:
    assert one == other
    key = pack_tokens([1, 2])
    assert block_hashes(key, 2, one) == block_hashes(key, 2, other)


def test_what_is_evicted_is_told() -> None:
    router = new_router()
    serve(router, [1, 2, 3, 4])
    (stored,) = router.cache.take_events()
    router.cache.evict(1)
    assert router.cache.take_events() == [BlockRemoved(stored.block_hashes[1:])]


@pytest.mark.parametrize("page_size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_the_index_predicts_every_hit_of_every_worker(
    seed: int, page_size: int
) -> None:
    rng = random.Random(seed)
    routers = [new_router(24, page_size) for _ in range(3)]
    index = PrefixIndex(page_size)
    for _ in range(300):
        tokens = [rng.randrange(3) for _ in range(rng.randint(1, 12))]
        namespace = rng.choice([None, "bob"])
        at = rng.randrange(3)
        predicted = index.match(tokens, namespace).get(at, 0)
        assert serve(routers[at], tokens, namespace) == predicted
        if rng.random() < 0.05:
            cache = routers[at].cache
            cache.evict(rng.randint(0, cache.n_evictable))
        if rng.random() < 0.02:
            routers[at].repair()  # what an interrupted call leaves to do
        index.apply(at, routers[at].cache.take_events())
    held = {name for router in routers for name in router.cache.names.values()}
    assert set(index.holders) == held, "the index keeps what nobody has"


def test_who_takes_no_events_is_told_the_whole_tree_in_few_when_he_comes() -> None:
    rng = random.Random(7)
    router = new_router(n_pages=24)
    for _ in range(500):
        serve(router, [rng.randrange(3) for _ in range(rng.randint(1, 12))])
        assert len(router.cache.events) <= 2 * 24 + 1
    index = PrefixIndex(2)
    index.apply(0, [BlockStored([b"of long ago"], None, [], 2)])
    index.apply(0, router.cache.take_events())
    assert set(index.holders) == set(router.cache.names.values())


class Meddled(deque):  # type: ignore[type-arg]
    """Events that another thread takes away just before one is added or taken."""

    def __init__(self, cache: TellingCache):
        super().__init__()
        self.cache = cache
        self.taken: list[object] = []
        self.is_inside = False

    def meddle(self) -> None:
        if not self.is_inside:
            self.is_inside = True
            self.taken += self.cache.take_events()
            self.is_inside = False

    def append(self, event: object) -> None:
        self.meddle()
        super().append(event)

    def popleft(self) -> object:
        self.meddle()
        return super().popleft()


def test_each_event_is_taken_once_whoever_comes_between() -> None:
    cache = new_router().cache
    meddled = Meddled(cache)
    cache.events = meddled
    for tokens in ([1, 2], [3, 4], [5, 6]):
        cache.insert(tokens, cache.page_manager.allocate(1))
    taken = [*meddled.taken, *cache.take_events(), *meddled.taken[2:]]
    assert [event.token_ids for event in taken] == [[1, 2], [3, 4], [5, 6]]


def test_a_worker_that_is_gone_is_forgotten() -> None:
    router = new_router()
    serve(router, [1, 2, 3, 4])
    index = PrefixIndex(2)
    index.apply(0, router.cache.take_events())
    index.apply(1, [])
    assert index.match([1, 2, 3]) == {0: 2}
    index.apply(0, [AllBlocksCleared()])
    assert index.match([1, 2, 3]) == {}
    assert not index.holders


def test_what_was_never_stored_may_be_removed() -> None:
    index = PrefixIndex(2)
    index.apply(0, [BlockRemoved([b"nobody's"])])
    assert not index.holders


def test_pages_of_another_size_are_refused() -> None:
    router = new_router(page_size=4)
    serve(router, [1, 2, 3, 4])
    with pytest.raises(
        ValueError, match="worker 0 has pages of 4 tokens, this index of 2"
    ):
        PrefixIndex(2).apply(0, router.cache.take_events())


def test_a_refused_request_tells_nothing() -> None:
    router = new_router(n_pages=2)
    lease = router.admit([1, 2, 3, 4])
    with pytest.raises(OutOfPages):
        router.admit([5, 6])
    assert router.cache.take_events() == []
    router.cancel(lease)

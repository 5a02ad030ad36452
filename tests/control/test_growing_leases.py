"""Chapter 08: a lease that gets its pages one by one, by hand and with bad input."""

from __future__ import annotations

import pytest

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import check_idle, check_router, contents, snapshot


@pytest.fixture
def router() -> Router:
    """Eight pages of two tokens; the tree has [9, 9, 8, 8]."""
    router = Router(RadixCache(PageManager(8, 2)))
    with router.admit([9, 9, 8, 8]) as lease:
        lease.advance(4)
    return router


def test_a_lease_grows_by_a_page_when_its_last_is_full(router: Router):
    memory = Memory(2)
    lease = router.admit([1, 2, 3])
    sizes = []
    for token in [4, 5, 6, 7]:
        router.grow(lease)
        lease.append(token)
        memory.compute(lease)
        memory.check(lease)
        sizes.append(len(lease.page_table))
    assert sizes == [2, 3, 3, 4]
    assert router.usage() == (2, 2, 0, 4)
    router.finish(lease)
    assert (None, (1, 2, 3, 4, 5, 6)) in contents(router.cache)
    check_idle(router)


def test_growing_evicts_only_what_nobody_uses(router: Router):
    lease = router.admit([1, 2, 3], max_new_tokens=9)  # all that is free
    router.grow(lease, 11)
    assert router.usage() == (0, 1, 0, 7)
    assert contents(router.cache).keys() == {(None, (9, 9))}
    check_router(router)


def test_a_lease_with_room_enough_stays_as_it_is(router: Router):
    lease = router.admit([1, 2, 3], max_new_tokens=3)
    before = snapshot(router)
    pages = lease.page_table
    router.grow(lease, 0)
    router.grow(lease, 3)
    assert snapshot(router) == before
    assert lease.page_table is pages


def test_a_lease_that_has_to_wait_for_pages_is_told_why(router: Router):
    lease = router.admit([1, 2, 3])
    other = router.admit([9, 9, 8, 8, 7])
    router.grow(other, 2)
    before = snapshot(router)
    with pytest.raises(OutOfPages) as caught:
        router.grow(lease, 7)
    error = caught.value
    assert (error.needed, error.free, error.evictable) == (3, 2, 0)
    assert snapshot(router) == before
    router.cancel(other)
    router.grow(lease, 7)
    check_router(router)


@pytest.mark.parametrize(
    ("n_tokens", "error", "says"),
    [
        (14, ValueError, "at most 16 in all"),
        (-1, ValueError, "from 0, not -1"),
        (1.5, ValueError, "from 0, not 1.5"),
    ],
)
def test_bad_input_is_refused_by_name(router: Router, n_tokens, error, says):
    lease = router.admit([1, 2, 3])
    before = snapshot(router)
    with pytest.raises(error, match=says):
        router.grow(lease, n_tokens)
    assert snapshot(router) == before


def test_a_lease_that_has_ended_does_not_grow(router: Router):
    lease = router.admit([1, 2, 3])
    router.cancel(lease)
    before = snapshot(router)
    with pytest.raises(ValueError, match="not live"):
        router.grow(lease)
    assert snapshot(router) == before

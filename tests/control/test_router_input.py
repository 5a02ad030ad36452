"""Chapter 05: what a router refuses, by name, with nothing changed."""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.page_manager import OutOfPages
from radix_lib.radix_cache import Usage
from radix_lib.radix_tree import pack_tokens
from tests.support.inspection import check_idle, check_router, contents, snapshot
from tests.support.small_routers import refused, router_of, serve
from tests.support.strategies import BAD_TOKENS


@pytest.fixture
def busy():
    """A router with something in the tree, a running request and few free pages."""
    router = router_of(n_pages=8, vocab_size=100, max_tokens=14)
    serve(router, [1, 2, 3, 4])
    serve(router, [1, 2, 5, 6], "tenant")
    lease = router.admit([1, 2, 3, 4, 7, 8], max_new_tokens=1)
    lease.advance(1)
    yield router
    check_router(router)
    for lease in list(router.leases):
        router.cancel(lease)
    check_idle(router)


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
def test_a_bad_token_is_refused(busy, bad):
    message = refused(busy, ValueError, "token ids", lambda: busy.admit([1, 2, bad]))
    assert repr(bad) in message


@pytest.mark.parametrize("bad", [100, 101, 2**32 - 1])
def test_a_token_outside_the_vocabulary_is_refused(busy, bad):
    words = f"token id {bad} is not below the vocabulary's 100"
    refused(busy, ValueError, words, lambda: busy.admit([1, bad, 2]))
    lease = next(iter(busy.leases))
    refused(busy, ValueError, words, lambda: lease.append(bad))
    assert busy.admit([99]).tokens == [99]


@pytest.mark.parametrize("empty", [[], (), b"", np.array([], np.int64)], ids=repr)
def test_an_empty_prompt_is_refused(busy, empty):
    refused(busy, ValueError, "at least one token", lambda: busy.admit(empty))


@pytest.mark.parametrize(("n_tokens", "room"), [(15, 0), (14, 1), (1, 14)])
def test_a_request_that_could_never_run_is_refused(busy, n_tokens, room):
    words = f"tokens: {n_tokens}, room for more: {room}. .* at most 14 in all"
    message = refused(
        busy, ValueError, words, lambda: busy.admit([1] * n_tokens, None, room)
    )
    assert message.endswith("(model and pool)")


def test_the_pool_limits_a_request_as_the_model_does():
    router = router_of(n_pages=4, max_tokens=1000)
    refused(router, ValueError, "at most 8 in all", lambda: router.admit([1] * 9))
    assert len(router.admit([1] * 8).page_table) == 4


@pytest.mark.parametrize("limit", ["max_tokens", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "a"])
def test_a_limit_is_a_whole_number_and_none_at_all_is_no_limit(limit, value):
    words = f"{limit} is a whole number from 1, not {value!r}"
    with pytest.raises(ValueError, match=words):
        router_of(**{limit: value})


def test_a_request_that_has_to_wait_is_told_why(busy):
    """Two pages are free, and two can go: four are needed, and then one more."""
    assert busy.usage() == (2, 2, 2, 2)
    with_hit = [1, 2, 5, 6, *[9] * 7]
    admit = busy.admit
    refused(
        busy,
        OutOfPages,
        "pages needed: 5, free: 2, evictable: 2",
        lambda: admit([9] * 9),
    )
    # Counted after what is cached: two pages of it, which it would lock and so not
    # evict.
    words = "pages needed: 4, free: 2, evictable: 0"
    refused(busy, OutOfPages, words, lambda: admit(with_hit, "tenant"))
    assert admit([9] * 8).n_cached == 0


def test_a_hit_on_half_of_an_edge_counts_its_pages_only(busy):
    """Of the edge [1, 2, 5, 6] one page is used and locked, the other can still go."""
    tokens = [1, 2, *[9] * 7]
    words = "pages needed: 4, free: 2, evictable: 1"
    refused(busy, OutOfPages, words, lambda: busy.admit(tokens, "tenant"))
    lease = busy.admit(tokens[:-1], "tenant")
    assert (lease.n_cached, busy.usage().free) == (2, 0)
    assert ("tenant", (1, 2, 5, 6)) not in contents(busy.cache)


@pytest.mark.parametrize(
    ("tokens", "namespace", "most"),
    [
        ([9] * 12, None, 4),  # two pages are free, and two can go
        ([1, 2, 3, 4, *[9] * 8], None, 6),  # two more are there, and in use anyway
        ([1, 2, 5, 6, *[9] * 8], "tenant", 4),  # two are there, and can go no more
        ([1, 2, 5, 6], "tenant", 4),  # the last token is left to compute
    ],
)
def test_there_is_room_for_so_many_pages_and_no_more(busy, tokens, namespace, most):
    before = snapshot(busy)
    assert [busy.has_room(tokens, namespace, n) for n in (most, most + 1)] == [
        True,
        False,
    ]
    assert busy.has_room(pack_tokens(tokens), namespace, most)
    assert snapshot(busy) == before, "to look is no use"


@pytest.mark.parametrize("room", [-1, 1.5, "a", None])
def test_room_is_a_whole_number(busy, room):
    lease = next(iter(busy.leases))
    words = f"max_new_tokens is a whole number from 0, not {room!r}"
    refused(busy, ValueError, words, lambda: busy.admit([1, 2, 9], None, room))
    refused(busy, ValueError, words, lambda: busy.fork(lease, room))
    words = f"n_tokens is a whole number from 0, not {room!r}"
    refused(busy, ValueError, words, lambda: busy.grow(lease, room))


@pytest.mark.parametrize(
    "bad", [True, float("nan"), {}, ["salt"], ("a", 1.0)], ids=repr
)
def test_what_may_not_name_a_namespace_is_refused(busy, bad):
    words = "a namespace is None, a string, a whole number, a plain object"
    refused(busy, ValueError, words, lambda: busy.admit([1, 2, 9], bad))
    refused(busy, ValueError, words, lambda: busy.admit([9] * 9, bad))
    refused(busy, ValueError, words, lambda: busy.match_prefix([1, 2, 9], bad))


def test_a_bad_namespace_is_refused_before_anything_is_looked_at(monkeypatch):
    router = router_of()
    monkeypatch.setattr(router, "_alone", lambda *_, **__: pytest.fail("it looked"))
    with pytest.raises(ValueError, match="not True"):
        router.admit([1, 2, 3], True)


def test_no_two_namespaces_share_because_python_finds_them_equal(busy):
    serve(busy, [1, 2, 3], 1)
    refused(busy, ValueError, "not True", lambda: busy.admit([1, 2, 3], True))
    refused(busy, ValueError, "not 1.0", lambda: busy.admit([1, 2, 3], 1.0))
    assert busy.match_prefix([1, 2, 3], 1).pages.size == 1


@pytest.mark.parametrize("end", ["finish", "cancel"])
@pytest.mark.parametrize("call", ["finish", "cancel", "commit", "fork"])
def test_a_request_that_has_ended_is_refused(busy, call, end):
    lease = busy.admit([9, 9, 9])
    lease.advance(3)
    getattr(busy, end)(lease)
    words = "this lease is not live here: it was finished or cancelled before"
    message = refused(busy, ValueError, words, lambda: getattr(busy, call)(lease))
    assert message == words


@pytest.mark.parametrize("call", ["finish", "cancel", "commit", "fork"])
def test_what_is_no_lease_is_refused_by_name(busy, call):
    words = "a lease is what admit and fork return, not 5"
    refused(busy, ValueError, words, lambda: getattr(busy, call)(5))


def test_a_lease_of_another_router_is_refused(busy):
    other = router_of()
    lease = other.admit([1, 2, 3])
    refused(busy, ValueError, "not live here", lambda: busy.finish(lease))
    assert lease in other.leases


@pytest.mark.parametrize("n_tokens", [2, 100])
def test_more_than_there_is_cannot_have_been_computed(busy, n_tokens):
    lease = next(iter(busy.leases))
    words = f"{n_tokens} tokens cannot have been computed"
    refused(busy, ValueError, words, lambda: lease.advance(n_tokens))
    lease.advance(1)
    assert lease.pending == []


@pytest.mark.parametrize("n_tokens", [-1, 0.5, "a", None])
def test_computed_tokens_are_a_whole_number(busy, n_tokens):
    lease = next(iter(busy.leases))
    words = f"n_tokens is a whole number from 0, not {n_tokens!r}"
    refused(busy, ValueError, words, lambda: lease.advance(n_tokens))


def test_no_token_goes_beyond_the_room_asked_for(busy):
    lease = next(iter(busy.leases))
    words = "room for 8 tokens was admitted: ask for more max_new_tokens"
    refused(busy, ValueError, words, lambda: lease.append(1, 2, 3))
    lease.append(1, 2)
    refused(busy, ValueError, words, lambda: lease.append(3))
    assert lease.tokens == [1, 2, 3, 4, 7, 8, 1, 2]


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
def test_a_bad_token_is_not_appended(busy, bad):
    lease = next(iter(busy.leases))
    message = refused(busy, ValueError, "token ids", lambda: lease.append(1, bad))
    assert repr(bad) in message


def test_who_wants_more_pages_is_told_what_could_be_evicted(busy):
    lease = next(iter(busy.leases))
    words = "pages needed: 5, free: 2, evictable: 2"
    refused(busy, OutOfPages, words, lambda: busy.fork(lease, 8))


def test_counts_are_of_the_same_type_after_a_repair(busy):
    before = busy.page_manager.ref_counts.copy()
    busy.repair()
    assert busy.page_manager.ref_counts.dtype == before.dtype == np.int32
    assert (busy.page_manager.ref_counts == before).all()


def test_the_integrity_check_sees_a_holder_too_many(busy):
    page = next(iter(busy.leases)).page_table[-1:]
    busy.page_manager.retain(page)
    with pytest.raises(AssertionError) as caught:
        busy.check_integrity()
    assert str(caught.value).startswith("a page's count is not its holders' number")
    busy.page_manager.release(page)


def test_the_integrity_check_sees_a_usage_that_does_not_add_up(busy, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(busy, "usage", lambda: Usage(2, 2, 2, 1))
        with pytest.raises(AssertionError) as caught:
            busy.check_integrity()
    assert str(caught.value).startswith("free + unlocked + locked + private ≠ pool")


def test_the_integrity_check_sees_a_lost_lease(busy):
    lease = next(iter(busy.leases))
    del busy.leases[lease]
    with pytest.raises(AssertionError, match="holders"):
        busy.check_integrity()
    busy.leases[lease] = None


def test_the_integrity_check_sees_a_lock_too_many(busy):
    node = next(iter(busy.leases)).node
    busy.cache.lock(node)
    try:
        with pytest.raises(AssertionError, match="locks are not"):
            busy.check_integrity()
    finally:
        busy.cache.unlock(node)

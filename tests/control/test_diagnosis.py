"""Six reasons why a prompt is not found, each beside one that looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.diagnosis import Explanation, RememberingCache, explain
from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Namespace, Router

ALICE = Namespace("alice")
BOB = Namespace("bob")
PROMPT = list(range(100, 112))


def a_router(n_pages: int = 16, page_size: int = 4) -> Router:
    return Router(RememberingCache(PageManager(n_pages, page_size)))


def serve(router: Router, tokens: list[int], namespace: object = None) -> None:
    with router.admit(tokens, namespace) as lease:
        lease.advance(len(lease.pending))


def kinds(why: Explanation) -> list[str]:
    return [reason.kind for reason in why.reasons]


# ── Another token ────────────────────────────────────────────────────────────────────


def test_another_token_is_shown_beside_its_neighbour() -> None:
    router = a_router()
    serve(router, list(b"You are a robot. Today is Monday."))
    serve(router, list(b"Me too."))
    why = explain(
        router,
        list(b"You are a robot. Today is Friday."),
        decode=lambda tokens: bytes(tokens).decode(),
    )
    assert why.kind == "another token"
    assert why.n_found == 24
    assert why.neighbour.n_common == 26
    prompt, cached, mark = str(why).splitlines()[-3:]
    assert prompt.endswith("t. Today is Friday.")
    assert cached.endswith("t. Today is Monday")  # as far as whole pages go
    place = mark.index("^")
    assert (prompt[place], cached[place]) == ("F", "M")
    assert prompt[:place].endswith("is ")
    assert prompt[:place][-12:] == cached[:place][-12:]


def test_a_line_break_does_not_push_the_mark_away() -> None:
    router = a_router()
    serve(router, list(b"one\ntwo\nthree..."))
    why = explain(
        router,
        list(b"one\ntwo\nfour...."),
        decode=lambda tokens: bytes(tokens).decode(),
    )
    prompt, _, mark = str(why).splitlines()[-3:]
    assert prompt[mark.index("^")] == "f"
    assert r"two\n" in prompt


def test_a_prompt_that_goes_on_where_the_cached_one_ends_has_no_other_token() -> None:
    router = a_router()
    serve(router, PROMPT)
    why = explain(router, [*PROMPT, 1, 2, 3, 4, 5])
    assert kinds(why) == ["new"]
    assert why.n_found == 12


# ── The page's floor ─────────────────────────────────────────────────────────────────


def test_tokens_that_agree_and_fill_no_page_are_the_floor() -> None:
    router = a_router(page_size=8)
    serve(router, list(range(16)))
    why = explain(router, list(range(6)))
    assert kinds(why) == ["page floor"]
    assert why.reasons[0].n_more == 5  # one is left


def test_a_page_of_one_token_has_no_floor() -> None:
    router = a_router(page_size=1)
    serve(router, list(range(10)))
    assert kinds(explain(router, [0, 1, 2, 99, 98])) == ["another token"]


# ── One token left ───────────────────────────────────────────────────────────────────


def test_a_prompt_that_is_all_cached_leaves_its_last_page() -> None:
    router = a_router()
    serve(router, PROMPT)
    why = explain(router, PROMPT)
    assert kinds(why) == ["one token left"]
    assert why.n_found == 8
    assert why.reasons[0].n_more == 3  # of the page, all but the last one


def test_a_prompt_whose_last_page_is_not_cached_is_not_short_of_one_token() -> None:
    router = a_router()
    serve(router, PROMPT)
    other = [*PROMPT[:8], 1, 2, 3, 4]
    assert "one token left" not in kinds(explain(router, other))


# ── Another namespace ────────────────────────────────────────────────────────────────


def test_a_prompt_that_another_tenant_has_cached_is_told() -> None:
    router = a_router()
    serve(router, PROMPT, ALICE)
    serve(router, [1, 2, 3, 4], BOB)
    why = explain(router, [*PROMPT, 5], BOB)
    assert why.kind == "another namespace"
    assert why.reasons[0].n_more == 12
    assert "alice" in why.reasons[0].words


def test_a_tenant_who_has_no_more_than_we_have_is_not_blamed() -> None:
    router = a_router()
    serve(router, PROMPT, ALICE)
    serve(router, PROMPT, BOB)
    assert kinds(explain(router, [*PROMPT, 5], BOB)) == ["new"]


# ── Evicted ──────────────────────────────────────────────────────────────────────────


def test_what_was_evicted_is_told_with_its_tick() -> None:
    router = a_router(n_pages=4)
    serve(router, PROMPT)  # ticks 1 and 2: a match and an insertion
    serve(router, list(range(16)))  # tick 3
    why = explain(router, [*PROMPT, 5])
    assert why.kind == "evicted"
    assert why.reasons[0].n_more == 12
    assert "at tick 3" in why.reasons[0].words
    router.check_integrity()


def test_what_was_evicted_and_came_back_is_not_blamed() -> None:
    router = a_router(n_pages=4)
    for tokens in (PROMPT, list(range(16)), PROMPT):
        serve(router, tokens)
    assert kinds(explain(router, [*PROMPT, 5])) == ["new"]


def test_what_was_evicted_behind_another_token_is_not_blamed() -> None:
    router = a_router(n_pages=4)
    serve(router, PROMPT)
    serve(router, list(range(16)))
    why = explain(router, [*PROMPT[:3], 0, *PROMPT[4:], 5])
    assert "evicted" not in kinds(why)


def test_the_last_eviction_counts() -> None:
    router = a_router(n_pages=4)
    for tokens in (PROMPT, list(range(16)), PROMPT, list(range(16))):
        serve(router, tokens)
    (reason,) = explain(router, [*PROMPT, 5]).reasons
    cache = router.cache
    assert isinstance(cache, RememberingCache)
    assert f"at tick {cache.now - 1};" in reason.words


def test_a_page_at_the_end_of_a_leaf_is_remembered_alone() -> None:
    router = a_router(n_pages=4)
    serve(router, PROMPT)
    serve(router, [1, 2, 3, 4, 5, 6, 7, 8])  # takes one page of the three
    why = explain(router, [*PROMPT, 5])
    assert (why.kind, why.n_found, why.reasons[0].n_more) == ("evicted", 8, 4)


def test_remembering_changes_nothing_that_a_cache_does() -> None:
    rng = np.random.default_rng(0)
    plain = Router(RadixCache(PageManager(12, 2)))
    remembering = a_router(12, 2)
    for _ in range(300):
        tokens = rng.integers(0, 3, rng.integers(1, 20)).tolist()
        assert plain.match_prefix(tokens).pages.tolist() == (
            remembering.match_prefix(tokens).pages.tolist()
        )
        serve(plain, tokens)
        serve(remembering, tokens)
    remembering.check_integrity()


def test_a_cache_without_a_memory_does_not_blame_eviction() -> None:
    router = Router(RadixCache(PageManager(4, 4)))
    serve(router, PROMPT)
    serve(router, list(range(16)))
    assert "evicted" not in kinds(explain(router, [*PROMPT, 5]))


# ── Not committed ────────────────────────────────────────────────────────────────────


def test_a_request_that_runs_and_has_not_shared_is_told() -> None:
    router = a_router()
    lease = router.admit(PROMPT)
    lease.advance(5)
    why = explain(router, [*PROMPT, 5])
    assert why.kind == "not committed"
    assert why.reasons[0].n_more == 12
    assert "5 of its tokens are computed, 0 shared" in why.reasons[0].words


def test_a_request_that_has_shared_is_not_blamed() -> None:
    router = a_router()
    lease = router.admit(PROMPT)
    lease.advance(12)
    router.commit(lease)
    assert kinds(explain(router, [*PROMPT, 5])) == ["new"]


def test_a_request_of_another_tenant_is_not_waited_for() -> None:
    router = a_router()
    router.admit(PROMPT, ALICE)
    assert kinds(explain(router, PROMPT, BOB)) == ["nothing cached"]


# ── Whatever the reason ──────────────────────────────────────────────────────────────


def test_explaining_changes_nothing() -> None:
    router = a_router()
    serve(router, PROMPT)
    nodes = [(node.key, node.last_access, node.hits) for node in router.cache.nodes()]
    explain(router, [*PROMPT[:6], 1, 2])
    after = [(node.key, node.last_access, node.hits) for node in router.cache.nodes()]
    assert after == nodes


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_to_be_found_is_what_a_request_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    router = a_router(n_pages=10, page_size=2)
    for _ in range(200):
        tokens = rng.integers(0, 2, rng.integers(1, 16)).tolist()
        why = explain(router, tokens)
        lease = router.admit(tokens)
        assert why.n_found == lease.n_cached
        assert why.reasons
        router.cancel(lease)
        serve(router, tokens)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        explain(a_router(), [])


def test_the_door_has_it() -> None:
    import radix_lib

    assert radix_lib.explain is explain

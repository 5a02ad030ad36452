"""A long chat and a large tree: what a call costs does not grow with what lies there.

Costs are counted in nodes that are looked at, never in seconds.
"""

from __future__ import annotations

import pytest

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import TreeNode
from radix_lib.router import Router
from radix_lib.scheduler import Scheduler
from radix_lib.teaching import draw_tree
from radix_lib.token_time import TokenTime

PAGE = 16
N_NODES = 200_000
N_TURNS = 500
SIDE = 447


def tokens_of(group: int, member: int) -> list[int]:
    """A prompt that begins as its group does and ends as nobody else's."""
    return [group] * PAGE + [group, member] * (PAGE // 2)


@pytest.fixture(scope="module")
def large() -> RadixCache:
    """A cache of 200,000 nodes: groups, each with as many members below it."""
    cache = RadixCache(PageManager(2 * N_NODES, PAGE))
    for group in range(SIDE):
        for member in range(SIDE):
            pages = cache.page_manager.allocate(2)
            cache.insert(tokens_of(group, member), pages)
            cache.page_manager.release(pages)
    return cache


@pytest.mark.long
def test_a_tree_of_200_000_nodes_is_whole(large: RadixCache) -> None:
    n_nodes = sum(1 for _ in large.nodes())
    assert n_nodes >= N_NODES
    large.check_integrity()
    large.page_manager.check_integrity()


@pytest.mark.long
def test_a_match_in_a_tree_of_200_000_nodes_looks_at_its_path_alone(
    large: RadixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    visited: list[TreeNode] = []
    walk = RadixCache.walk

    def counting(self, key, namespace=None):
        for node, n_common in walk(self, key, namespace):
            visited.append(node)
            yield node, n_common

    monkeypatch.setattr(RadixCache, "walk", counting)
    for number in range(100):
        group = number * 101 % SIDE
        member = number * 57 % SIDE
        visited.clear()
        found = large.match(tokens_of(group, member))
        assert len(found.pages) == 2
        assert len(visited) <= 3
        assert len(large.match([*tokens_of(group, 999)]).pages) == 1


@pytest.mark.long
def test_the_picture_of_a_tree_of_200_000_nodes_is_small_and_shows_the_hit(
    large: RadixCache,
) -> None:
    """It reads each node once, for what it folds has to be counted, and draws few."""
    found = large.match(tokens_of(400, 7))
    figure = draw_tree(large, hit=found.pages, limit=24)
    assert len(figure.svg) < 50_000
    assert len(figure.text.splitlines()) < 60
    shown = [line for line in figure.text.splitlines() if "reused" in line]
    assert len(shown) == len(found.pages) == 2
    assert "nodes, 3," in figure.text.splitlines()[-1]


@pytest.mark.long
def test_eviction_in_a_tree_of_200_000_nodes_looks_at_what_it_takes(
    large: RadixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    popped = 0
    heap = type(large._heap)
    pop = heap.pop

    def counting(self):
        nonlocal popped
        popped += 1
        return pop(self)

    monkeypatch.setattr(heap, "pop", counting)
    free = large.page_manager.n_free
    large.evict(1000)
    assert large.page_manager.n_free >= free + 1000
    assert popped <= 1100
    large.check_integrity()


@pytest.mark.long
def test_a_chat_of_500_turns_finds_all_that_came_before() -> None:
    n_tokens = N_TURNS * 40
    model = TokenTime(n_pages=2 * n_tokens // PAGE, page_size=PAGE)
    router: Router = model.router
    scheduler = Scheduler(model, token_budget=n_tokens)
    chat: list[int] = []
    used: list[int] = []
    for turn in range(N_TURNS):
        chat += [turn % 97, *range(1, 24)]
        request = scheduler.submit(chat, 16)
        scheduler.run()
        # The K/V of the last token of an answer are never computed.
        before = len(chat) - 24
        assert request.n_cached == max(before - 1, 0) // PAGE * PAGE
        chat += request.output
        usage = router.usage()
        assert (usage.locked, usage.private) == (0, 0)
        used.append(usage.unlocked)
        assert usage.unlocked == (len(chat) - 1) // PAGE
    # Again from the start: nothing is taken for what is there.
    assert scheduler.submit(chat[: len(chat) // 2], 1).wait()
    assert router.usage().unlocked == used[-1]
    router.check_integrity()
    # Without a cache the last answer is the same.
    alone = TokenTime(n_pages=2 * n_tokens // PAGE, page_size=PAGE)
    again = Scheduler(alone, token_budget=n_tokens).submit(chat[:-16], 16)
    assert again.wait() == chat[-16:]
    assert again.n_cached == 0

"""The recorder: every operation a frame, in words that are true; and film strips."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree
from radix_lib.teaching.films.film import film_strip
from radix_lib.teaching.films.narration import pages_of
from radix_lib.teaching.films.recorder import Recorder
from tests.support.scenes import SYSTEM, admit, decode, encode, new_router, run


def words(film: Recorder) -> list[str]:
    return [frame.words for frame in film.frames]


def test_a_tree():
    tree = RadixTree(page_size=2)
    film = Recorder(tree)
    tree.insert([1, 2, 3, 4, 5, 6], np.arange(3))
    tree.match([1, 2, 3, 4, 9, 9])
    tree.match([7, 7], namespace="bob")
    tree.match([1])
    tree.insert([1, 2, 8, 8], np.array([7, 8]))
    tree.insert([1], np.array([9]))
    assert words(film) == [
        "insert: 0 of 3 pages known, pages 0–2 new, as node A",
        "match: 2 of 3 pages found; node A is split, B is its upper part",
        "match: 0 of 1 page found in namespace bob",
        "match: less than a page of 2 tokens, nothing to look for",
        "insert: 1 of 2 pages known, page 8 new, as node D, page 7 not needed: a duplicate; "
        "node B is split, C is its upper part",
        "insert: less than a page of 2 tokens, nothing to keep",
    ]
    assert all(frame.pool is None for frame in film.frames)
    assert film.frames[1].marks.hit == {0, 1}
    assert film.frames[4].marks.new == {8}


def test_a_cache():
    cache = RadixCache(PageManager(8, 2))
    film = Recorder(cache)
    pages = cache.page_manager.allocate(3)
    cache.insert([1, 2, 3, 4, 5, 6], pages)
    cache.page_manager.release(pages)
    node = cache.match([1, 2]).node
    cache.lock(node)
    cache.evict(1)
    cache.evict(1)
    cache.unlock(node)
    assert words(film)[2:] == [
        "lock: the path to node B, page 0 protected by it",
        "evict: page 2 thrown out, node A is shorter",
        "evict: page 1 thrown out, node A is gone",
        "unlock: the path to node B, page 0 may be evicted again",
    ]
    assert [frame.marks.evicted for frame in film.frames[3:5]] == [{2}, {1}]
    assert [[ghost.letter for ghost in frame.ghosts] for frame in film.frames] == [
        [],
        [],
        [],
        ["A"],
        ["A"],
        [],
    ]


def test_a_lock_says_what_it_protects_beyond_others():
    cache = RadixCache(PageManager(8, 2))
    cache.insert([1, 2, 3, 4], cache.page_manager.allocate(2))
    film = Recorder(cache)
    upper = cache.match([1, 2]).node
    lower = cache.match([1, 2, 3, 4]).node
    for node in (upper, lower, upper):
        cache.lock(node)
    cache.unlock(lower)
    assert words(film)[2:] == [
        "lock: the path to node B, page 0 protected by it",
        "lock: the path to node A, page 1 protected by it",
        "lock: the path to node B, no page protected by it",
        "unlock: the path to node A, page 1 may be evicted again",
    ]


def test_a_router():
    router = new_router(16)
    film = Recorder(router)
    run(router, SYSTEM)
    first = admit(router, SYSTEM + "Hello", room=4)
    fork = router.fork(first, 2)
    router.commit(first)
    router.cancel(fork)
    router.finish(first)
    assert words(film) == [
        "admit: R1 reuses 0 of 29 tokens and gets pages 0–7",
        "finish: R1 ends, the tree keeps pages 0–6, page 7 free again",
        "admit: R2 reuses 28 of 34 tokens and gets pages 7–9",
        "fork: R3 shares 8 pages with R2 and gets page 10",
        "commit: nothing of R2 is new to the tree",
        "cancel: R3 ends, page 10 free again",
        "finish: R2 ends, pages 8–9 free again",
    ]


def test_duplicates_of_two_requests_that_run_at_once():
    router = new_router(16)
    film = Recorder(router)
    first, second = admit(router, "the same"), admit(router, "the same")
    router.commit(first)
    router.commit(second)
    freed = "pages 2–3 freed: duplicates"
    assert words(film)[-1] == f"commit: nothing of R2 is new to the tree, {freed}"


def test_steps_show_the_inside_of_a_request():
    router = new_router(6)
    run(router, "what is in the tree?")
    film = Recorder(router, steps=True)
    run(router, "what is new, then?")
    assert [text.partition(":")[0] for text in words(film)] == [
        "match",
        "lock",
        "evict",
        "allocate",
        "admit",
        "insert",
        "unlock",
        "finish",
    ]
    assert sum("is split" in text for text in words(film)) == 1


@pytest.mark.parametrize("steps", [False, True])
def test_what_raises_passes_through_and_leaves_no_frame(steps: bool):
    router = new_router(4)
    film = Recorder(router, steps=steps)
    lease = admit(router, "12345678")
    before = words(film)
    with pytest.raises(OutOfPages):
        router.admit(encode("another, longer"))
    with pytest.raises(ValueError, match="at least one token"):
        router.admit([])
    assert words(film) == before
    router.finish(lease)
    with pytest.raises(ValueError, match="not live"):
        router.finish(lease)
    assert words(film)[-1].startswith("finish: R1")


def test_an_operation_that_fails_half_way_leaves_no_frame_of_its_steps(
    monkeypatch: pytest.MonkeyPatch,
):
    router = new_router()
    film = Recorder(router, steps=True)

    def fail(n_pages: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(router.page_manager, "allocate", fail)
    with pytest.raises(KeyboardInterrupt):
        router.admit([1, 2, 3])
    assert film.frames == []
    monkeypatch.undo()
    router.check_integrity()
    run(router, "and on it goes")
    assert len(film.frames) > 2


def test_recording_changes_nothing():
    """The same random requests, recorded and not, leave the same trees and pages."""

    def play(record: bool) -> list[object]:
        router = new_router(24)
        chance = random.Random(7)
        film = Recorder(router, steps=True) if record else None
        for _ in range(60):
            lease = admit(
                router, "".join(chance.choices("ab", k=chance.randint(1, 20)))
            )
            chance.choice([router.finish, router.cancel, router.commit])(lease)
            if lease in router.leases:
                router.cancel(lease)
            router.check_integrity()
        if film:
            # each frame's pages add up, in the middle of things too
            for frame in film.frames:
                assert frame.pool
                assert pages_of(frame.tree) <= {
                    p for p, n in enumerate(frame.pool.counts) if n
                }
        nodes = [(node.key, node.pages.tolist()) for node in router.cache.nodes()]
        return [nodes, router.page_manager.ref_counts.tolist()]

    assert play(record=True) == play(record=False)


def test_frames_keep_their_moment():
    router = new_router()
    film = Recorder(router, decode=decode)
    run(router, SYSTEM + "one")
    then = film.frames[-1].figure().svg
    run(router, SYSTEM + "two")
    router.cache.evict(5)
    assert film.frames[1].figure().svg == then


def test_merge_makes_one_frame_of_several():
    router = new_router()
    film = Recorder(router)
    run(router, SYSTEM)
    film.merge(0, "one request")
    assert words(film) == ["one request"]
    assert film.frames[0].marks.new >= set(range(7))
    film.note("a pause", hit=[1])
    film.merge(0)
    assert words(film) == ["one request; a pause"]
    assert film.frames[0].marks.hit == {1}


# ── Films ─────────────────────────────────────────────────────────────────────────────


def filmed() -> Recorder:
    router = new_router(12)
    film = Recorder(router, decode=decode)
    for text in ("Hello, world", "Hello, you all", "Something quite different, long"):
        run(router, text)
    return film


def test_a_film_strip_tells_every_frame():
    film = filmed()
    strip = film_strip(film.frames, caption="Three requests")
    assert strip.alt.startswith("Film strip of 6 frames. Three requests. 1  admit: R1")
    for i, frame in enumerate(film.frames):
        assert f"{i + 1}  {frame.words}" in strip.alt
        assert f"{i + 1}  {frame.words[:50]}" in strip.text
    assert "evicted" in strip.svg
    assert max(map(len, strip.text.splitlines())) <= 100


def test_a_filmed_router_can_be_forgotten():
    """The names of its requests do not keep it, nor do its frames."""
    film = Recorder(new_router())
    admit(film.target, SYSTEM)  # type: ignore[arg-type]
    router = weakref.ref(film.target)
    del film
    gc.collect()
    assert router() is None


def test_nodes_stand_at_the_same_place_in_each_frame():
    film = filmed()
    parts = [frame.tree_part(film.frames) for frame in film.frames]
    assert len({part.width for part in parts}) == 1
    assert parts[1].height < parts[-1].height  # places at the end that nobody uses yet


def test_wide_trees_get_fewer_columns():
    film = filmed()
    widths = [
        float(
            film_strip(film.frames, columns)
            .svg.partition('width="')[2]
            .partition('"')[0]
        )
        for columns in (1, 2, 3, 9)
    ]
    assert widths[0] < widths[1] <= 1.5 * 700 + 72
    assert widths[1] == widths[2] == widths[3]


@pytest.mark.parametrize("columns", [0, -1])
def test_a_strip_without_columns_is_refused(columns: int):
    with pytest.raises(ValueError, match="nothing to show"):
        film_strip(filmed().frames, columns)


def test_a_strip_without_frames_is_refused():
    with pytest.raises(ValueError, match="0 frames"):
        film_strip([])


def test_a_lease_that_grows():
    router = new_router(16)
    lease = admit(router, "12345678")
    film = Recorder(router)
    router.grow(lease, 3)
    router.grow(lease, 1)
    assert words(film) == ["grow: R1 gets page 2", "grow: R1 has room already"]

"""The figures of chapters 04 and 05: a heap, a story side by side, books in bars."""

from __future__ import annotations

import re

import pytest

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree
from radix_lib.teaching import SideBySide, draw_books, draw_heap
from radix_lib.teaching.figures import theme
from tests.support.scenes import SYSTEM, admit, decode, encode, new_router, run


def put(cache: RadixCache, text: str) -> None:
    pages = cache.page_manager.allocate(len(text) // 4)
    cache.insert(encode(text), pages)
    cache.page_manager.release(pages)


def kitchen() -> RadixCache:
    """Three leaves; one is used again and then locked."""
    cache = RadixCache(PageManager(n_pages=16, page_size=4))
    for text in ("You are a cook. Soup", "You are a cook. Cake", "You are a poet."):
        put(cache, text)
    cache.lock(cache.match(encode("You are a cook. Soup")).node)
    return cache


def test_the_heap_shows_each_entry_and_why_it_is_stale():
    figure = draw_heap(kitchen(), decode=decode, caption="A heap")
    heap = figure.text[figure.text.index("heap:") :].splitlines()
    assert heap == [
        "heap: 4 entries, 2 of them stale",
        "    C, priority 1, entry 1, stale: used again",
        "    D, priority 2, entry 2",
        "    E, priority 3, entry 3",
        "    C, priority 4, entry 4, stale: locked",
    ]
    assert figure.alt.startswith("A heap. Radix tree of 5 nodes")
    assert "C, priority 4, entry 4, stale: locked" in figure.alt
    strokes = re.findall(r'stroke-width="1.4"', figure.svg)
    assert len(strokes) == 2, "stale entries are struck, and no others"
    assert figure.png


def test_the_entry_of_a_node_that_is_no_leaf_any_more():
    cache = kitchen()
    put(cache, "You are a cook. Cake and tea")
    stale = [line for line in draw_heap(cache).text.splitlines() if "stale:" in line]
    assert "    D, priority 2, entry 2, stale: no leaf now" in stale


def test_the_entry_of_a_node_that_is_gone():
    cache = RadixCache(PageManager(n_pages=8, page_size=4), "mru")
    put(cache, "You are a cook. ")
    cache.match(encode("You are a cook. "))  # what was just used goes first
    cache.evict(4)
    assert draw_heap(cache).text.splitlines()[1:] == [
        "heap: 1 entry, 1 of them stale",
        "    –, priority -1, entry 1, stale: gone",
    ]


def test_an_empty_heap_is_drawn():
    figure = draw_heap(RadixCache(PageManager(4, 4)))
    assert figure.text == "root (empty)\nheap: 0 entries, 0 of them stale"
    assert figure.png


class Naive(RadixTree):
    """A tree that holds no page."""

    def __init__(self, manager: PageManager):
        super().__init__(manager.page_size)
        self.page_manager = manager


def told_story(cache, hand_in) -> SideBySide:
    """Two requests with the same prompt hand it in, and a third takes pages."""
    film, manager = SideBySide(decode), cache.page_manager
    tables = {"R1": manager.allocate(2), "R2": manager.allocate(2)}
    for name in ("R1", "R2"):
        hand_in(cache, tables[name])
        film.note(f"{name} hands its pages in", cache, tables)
    tables["R3"] = manager.allocate(2)
    film.note("R3 takes two pages", cache, tables)
    return film


def frees_duplicates(cache, table):
    known = cache.insert(encode("I a cook"), table).pages
    cache.page_manager.release(table[: len(known)])


def takes_over(cache, table):
    known = cache.insert(encode("I a cook"), table).pages
    cache.page_manager.retain(known)
    cache.page_manager.release(table[: len(known)])
    table[: len(known)] = known


def test_a_count_that_is_wrong_is_shown_beside_what_it_should_be():
    figure = told_story(Naive(PageManager(6, 4)), frees_duplicates).draw("Naive")
    assert figure.text.splitlines()[-7:] == [
        "3  R3 takes two pages",
        "root",
        "└─ A  I·a·cook  8 tokens, pages 0–1, = reused",
        "pages 0×1≠2 1×1≠2 2×1≠2 3×1≠2 4×0 5×0",
        "R1: 0 1",
        "R2: 2 3",
        "R3: 2 3",
    ]
    assert "3. R3 takes two pages: pages 0×1≠2" in figure.alt
    wrong = figure.svg.count('stroke-width="2.6"')
    assert wrong >= 2 + 4 + 4, "the wrong ones have a thick border"
    assert figure.png


def test_the_story_of_who_does_it_right():
    figure = told_story(RadixCache(PageManager(6, 4)), takes_over).draw("Right")
    assert "≠" not in figure.text + figure.svg
    assert figure.text.splitlines()[-4:] == [
        "pages 0×3 1×3 2×1 3×1 4×0 5×0",
        "R1: 0 1",
        "R2: 0 1",
        "R3: 2 3",
    ]
    assert theme.STATES["hit"].fill.lower() in figure.svg


def test_a_story_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing was noted"):
        SideBySide().draw()


def test_the_bars_of_one_pool_are_equally_long():
    moments = {}
    for name, end in {"before": 0, "runs": 1, "over": 2}.items():
        router = new_router(n_pages=14)
        run(router, SYSTEM)
        if end:
            lease = admit(router, SYSTEM + "Hello!")
        if end == 2:
            router.finish(lease)
        moments[name] = router
    figure = draw_books(moments, "One life")
    assert figure.text.splitlines() == [
        "One life",
        "free + unlocked + locked + private = pool",
        "before: free 7–13; unlocked 0–6. 7 + 7 + 0 + 0 = 14",
        "runs: free 9–13; locked 0–6; private 7–8. 5 + 0 + 7 + 2 = 14",
        "over: free 8–13; unlocked 0–7. 6 + 8 + 0 + 0 = 14",
    ]
    assert figure.alt.startswith("One life. Where each page is, free + unlocked")
    sums = re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>[^<]*= 14<', figure.svg)
    assert len(sums) == 3 and len(set(sums)) == 1, "a sum stands where its bar ends"
    assert figure.png


def test_a_pool_of_many_pages_has_narrow_cells():
    figure = draw_books({"now": new_router(n_pages=400)})
    assert "400 + 0 + 0 + 0 = 400" in figure.text
    width = re.search(r'<svg [^>]*width="(\d+)', figure.svg)
    assert width is not None and int(width[1]) <= theme.WIDTH

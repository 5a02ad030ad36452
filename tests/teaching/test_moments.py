"""Moments of a pool, one below the other."""

from __future__ import annotations

from radix_lib.page_manager import PageManager
from radix_lib.teaching import arena_moment, compose, pool_moment


def test_a_moment_shows_the_pool_as_it_was():
    manager = PageManager(n_pages=4, page_size=8)
    pages = manager.allocate(2)
    film = [pool_moment("A takes 2", manager, {"A": pages}, new=pages)]
    manager.release(pages)
    film.append(pool_moment("A ends", manager, {}))
    figure = compose(film, "Two moments")
    taken, ended = figure.text.split("A ends")
    assert taken.count("A   │") == 2
    assert taken.count("free") == 2
    assert "+0 ×1" in taken
    assert ended.count("free") == 4
    assert "A takes 2. A pool of 4 pages of 8 tokens, 2 free. New: 0–1." in figure.alt
    assert figure.text.startswith("Two moments")
    assert figure.png


def test_an_arena_shows_the_owner_of_each_place():
    figure = compose([arena_moment("now", ["A", "A", None, "B"])])
    assert figure.text.count("   A   ") == 2
    assert figure.text.count("   B   ") == 1
    assert figure.text.count("free") == 1
    assert "1 free" in figure.alt

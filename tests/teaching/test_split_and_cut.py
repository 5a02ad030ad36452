"""A split in slow motion, and what page borders cut off: as the library does it."""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree
from radix_lib.teaching import draw_cut, draw_split
from radix_lib.teaching.figures.cut_figure import runs
from radix_lib.teaching.figures.split_figure import split_moments

EDGE = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("n_pages", [1, 2, 3])
def test_the_last_moment_of_a_split_is_what_the_library_makes_of_it(n_pages: int):
    cache = RadixCache(PageManager(n_pages=8, page_size=2))
    cache.insert(EDGE, cache.page_manager.allocate(4))
    node = cache.match(EDGE).node
    cache.lock(node)
    end = split_moments(node, n_pages)[-1].state
    upper, root = node.split(n_pages, cache.page_bytes), cache.roots[None]
    cache.check_integrity()
    named = {id(root): "root", id(node): "A", id(upper): "B"}
    ((filed, child),) = root.children.items()
    assert (end["root.child"], named[id(child)]) == ("B", "B")
    assert end["root.filed"] == "1 2"
    assert filed == upper.key[: cache.page_bytes]
    ((filed, child),) = upper.children.items()
    assert (end["B.child"], named[id(child)]) == ("A", "A")
    first = 2 * n_pages + 1
    assert end["B.filed"] == f"{first} {first + 1}"
    assert filed == node.key[: cache.page_bytes]
    for name, it in (("A", node), ("B", upper)):
        assert end[f"{name}.parent"] == named[id(it.parent)]
        assert end[f"{name}.lock"] == it.lock_ref == 1
        ids = it.pages.tolist()
        many = f"pages {ids[0]}–{ids[-1]}"
        assert end[name].pages == (many if len(ids) > 1 else f"page {ids[0]}")
        assert end[name].text == " ".join(map(str, EDGE[ids[0] * 2 : ids[-1] * 2 + 2]))


def test_each_moment_sets_something_and_the_node_stays_as_it_is():
    tree = RadixTree()
    tree.insert(EDGE, np.arange(8))
    (node,) = tree.nodes()
    moments = split_moments(node, 3)
    assert all(moment.changed for moment in moments[1:])
    figure = draw_split(node, 3, caption="A split")
    assert sum(1 for _ in tree.nodes()) == 1
    tree.check_integrity()
    for n, moment in enumerate(moments, 1):
        assert f"{n}  {moment.words}" in figure.text
        assert moment.words in figure.alt
    assert figure.png
    assert figure.svg


@pytest.mark.parametrize("n_pages", [0, 8])
def test_there_is_nothing_to_cut_at_the_ends_of_an_edge(n_pages: int):
    tree = RadixTree()
    tree.insert(EDGE, np.arange(8))
    with pytest.raises(ValueError, match=f"8 pages cannot be cut after {n_pages}"):
        draw_split(next(tree.nodes()), n_pages)


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("second", ["abcdef", "abcxyz", "xbc", "abcdefgh", ""])
def test_what_is_drawn_as_reused_is_what_a_tree_finds(second: str, page_size: int):
    first = "abcdef"
    tree = RadixTree(page_size)
    tree.insert(list(first.encode()), np.arange(len(first)))
    n_found = len(tree.match(list(second.encode())).pages) * page_size
    n_shared = len(tree_of_one_token(first).match(list(second.encode())).pages)
    row = runs(second, n_shared, page_size)
    n_tokens = dict.fromkeys(("hit", "new", "idle", "free"), 0)
    for run in row:
        n_tokens[run.state] += run.n_tokens
        assert len(run.text) == (0 if run.state == "free" else run.n_tokens)
    assert n_tokens["hit"] == n_found
    assert n_tokens["new"] == n_shared - n_found
    assert n_tokens["idle"] == len(second) - n_shared
    assert sum(n_tokens.values()) == -(-len(second) // page_size) * page_size
    assert "".join(run.text for run in row) == second


def tree_of_one_token(text: str) -> RadixTree:
    tree = RadixTree()
    tree.insert(list(text.encode()), np.arange(len(text)))
    return tree


def test_the_cut_is_told_in_words_and_drawn_with_characters():
    figure = draw_cut("abcdef", "abcdxyz", (1, 3, 4), caption="Cut")
    assert "With pages of 3: 3 reused, 1 cut off." in figure.alt
    assert figure.text == (
        "Cut\n"
        "pages of 1: 4 reused, 0 cut off\n"
        "    │a│b│c│d│x│y│z\n"
        "    │=│=│=│=│ │ │\n"
        "pages of 3: 3 reused, 1 cut off\n"
        "    │abc│dxy│z\n"
        "    │===│+  │\n"
        "pages of 4: 4 reused, 0 cut off\n"
        "    │abcd│xyz\n"
        "    │====│"
    )
    assert figure.png
    assert figure.svg

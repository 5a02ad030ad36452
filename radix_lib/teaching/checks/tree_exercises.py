"""Chapter 02: the checks of its longer exercises.

Each takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from radix_lib.radix_tree import RadixTree, TreeNode
from radix_lib.teaching.checks.check import NotAttempted


def merges_nodes(merge: Callable[[TreeNode, int], None]) -> None:
    """`merge(node, page_bytes)` joins a node and its only child; the child stays.

    A node with no child, or with several, is left as it is.
    """
    tree = RadixTree(page_size=2)
    tree.insert([1, 2, 3, 4, 5, 6, 7, 8], np.arange(4))
    tree.insert([1, 2, 3, 4, 5, 6, 9, 9], np.arange(4, 8))
    tree.insert([5, 5], np.array([8]))
    tree.match([1, 2, 3, 4])  # splits again
    upper, lower, *others = tree.nodes()
    merge(upper, tree.page_bytes)
    tree.check_integrity()
    after = list(tree.nodes())
    assert len(after) == 1 + len(others), "a merge must leave one node less"
    assert lower in after, "the lower node, which a request may hold, is gone"
    for node in after:
        merge(node, tree.page_bytes)
    assert list(tree.nodes()) == after, "a node without an only child was merged"
    pages = tree.match([1, 2, 3, 4, 5, 6, 9, 9]).pages.tolist()
    assert pages == [0, 1, 2, 7], "pages are lost"
    tree = RadixTree(page_size=2)
    node = tree.insert([1, 2], np.arange(1)).node
    assert node.parent is not None
    merge(node.parent, tree.page_bytes)
    assert list(tree.nodes()) == [node], "the root was merged with its only child"


def _bad_mix(block: tuple[int, tuple[int, ...]]) -> int:
    """A hash that forgets the order of the tokens in a block."""
    before, tokens = block
    return (before * 31 + sum(tokens)) % 97


def tells_collisions_apart(blocks_type: Callable[..., Any]) -> None:
    """A table of hashed blocks finds what was inserted, whatever its hash mixes up.

    `blocks_type(page_size, mix)` has `insert(tokens, pages)` and `match(tokens)`.
    """
    first = [0, 1, 2, 3]  # on pages 7 and 8

    def found(inserted: Sequence[Sequence[int]], tokens: Sequence[int]) -> list[int]:
        blocks = blocks_type(2, mix=_bad_mix)
        for old in inserted:
            if blocks.insert(old, [7, 8] if old == first else [9, 10]) is ...:
                raise NotAttempted
        matched = blocks.match(tokens)
        if matched is ...:
            raise NotAttempted
        return list(matched)

    assert found([first], first) == [7, 8], "what was inserted is not found"
    assert found([first], [0, 1, 4, 5]) == [7], "a shared page is not found"
    assert found([first], [0, 1, 3, 2]) == [7], "the collision is believed"
    assert found([first], [1, 0, 3, 2]) == [], "the collision is believed"
    # page 10 holds the same tokens and has the same hash, after another first block
    turned = [1, 0, 4, 5]
    mixed = [0, 1, 4, 5]
    for inserted in ([first, turned], [turned, first]):
        told = "a page that follows another prefix is believed"
        assert found(inserted, mixed) in ([], [7]), told
    # the same once more, two blocks later
    blocks = blocks_type(2, mix=_bad_mix)
    blocks.insert([0, 1, 4, 5, 8, 9], [1, 2, 3])
    blocks.insert([1, 0, 4, 5, 6, 7], [4, 5, 6])
    assert list(blocks.match([0, 1, 4, 5, 6, 7])) == [1, 2], told

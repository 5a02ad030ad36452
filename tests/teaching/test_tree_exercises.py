"""Chapter 02: right answers to its exercises pass their checks, wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.teaching import check, merges_nodes, tells_collisions_apart


def join(node, child, page_bytes):
    child.key = node.key + child.key
    child.pages = np.concatenate((node.pages, child.pages))
    child.parent = node.parent
    node.parent.children[child.key[:page_bytes]] = child


def merge(node, page_bytes):
    if len(node.children) != 1 or node.parent is None:
        return
    (child,) = node.children.values()
    join(node, child, page_bytes)


def keep_the_upper(node, page_bytes):
    if len(node.children) == 1:
        (child,) = node.children.values()
        node.key = node.key + child.key
        node.pages = np.concatenate((node.pages, child.pages))
        node.children = child.children
        for grandchild in node.children.values():
            grandchild.parent = node


def merge_any(node, page_bytes):
    if not node.children or node.parent is None:
        return
    (child, *_) = node.children.values()
    join(node, child, page_bytes)


def test_a_merge_that_keeps_the_lower_node_passes():
    merges_nodes(merge)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda node, page_bytes: None, "one node less"),
        (keep_the_upper, "the lower node, which a request may hold, is gone"),
        (merge_any, "without an only child"),
    ],
)
def test_another_merge_is_told(wrong, told):
    with pytest.raises(AssertionError, match=told):
        merges_nodes(wrong)


def merge_the_root(node, page_bytes):
    if len(node.children) == 1:
        (child,) = node.children.values()
        join(node, child, page_bytes)


def test_a_merge_of_the_root_breaks():
    with pytest.raises(AttributeError):
        merges_nodes(merge_the_root)


class Blocks:
    """Chapter 02's table of hashed blocks, which believes its hashes."""

    def __init__(self, page_size, mix):
        self.page_size = page_size
        self.mix = mix
        self.page_of = {}

    def keys(self, tokens):
        code = 0
        for start in range(0, len(tokens), self.page_size):
            code = self.mix((code, tuple(tokens[start : start + self.page_size])))
            yield self.key(code, tokens, start)

    def key(self, code, tokens, start):
        return code

    def match(self, tokens):
        found = []
        for key in self.keys(tokens):
            if key not in self.page_of:
                break
            found.append(self.page_of[key])
        return found

    def insert(self, tokens, pages):
        for key, page in zip(self.keys(tokens), pages, strict=True):
            self.page_of.setdefault(key, page)


class ComparesTheBlock(Blocks):
    def key(self, code, tokens, start):
        return code, tuple(tokens[start : start + self.page_size])


class ComparesThePrefix(Blocks):
    def key(self, code, tokens, start):
        return code, tuple(tokens[: start + self.page_size])


class ComparesTwoBlocks(Blocks):
    def key(self, code, tokens, start):
        return code, tuple(
            tokens[max(0, start - self.page_size) : start + self.page_size]
        )


class FindsNothing(Blocks):
    def match(self, tokens):
        return []


def test_a_table_that_compares_the_whole_prefix_passes():
    tells_collisions_apart(ComparesThePrefix)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Blocks, "the collision is believed"),
        (ComparesTheBlock, "a page that follows another prefix is believed"),
        (ComparesTwoBlocks, "a page that follows another prefix is believed"),
        (FindsNothing, "what was inserted is not found"),
    ],
)
def test_another_table_is_told(wrong, told):
    with pytest.raises(AssertionError, match=told):
        tells_collisions_apart(wrong)


def test_a_class_whose_method_is_still_open_is_not_attempted(capsys):
    class Open(Blocks):
        def match(self, tokens):
            return ...

    check("exercise 5", tells_collisions_apart, Open)
    assert capsys.readouterr().out == "○ exercise 5: not attempted\n"

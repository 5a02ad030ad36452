"""Chapter 02: the radix tree, by hand, with bad input, and against the oracle."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test as run_machine,
)

from radix_lib.radix_tree import (
    TOKEN_BYTES,
    RadixTree,
    TreeNode,
    pack_tokens,
    unpack_tokens,
)
from radix_lib.teaching.checks.oracle import PrefixOracle
from tests.support.inspection import contents, path_of, remembered, shape, snapshot
from tests.support.small_routers import refused
from tests.support.strategies import (
    BAD_TOKENS,
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    spell,
)


def pages(*ids: int) -> np.ndarray:
    return np.array(ids, np.int64)


def drawing(tree: RadixTree) -> list[tuple[list[int], list[int]]]:
    """The nodes of the tree, parents first, each as its own tokens and pages."""
    return [(unpack_tokens(node.key), node.pages.tolist()) for node in tree.nodes()]


# ── Keys ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 2, 2**32 - 1],
        (1, 2, 2**32 - 1),
        np.array([1, 2, 2**32 - 1]),
        np.array([1, 2, 2**32 - 1], np.uint32),
        array("q", [1, 2, 2**32 - 1]),
        [np.int64(1), np.int32(2), np.uint32(2**32 - 1)],
        pack_tokens([1, 2, 2**32 - 1]),
    ],
    ids=["list", "tuple", "int64", "uint32", "array", "numpy scalars", "packed"],
)
def test_any_sequence_of_token_ids_packs_to_the_same_key(tokens):
    key = pack_tokens(tokens)
    assert len(key) == 3 * TOKEN_BYTES
    assert unpack_tokens(key) == [1, 2, 2**32 - 1]


def test_no_tokens_pack_to_an_empty_key():
    assert pack_tokens([]) == b""
    assert unpack_tokens(b"") == []


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
def test_a_bad_token_is_named_with_what_a_token_is(bad):
    with pytest.raises(ValueError, match="whole numbers from 0") as caught:
        pack_tokens([3, bad, 4])
    assert repr(bad) in str(caught.value)


def test_a_token_too_large_is_told_the_largest():
    with pytest.raises(ValueError, match=str(2**32 - 1)):
        pack_tokens([2**32])


@pytest.mark.parametrize("bad", [-1, 2**32])
def test_the_bad_token_is_named_and_not_a_good_one_before_it(bad):
    with pytest.raises(ValueError, match=f"not {bad}$"):
        pack_tokens([np.int64(5), 0, 65, 2**32 - 1, bad])


@pytest.mark.parametrize("tokens", [5, None, 1.5, np.int64(3)], ids=repr)
def test_what_is_no_sequence_of_tokens_is_a_value_error(tokens):
    with pytest.raises(ValueError, match="token ids"):
        pack_tokens(tokens)


def test_packed_bytes_that_are_no_whole_number_of_tokens_are_refused():
    with pytest.raises(ValueError, match="4"):
        pack_tokens(b"abc")


# ── By hand ───────────────────────────────────────────────────────────────────────────


def test_an_example_worked_by_hand():
    """Page size 2. Three prompts, and the tree after each of them."""
    tree = RadixTree(page_size=2)

    known, node = tree.insert([1, 2, 3, 4, 5, 6], pages(10, 11, 12))
    assert known.tolist() == []
    assert drawing(tree) == [([1, 2, 3, 4, 5, 6], [10, 11, 12])]
    assert node is next(tree.nodes())

    # Parts inside the third page: two pages are shared, the edge is cut after them.
    known, node = tree.insert([1, 2, 3, 4, 5, 9], pages(20, 21, 22))
    assert known.tolist() == [10, 11], (
        "what the tree has, it keeps: 20 and 21 are duplicates"
    )
    assert drawing(tree) == [([1, 2, 3, 4], [10, 11]), ([5, 6], [12]), ([5, 9], [22])]
    assert unpack_tokens(node.key) == [5, 9]

    # Parts inside the first page: nothing is shared, though the first token is the
    # same.
    known, _ = tree.insert([1, 7, 8, 8, 3], pages(30, 31))
    assert known.tolist() == []
    assert drawing(tree)[-1] == ([1, 7, 8, 8], [30, 31]), (
        "the 3 fills no page and stays out"
    )

    # Matching [1, 2] ends inside an edge, and cuts it.
    found, node = tree.match([1, 2, 0, 0])
    assert found.tolist() == [10]
    assert path_of(node) == (None, (1, 2))
    assert drawing(tree)[:2] == [([1, 2], [10]), ([3, 4], [11])]

    # After the cut all is found as before.
    assert tree.match([1, 2, 3, 4, 5, 6]).pages.tolist() == [10, 11, 12]
    assert tree.match([1, 2, 3, 4, 5, 9, 9]).pages.tolist() == [10, 11, 22]
    assert tree.match([1, 7, 8, 8]).pages.tolist() == [30, 31]
    tree.check_integrity()


def test_a_split_keeps_the_node_below_and_puts_a_new_one_above():
    tree = RadixTree(page_size=1)
    node = tree.insert([1, 2, 3], pages(7, 8, 9)).node
    upper = tree.match([1, 5]).node
    assert upper is not node
    assert node.parent is upper
    assert upper.parent is tree.roots[None]
    assert (unpack_tokens(upper.key), upper.pages.tolist()) == ([1], [7])
    assert (unpack_tokens(node.key), node.pages.tolist()) == ([2, 3], [8, 9])
    assert list(upper.children) == [pack_tokens([2])]


@pytest.mark.parametrize("n_pages", [0, 3, 4])
def test_a_split_cuts_inside_the_edge_only(n_pages):
    tree = RadixTree(page_size=2)
    node = tree.insert([1, 2, 3, 4, 5, 6], pages(7, 8, 9)).node
    with pytest.raises(AssertionError):
        node.split(n_pages, tree.page_bytes)


@pytest.mark.parametrize("page_size", [1, 2, 16])
@pytest.mark.parametrize("cut", range(1, 8))
def test_an_edge_is_cut_at_every_page_that_it_has(page_size, cut):
    tokens = list(range(8 * page_size))
    tree = RadixTree(page_size)
    tree.insert(tokens, pages(*range(8)))
    found, node = tree.match([*tokens[: cut * page_size], 999])
    assert found.tolist() == list(range(cut))
    assert path_of(node) == (None, tuple(tokens[: cut * page_size]))
    assert tree.match(tokens).pages.tolist() == list(range(8))
    tree.check_integrity()


def test_keys_are_compared_as_tokens_and_not_as_bytes():
    """1 and 256 are the same bytes, shifted; 0x01010101 is one byte four times."""
    tree = RadixTree(page_size=1)
    tree.insert([1, 256, 0x01010101], pages(5, 6, 7))
    assert tree.match([256, 1]).pages.tolist() == []
    assert tree.match([1, 256, 0x01010001]).pages.tolist() == [5, 6]
    assert tree.match([1, 0x01010101]).pages.tolist() == [5]


def test_a_prefix_of_what_is_there_adds_nothing():
    tree = RadixTree(page_size=2)
    tree.insert([1, 2, 3, 4], pages(10, 11))
    known, node = tree.insert([1, 2, 3], pages(20))
    assert known.tolist() == [10]
    assert path_of(node) == (None, (1, 2))
    assert contents(tree) == {(None, (1, 2)): 10, (None, (1, 2, 3, 4)): 11}


def test_inserting_the_same_twice_returns_all_of_it():
    tree = RadixTree(page_size=2)
    first = tree.insert([1, 2, 3, 4], pages(10, 11)).node
    known, node = tree.insert([1, 2, 3, 4], pages(20, 21))
    assert known.tolist() == [10, 11]
    assert node is first
    assert drawing(tree) == [([1, 2, 3, 4], [10, 11])]


def test_more_pages_than_the_tokens_fill_are_left_to_the_caller():
    tree = RadixTree(page_size=2)
    tree.insert([1, 2, 3], pages(10, 11, 12))
    assert contents(tree) == {(None, (1, 2)): 10}


def test_the_tree_keeps_its_own_copy_of_the_pages():
    tree = RadixTree(page_size=1)
    table = pages(10, 11)
    tree.insert([1, 2], table)
    table[:] = 99
    found = tree.match([1, 2]).pages
    found[:] = 99
    assert tree.match([1, 2]).pages.tolist() == [10, 11]


def test_what_is_shorter_than_a_page_matches_nothing():
    tree = RadixTree(page_size=4)
    tree.insert([1, 2, 3, 4], pages(10))
    for tokens in [[], [1], [1, 2, 3]]:
        found, node = tree.match(tokens)
        assert found.tolist() == []
        assert node is tree.roots[None]


def test_namespaces_share_nothing():
    tree = RadixTree(page_size=1)
    tree.insert([1, 2], pages(10, 11), namespace="a")
    tree.insert([1, 2], pages(20, 21), namespace="b")
    assert tree.match([1, 2], "a").pages.tolist() == [10, 11]
    assert tree.match([1, 2], "b").pages.tolist() == [20, 21]
    assert tree.match([1, 2]).pages.tolist() == []
    assert [node.namespace for node in tree.nodes()] == ["a", "b"]


def test_looking_for_a_namespace_does_not_make_it():
    tree = RadixTree(page_size=1)
    found, node = tree.match([1, 2], "nobody")
    assert found.tolist() == []
    assert (node.namespace, node.parent) == ("nobody", None)
    assert tree.roots == {}


def test_inserting_less_than_a_page_makes_no_namespace():
    tree = RadixTree(page_size=2)
    known, node = tree.insert([1], pages(10), "short")
    assert known.tolist() == []
    assert node.parent is None
    assert tree.roots == {}


def test_a_walk_changes_nothing_and_sees_what_a_match_would():
    tree = RadixTree(page_size=1)
    tree.insert([1, 2, 3, 4], pages(10, 11, 12, 13))
    tree.insert([1, 2, 7], pages(10, 11, 14))
    before = snapshot(tree)
    walked = [(unpack_tokens(n.key), common) for n, common in tree.walk([1, 2, 3, 9])]
    assert walked == [([1, 2], 2), ([3, 4], 1)]
    assert list(tree.walk([9])) == list(tree.walk([1], "nobody")) == []
    assert snapshot(tree) == before


def test_nodes_come_parents_first_in_the_order_of_insertion():
    tree = RadixTree(page_size=1)
    for i, tokens in enumerate([[5, 1], [5, 2], [3], [5, 1, 9]]):
        tree.insert(tokens, pages(*range(10 * i, 10 * i + 3)))
    names = [path_of(node)[1] for node in tree.nodes()]
    assert names == [(5,), (5, 1), (5, 1, 9), (5, 2), (3,)]


def test_a_deep_tree_needs_no_deep_stack():
    tree = RadixTree(page_size=1)
    depth = 1500  # Python stops recursing at 1,000
    for n in range(1, depth + 1):
        tree.insert([7] * n, np.arange(n))
    assert tree.match([7] * depth).pages.tolist() == list(range(depth))
    assert sum(1 for _ in tree.nodes()) == depth
    tree.check_integrity()


# ── Bad input ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page_size", [0, -1, 1.5, "2", None])
def test_a_page_has_at_least_one_token(page_size):
    words = f"page_size is a whole number from 1, not {page_size!r}"
    with pytest.raises(ValueError, match=words):
        RadixTree(page_size)


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
@pytest.mark.parametrize("call", ["match", "insert", "walk"])
def test_a_bad_token_changes_nothing(call, bad):
    tree = RadixTree(page_size=1)
    tree.insert([1, 2, 3], pages(10, 11, 12))
    before = snapshot(tree)
    calls = {
        "match": lambda: tree.match([1, 2, bad]),
        "insert": lambda: tree.insert([1, 2, bad], pages(20, 21, 22)),
        "walk": lambda: list(tree.walk([1, 2, bad])),
    }
    with pytest.raises(ValueError, match="token ids") as caught:
        calls[call]()
    assert repr(bad) in str(caught.value)
    assert snapshot(tree) == before


@pytest.mark.parametrize("namespace", [None, "new"])
def test_too_few_pages_are_refused_with_the_number_needed(namespace):
    tree = RadixTree(page_size=2)
    tree.insert([1, 2, 3, 4], pages(10, 11))
    before = snapshot(tree)
    with pytest.raises(ValueError, match="4 tokens need 2 pages of 2, not 1"):
        tree.insert([1, 2, 9, 9, 9], pages(20), namespace)
    assert snapshot(tree) == before


@pytest.mark.parametrize(
    "ids",
    [[20, 21, 22], None, np.array([20.0, 21.0, 22.0]), np.array([[20], [21], [22]])],
    ids=repr,
)
def test_what_is_no_array_of_page_ids_does_not_enter(ids):
    tree = RadixTree(page_size=1)
    tree.insert([1, 2, 3], pages(10, 11, 12))
    words = "page ids are a one-dimensional array of integers"
    refused(tree, ValueError, words, lambda: tree.insert([1, 2, 9], ids))


class Tenant:
    """A namespace whose hash changes when it is renamed."""

    name = "alice"

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Tenant({self.name})"


#: What compares equal to another, or not to itself, or has no hash that lasts.
BAD_NAMESPACES = [
    True,
    False,
    np.True_,
    1.0,
    float("nan"),
    b"tenant",
    Tenant(),
    frozenset(["tenant"]),
    ["tenant"],
    ("tenant", float("nan")),
    ("tenant", ("adapter", True)),
    ("tenant", ["adapter"]),
]


@pytest.mark.parametrize("bad", BAD_NAMESPACES, ids=repr)
@pytest.mark.parametrize("call", ["match", "insert", "walk"])
def test_what_may_not_name_a_namespace_is_refused(call, bad):
    tree = RadixTree(page_size=1)
    tree.insert([1, 2, 3], pages(10, 11, 12), namespace=1)
    arguments = [[1, 2, 9], pages(20, 21, 22)][: 2 if call == "insert" else 1]
    words = "a namespace is None, a string, a whole number, a plain object"
    message = refused(
        tree, ValueError, words, lambda: getattr(tree, call)(*arguments, namespace=bad)
    )
    part = bad[-1] if isinstance(bad, tuple) else bad
    assert repr(part[-1] if isinstance(part, tuple) else part) in message
    tree.check_integrity()


@pytest.mark.parametrize(
    "namespace",
    [None, "", "a", 0, 1, -1, np.int64(7), (), ("a", ("b", 2), None), object()],
    ids=lambda namespace: type(namespace).__name__,
)
def test_a_namespace_is_found_by_what_it_says(namespace):
    tree = RadixTree(page_size=1)
    tree.insert([1, 2], pages(10, 11), namespace)
    assert tree.match([1, 2], namespace).pages.tolist() == [10, 11]
    assert tree.match([1, 2], "another").pages.tolist() == []
    tree.check_integrity()


BROKEN = {
    "node [8]… is misfiled": lambda tree, node: setattr(
        node, "key", pack_tokens([8]) + node.key[TOKEN_BYTES:]
    ),
    "node [1]… names another parent": lambda tree, node: setattr(node, "parent", None),
    "node [1]… is empty": lambda tree, node: setattr(node, "pages", node.pages[:0]),
    "node [1]…: key ≠ pages": lambda tree, node: setattr(node, "pages", node.pages[:1]),
    "node [1]… repeats a page": lambda tree, node: setattr(
        node, "pages", node.pages[[0, 0]]
    ),
    "node [1]… crosses namespaces": lambda tree, node: setattr(
        node, "namespace", "other"
    ),
    "root None has an edge": lambda tree, node: setattr(
        tree.roots[None], "key", b"1234"
    ),
    "root None says 'other'": lambda tree, node: setattr(
        tree.roots[None], "namespace", "other"
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_integrity_check_names_what_is_broken(what):
    tree = RadixTree(page_size=1)
    node = tree.insert([1, 2], pages(10, 11)).node
    tree.check_integrity()
    BROKEN[what](tree, node)
    with pytest.raises(AssertionError) as caught:
        tree.check_integrity()
    assert str(caught.value) == what


def test_the_integrity_check_sees_a_page_in_two_nodes_far_apart():
    tree = RadixTree(page_size=1)
    tree.insert([1], pages(10))
    tree.insert([2], pages(11))
    tree.insert([3], pages(10))
    with pytest.raises(AssertionError, match="repeats a page"):
        tree.check_integrity()


# ── Memory ────────────────────────────────────────────────────────────────────────────


def test_what_is_left_of_a_cut_edge_keeps_nothing_else_in_memory():
    """A view of numpy's keeps the whole array that it looks into."""
    tree = RadixTree(page_size=1)
    tree.insert(range(1000), np.arange(1000))
    tree.match([0, 1, 2, 7])
    tree.match([0, 7])
    assert [len(node.pages) for node in tree.nodes()] == [1, 2, 997]
    assert all(node.pages.base is None for node in tree.nodes())


# ── Against the oracle ────────────────────────────────────────────────────────────────


class TreeMachine(RuleBasedStateMachine):
    """Matches and inserts in any order: the tree answers as the oracle does."""

    @initialize(page_size=PAGE_SIZES)
    def start(self, page_size):
        self.tree = RadixTree(page_size)
        self.oracle = PrefixOracle(page_size)
        self.next_page = 0

    @rule(words=WORDS, tail=TAILS, namespace=NAMESPACES, packed=st.booleans())
    def match(self, words, tail, namespace, packed):
        tokens = spell(words, tail, self.tree.page_size)
        before = contents(self.tree)
        found, node = self.tree.match(
            pack_tokens(tokens) if packed else tokens, namespace
        )
        assert found.tolist() == self.oracle.match(tokens, namespace)
        # The match ends at a node, even where it had to make one.
        assert path_of(node) == (
            namespace,
            tuple(tokens[: len(found) * self.tree.page_size]),
        )
        assert contents(self.tree) == before

    @rule(words=WORDS, tail=TAILS, namespace=NAMESPACES, spare=st.integers(0, 2))
    def insert(self, words, tail, namespace, spare):
        tokens = spell(words, tail, self.tree.page_size)
        table = np.arange(self.next_page, self.next_page + len(words) + spare)
        self.next_page += len(table)
        known, node = self.tree.insert(tokens, table, namespace)
        assert known.tolist() == self.oracle.insert(tokens, table.tolist(), namespace)
        assert path_of(node) == (
            namespace,
            tuple(tokens[: len(words) * self.tree.page_size]),
        )

    @rule(words=WORDS, tail=TAILS, namespace=NAMESPACES)
    def walk(self, words, tail, namespace):
        tokens = spell(words, tail, self.tree.page_size)
        before = shape(self.tree)
        walked = list(self.tree.walk(tokens, namespace))
        assert sum(n for _, n in walked) == len(self.oracle.peek(tokens, namespace))
        assert all(n == len(node.pages) for node, n in walked[:-1])
        assert shape(self.tree) == before

    @invariant()
    def agrees(self):
        self.tree.check_integrity()
        assert contents(self.tree) == remembered(self.oracle)
        assert all(type(node) is TreeNode for node in self.tree.nodes())


def test_the_tree_agrees_with_the_oracle():
    run_machine(TreeMachine, settings=QUICK)


@pytest.mark.long
def test_the_tree_agrees_with_the_oracle_at_length():
    run_machine(TreeMachine, settings=LONG)

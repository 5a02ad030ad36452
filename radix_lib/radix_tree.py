"""Chapter 02: the radix tree, which finds the longest prefix that was seen before.

Keys are packed once into bytes, four to a token, so that comparing two of them is one
`memcmp`. Every edge holds whole pages, and a child is found by the *whole* first page
of its edge: children that differ inside their first page are siblings, and no step ever
stops in the middle of a page.

Left out here: where the pages come from (chapter 03), locks and eviction (chapter 04).
Source: SGLang 0.5.9, `mem_cache/radix_cache.py`.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int64]
TOKEN_BYTES = array("I").itemsize
NO_PAGES: Pages = np.empty(0, np.int64)


def whole_number(value: Any, name: str, least: int = 0) -> int:
    """`value` as an int. Raises ValueError if it is not whole, or below `least`.

    >>> whole_number(np.int64(3), "n_pages")
    3
    """
    if type(value) is int and value >= least:  # nearly always
        return value
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} is a whole number from {least}, not {value!r}")
    return number


def pack_tokens(tokens: Sequence[int] | bytes) -> bytes:
    """Pack token ids into a key of `TOKEN_BYTES` bytes each; a key comes back as is.

    Raises ValueError for anything that is not a whole number from 0 to 2**32 - 1.

    >>> len(pack_tokens([1, 2, 3])) // TOKEN_BYTES
    3
    """
    if isinstance(tokens, bytes):
        if len(tokens) % TOKEN_BYTES:
            raise ValueError(
                f"a key has {TOKEN_BYTES} bytes a token, not {len(tokens)} in all"
            )
        return tokens
    # numpy and torch: converting at once beats an item at a time
    if hasattr(tokens, "tolist"):
        tokens = tokens.tolist()
    try:
        return array("I", tokens).tobytes()
    except (TypeError, OverflowError) as error:
        raise ValueError(
            f"token ids are whole numbers from 0 to {2**32 - 1}, "
            f"not {_first_bad(tokens)!r}"
        ) from error


def _first_bad(tokens: Any) -> Any:
    if isinstance(tokens, Iterable):
        for token in tokens:
            if not (isinstance(token, int | np.integer) and 0 <= token < 2**32):
                return token
    return tokens


def unpack_tokens(key: bytes) -> list[int]:
    """The token ids in a key.

    >>> unpack_tokens(pack_tokens([7, 8]))
    [7, 8]
    """
    return array("I", key).tolist()


def check_namespace(namespace: Hashable) -> None:
    """Raise ValueError unless it is a namespace's name, or a tuple of such.

    These are None, strings, whole numbers, and a plain `object()`, which nobody else
    has. Namespaces that compare equal share, so nothing else will do: True equals 1,
    NaN does not even equal itself, and the hash of other objects may change later.
    """
    if isinstance(namespace, tuple):
        for part in namespace:
            check_namespace(part)
        return
    is_name = namespace is None or isinstance(namespace, str | int | np.integer)
    if isinstance(namespace, bool) or not (is_name or type(namespace) is object):
        raise ValueError(
            "a namespace is None, a string, a whole number, a plain object() or a "
            f"tuple of these, not {namespace!r}"
        )


def check_pages(pages: Pages) -> None:
    """Raise ValueError unless `pages` is a one-dimensional array of whole numbers."""
    if not (
        isinstance(pages, np.ndarray) and pages.ndim == 1 and pages.dtype.kind in "iu"
    ):
        raise ValueError(
            f"page ids are a one-dimensional array of integers, not {pages!r}: "
            "use np.array([3, 5])"
        )


class TreeNode:
    """A node and the edge that leads to it.

    `key` holds the edge's tokens, `pages` the pages of their K/V. One page id stands
    for `page_size` tokens, so both have the same length in pages. The root of a
    namespace has an empty key and no parent.
    """

    __slots__ = ("key", "pages", "children", "parent", "namespace")

    def __init__(
        self, key: bytes, pages: Pages, parent: TreeNode | None, namespace: Hashable
    ):
        self.key = key
        self.pages = pages
        self.children: dict[bytes, TreeNode] = {}
        self.parent = parent
        self.namespace = namespace

    def split(self, n_pages: int, page_bytes: int) -> TreeNode:
        """Cut the edge after `n_pages` and return the new upper node.

        The node itself stays the lower part, so that whoever holds it still holds the
        whole path.
        """
        parent = self.parent
        assert parent is not None and 0 < n_pages < len(self.pages)
        cut = n_pages * page_bytes
        # Copies: a view would keep the ids of the whole edge in memory, for as long as
        # one page of it is left.
        above = self.pages[:n_pages].copy()
        below = self.pages[n_pages:].copy()
        upper = type(self)(self.key[:cut], above, parent, self.namespace)
        upper.children[self.key[cut : cut + page_bytes]] = self
        # Plain stores from here on: CPython delivers no interrupt between them, so that
        # a reader who presses stop never leaves the tree half cut.
        parent.children[self.key[:page_bytes]] = upper
        self.key = self.key[cut:]
        self.pages = below
        self.parent = upper
        return upper


class Match(NamedTuple):
    """What `match` or `insert` found in the tree."""

    pages: Pages  # the page ids of the prefix that was there, in order
    # Where that prefix ends, after `insert` where the whole key does: a `TreeNode`, in
    # a `RadixCache` a `CacheNode`.
    node: Any


class RadixTree:
    """A radix tree over token ids, with a page id for every `page_size` of them.

    Each namespace has a root of its own, made by its first `insert`.

    >>> tree = RadixTree(page_size=2)
    >>> tree.insert([1, 2, 3, 4], pages=np.array([10, 11])).pages.tolist()
    []
    >>> tree.match([1, 2, 9, 9]).pages.tolist()
    [10]
    """

    node_type: type[TreeNode] = TreeNode

    def __init__(self, page_size: int = 1):
        self.page_size = whole_number(page_size, "page_size", least=1)
        self.page_bytes = self.page_size * TOKEN_BYTES
        self.roots: dict[Hashable, TreeNode] = {}

    def match(self, tokens: Sequence[int] | bytes, namespace: Hashable = None) -> Match:
        """Find the longest prefix of `tokens` that is in the tree, in whole pages.

        A match that ends inside an edge splits it, so that the prefix ends at a node
        that can be locked alone: matching changes the tree's shape, never its contents.
        Raises ValueError for what is no token id or may not name a namespace.
        """
        key = self._whole_pages(pack_tokens(tokens))
        return self._descend(key, self._root(namespace))

    def insert(
        self, tokens: Sequence[int] | bytes, pages: Pages, namespace: Hashable = None
    ) -> Match:
        """Add `tokens`, whose K/V lie in `pages`; returns the prefix that was there.

        Where the tree has a page for some tokens it keeps its own: the caller's page
        for them is a duplicate. The match's node is the one at which the whole key now
        ends. Only whole pages enter; what is left over stays the caller's. Raises
        ValueError as `match` does, if `pages` is no array of page ids, and if there are
        too few of them. No page may stand in two places; a look at every other node
        would be the only way to tell.
        """
        check_pages(pages)
        return self.insert_below(self._root(namespace), pack_tokens(tokens), pages)

    def insert_below(self, node: Any, key: bytes, pages: Pages) -> Match:
        """As `insert`, for what follows a prefix that is known to end at `node`."""
        key = self._whole_pages(key)
        n_pages = len(key) // self.page_bytes
        if len(pages) < n_pages:
            raise ValueError(
                f"{len(key) // TOKEN_BYTES} tokens need {n_pages} pages of "
                f"{self.page_size}, not {len(pages)}"
            )
        if node.parent is None:
            # this one may be of an empty namespace, and not kept
            node = self._root(node.namespace)
        known, node = self._descend(key, node)
        n_known = len(known)
        if n_known < n_pages:
            new = key[n_known * self.page_bytes :]
            node = self._add_leaf(node, new, pages[n_known:n_pages])
        return Match(known, node)

    def walk(
        self, tokens: Sequence[int] | bytes, namespace: Hashable = None
    ) -> Iterator[tuple[Any, int]]:
        """The nodes along `tokens`, each with how many of its pages agree.

        Changes nothing. Raises ValueError as `match` does.
        """
        key = self._whole_pages(pack_tokens(tokens))
        return self._steps(key, self._root(namespace))

    def nodes(self) -> Iterator[Any]:
        """Every node but the roots, parents before children, in order of insertion."""
        stack: list[TreeNode] = []
        for root in reversed(self.roots.values()):
            stack.extend(reversed(root.children.values()))
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children.values()))

    def check_integrity(self) -> None:
        """Raise AssertionError, naming the node, if an invariant is broken."""
        for namespace, root in self.roots.items():
            assert root.key == b"" and root.parent is None, (
                f"root {namespace!r} has an edge"
            )
            assert root.namespace == namespace, (
                f"root {namespace!r} says {root.namespace!r}"
            )
        seen: set[int] = set()
        for parent in (*self.roots.values(), *self.nodes()):
            for first, node in parent.children.items():
                name = f"node {unpack_tokens(node.key[: self.page_bytes])}…"
                assert node.parent is parent, f"{name} names another parent"
                assert node.key[: self.page_bytes] == first, f"{name} is misfiled"
                assert node.namespace == parent.namespace, f"{name} crosses namespaces"
                assert len(node.pages) > 0, f"{name} is empty"
                assert len(node.key) == len(node.pages) * self.page_bytes, (
                    f"{name}: key ≠ pages"
                )
                pages = set(node.pages.tolist())
                assert len(pages) == len(node.pages) and not pages & seen, (
                    f"{name} repeats a page"
                )
                seen |= pages

    def _root(self, namespace: Hashable) -> Any:
        if namespace is not None:
            check_namespace(namespace)
        root = self.roots.get(namespace)
        if root is None:
            # Of a namespace that holds nothing: made anew each time, and not kept.
            root = self.node_type(b"", NO_PAGES, None, namespace)
        return root

    def _steps(self, key: bytes, node: Any) -> Iterator[tuple[Any, int]]:
        depth = 0
        while depth < len(key):
            node = node.children.get(key[depth : depth + self.page_bytes])
            if node is None:
                return
            if not key.startswith(node.key, depth):  # a memcmp of the whole edge
                yield node, self._common_pages(node.key, key, depth)
                return
            depth += len(node.key)
            yield node, len(node.pages)

    def _descend(self, key: bytes, node: Any) -> Match:
        """Walk from `node` down along `key`; split the edge that it leaves half-way."""
        # The steps of `_steps`, spelled out: every request comes here twice, and as a
        # generator they cost it a twenty-fifth of its time.
        pages: list[Pages] = []
        depth = 0
        while depth < len(key):
            child = node.children.get(key[depth : depth + self.page_bytes])
            if child is None:
                break
            node = child
            if not key.startswith(node.key, depth):
                n_common = self._common_pages(node.key, key, depth)
                node = node.split(n_common, self.page_bytes)
            pages.append(node.pages)
            depth += len(node.key)
        if len(pages) == 1:
            return Match(pages[0].copy(), node)  # half the time that joining takes
        return Match(np.concatenate(pages) if pages else NO_PAGES, node)

    def _whole_pages(self, key: bytes) -> bytes:
        return key[: len(key) - len(key) % self.page_bytes]

    def _common_pages(self, edge: bytes, key: bytes, start: int) -> int:
        """How many whole pages of `edge` agree with `key[start:]`: one, at least."""
        page_bytes = self.page_bytes
        low = 1
        high = min(len(edge), len(key) - start) // page_bytes
        while low < high:  # pages below `low` agree, `high` is the most that can
            middle = (low + high + 1) // 2
            a = low * page_bytes
            b = middle * page_bytes
            if edge[a:b] == key[start + a : start + b]:
                low = middle
            else:
                high = middle - 1
        return low

    def _add_leaf(self, parent: TreeNode, key: bytes, pages: Pages) -> Any:
        leaf = self.node_type(key, pages.astype(np.int64), parent, parent.namespace)
        parent.children[key[: self.page_bytes]] = leaf
        if parent.parent is None:
            self.roots[parent.namespace] = parent
        return leaf

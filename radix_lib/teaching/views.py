"""What a tree and a pool look like at one moment, with a letter a node that stays with it.

A figure is drawn from views, never from the living tree, so that a moment can be kept and drawn
later.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from radix_lib.radix_tree import TOKEN_BYTES, RadixTree, TreeNode, unpack_tokens


@dataclass(frozen=True)
class NodeView:
    """A node at one moment."""

    letter: str
    parent: str  # its parent's letter; "" under the root
    namespace: Hashable
    path: bytes = field(repr=False)  # all tokens above the edge, packed
    edge: bytes = field(repr=False)  # the tokens of the edge, packed
    pages: tuple[int, ...]
    lock_ref: int = 0
    last_access: int = 0
    ghost: bool = False  # evicted: it is drawn where it stood

    @property
    def end(self) -> bytes:
        """All tokens from the root to where the node ends, packed."""
        return self.path + self.edge

    @property
    def tokens(self) -> list[int]:
        """The token ids of the edge."""
        return unpack_tokens(self.edge)


@dataclass(frozen=True)
class TreeView:
    """A tree at one moment: parents before children, siblings oldest first."""

    page_size: int
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True)
class Marks:
    """The pages that a figure is about, by state."""

    hit: frozenset[int] = frozenset()
    new: frozenset[int] = frozenset()
    evicted: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, hit: Iterable[object], new: Iterable[object], evicted: Iterable[object]
    ) -> Marks:
        """Marks from page ids, or from nodes whose pages are meant."""

        def ids(items: Iterable[Any]) -> frozenset[int]:
            return frozenset(int(p) for item in items for p in getattr(item, "pages", (item,)))

        return cls(ids(hit), ids(new), ids(evicted))

    def of_page(self, page: int, held: bool, locked: bool) -> str:
        """The state that colours a page: the strongest that holds."""
        if not held:
            return "evicted" if page in self.evicted else "free"
        for state in ("new", "hit"):
            if page in getattr(self, state):
                return state
        return "locked" if locked else "idle"

    def of_node(self, node: NodeView) -> tuple[str, float]:
        """The state that colours a node, and how much of its edge is in that state."""
        if node.ghost:
            return "evicted", 1.0
        for state in ("new", "hit"):
            share = len(getattr(self, state).intersection(node.pages)) / len(node.pages)
            if share:
                return state, share
        return ("locked" if node.lock_ref else "idle"), 1.0


def letter(n: int) -> str:
    """Letter number `n`, counted from 0.

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'AA')
    """
    return letter(n // 26 - 1) * (n >= 26) + chr(65 + n % 26) if n >= 0 else ""


class Letters:
    """The letters of one tree's nodes, and what was seen last and is gone.

    A node keeps its letter for good. When it is split, the lower part is the old node and keeps
    the letter, and the upper part gets the next one, as in SGLang's own drawings.
    """

    def __init__(self) -> None:
        self._of: dict[TreeNode, str] = {}
        self._seen: dict[str, NodeView] = {}
        self._gone: list[NodeView] = []
        self.before: tuple[NodeView, ...] = ()  # all nodes before the last ones went

    def view(self, tree: RadixTree) -> TreeView:
        """The tree as it is now; nodes not seen before get the next letters."""
        now: dict[str, NodeView] = {}
        for node in tree.nodes():
            above = now.get(self._of.get(node.parent, ""))
            mark = self._of.setdefault(node, letter(len(self._of)))
            now[mark] = NodeView(
                mark, above.letter if above else "", node.namespace, above.end if above else b"",
                node.key, tuple(node.pages.tolist()),
                getattr(node, "lock_ref", 0), getattr(node, "last_access", 0),
            )  # fmt: skip
        self._remember(now)
        return TreeView(tree.page_size, tuple(now.values()))

    def _remember(self, now: dict[str, NodeView]) -> None:
        gone = []
        for mark, old in self._seen.items():
            new = now.get(mark)
            if new is None:
                gone.append(replace(old, ghost=True))
            elif len(new.end) < len(old.end):  # a leaf lost its end
                edge = old.end[len(new.end) :]
                n_pages = len(old.pages) * len(edge) // len(old.edge)
                lost = old.pages[len(old.pages) - n_pages :]
                gone.append(replace(
                    old, parent=mark, path=new.end, edge=edge, pages=lost, ghost=True
                ))  # fmt: skip
        if gone:
            self._gone, self.before = gone, tuple(self._seen.values())
        self._seen = now

    def ghosts(self, evicted: Iterable[int], view: TreeView) -> list[NodeView]:
        """What was seen of the nodes that held the evicted pages and are gone, top down."""
        pages, there = set(evicted), {node.letter for node in view.nodes} | {""}
        first = view.page_size * TOKEN_BYTES
        found = []
        for ghost in sorted(self._gone, key=lambda ghost: len(ghost.path)):
            start = ghost.path + ghost.edge[:first]  # something new may stand in its place
            taken = any(
                n.namespace == ghost.namespace and n.end.startswith(start) for n in view.nodes
            )
            if pages & set(ghost.pages) and ghost.parent in there and not taken:
                found.append(ghost)
                there.add(ghost.letter)
        return found


_LETTERS: weakref.WeakKeyDictionary[RadixTree, Letters] = weakref.WeakKeyDictionary()


def letters_of(tree: RadixTree) -> Letters:
    """The letters that figures of this tree use; they last as long as the tree."""
    return _LETTERS.setdefault(tree, Letters())

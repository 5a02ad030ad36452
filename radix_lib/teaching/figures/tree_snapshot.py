"""What a tree looks like at one moment; each node has a letter that stays with it.

A figure is drawn from views, never from the living tree: a moment can be kept and drawn
later.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from radix_lib.radix_tree import RadixTree, TreeNode, unpack_tokens


@dataclass(frozen=True)
class NodeSnapshot:
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
class TreeSnapshot:
    """A tree at one moment: parents before children, siblings oldest first."""

    page_size: int
    nodes: tuple[NodeSnapshot, ...]


@dataclass(frozen=True)
class Marks:
    """The pages that a figure is about, by state."""

    hit: frozenset[int] = frozenset()
    new: frozenset[int] = frozenset()
    evicted: frozenset[int] = frozenset()

    @classmethod
    def of(cls, *states: Iterable[Any]) -> Marks:
        """Hit, new and evicted, each from page ids or from nodes with pages."""
        ids = (
            [int(p) for x in items for p in getattr(x, "pages", (x,))]
            for items in states
        )
        return cls(*map(frozenset, ids))

    def of_page(self, page: int, held: bool, locked: bool) -> str:
        """The state that colours a page."""
        if not held:
            return "evicted" if page in self.evicted else "free"
        if page in self.new:
            return "new"
        if page in self.hit:
            return "hit"
        return "locked" if locked else "idle"

    def of_node(self, node: NodeSnapshot) -> tuple[str, float]:
        """The state that colours a node, and how much of its edge is in that state."""
        if node.ghost:
            return "evicted", 1.0
        for state, pages in (("new", self.new), ("hit", self.hit)):
            n_pages = len(pages.intersection(node.pages))
            if n_pages:
                return state, n_pages / len(node.pages)
        return ("locked" if node.lock_ref else "idle"), 1.0


def letter(n: int) -> str:
    """Letter number `n`, counted from 0: A … Z, then AA, AB and so on."""
    return letter(n // 26 - 1) + chr(65 + n % 26) if n >= 0 else ""


class Letters:
    """The letters of one tree's nodes, and what was seen last and is gone.

    A node keeps its letter for good. When it is split, the lower part is the old node
    and keeps the letter, and the upper part gets the next one, as in SGLang's own
    drawings.
    """

    def __init__(self) -> None:
        self._of: dict[TreeNode, str] = {}
        self._seen: dict[str, NodeSnapshot] = {}
        self._gone: list[NodeSnapshot] = []
        # all nodes before the last ones went
        self.before: tuple[NodeSnapshot, ...] = ()

    def view(self, tree: RadixTree) -> TreeSnapshot:
        """The tree as it is now; nodes not seen before get the next letters."""
        now: dict[str, NodeSnapshot] = {}
        for node in tree.nodes():
            above = now.get(self._of.get(node.parent, ""))
            mark = self._of.setdefault(node, letter(len(self._of)))
            now[mark] = NodeSnapshot(
                mark,
                above.letter if above else "",
                node.namespace,
                above.end if above else b"",
                node.key,
                tuple(node.pages.tolist()),
                getattr(node, "lock_ref", 0),
                getattr(node, "last_access", 0),
            )
        gone = [
            ghost
            for old in self._seen.values()
            for ghost in _lost(old, now.get(old.letter))
        ]
        if gone:
            self._gone = gone
            self.before = tuple(self._seen.values())
        self._seen = now
        return TreeSnapshot(tree.page_size, tuple(now.values()))

    def ghosts(self, evicted: frozenset[int], view: TreeSnapshot) -> list[NodeSnapshot]:
        """What was seen of the nodes that held the evicted pages, top down."""
        found: list[NodeSnapshot] = []
        for ghost in sorted(self._gone, key=lambda ghost: len(ghost.path)):
            page = len(ghost.edge) // len(ghost.pages)
            # something new may stand in its place
            start = ghost.path + ghost.edge[:page]
            taken = {
                node.namespace for node in view.nodes if node.end.startswith(start)
            }
            if evicted.intersection(ghost.pages) and ghost.namespace not in taken:
                found.append(ghost)
        there = {"", *(node.letter for node in [*view.nodes, *found])}
        return [ghost for ghost in found if ghost.parent in there]


def _lost(old: NodeSnapshot, new: NodeSnapshot | None) -> list[NodeSnapshot]:
    """What is gone of a node: all of it, or the end of a leaf."""
    if new is None:
        return [replace(old, ghost=True)]
    edge = old.end[len(new.end) :]
    if not edge:
        return []
    n_pages = len(old.pages) * len(edge) // len(old.edge)
    pages = old.pages[len(old.pages) - n_pages :]
    end = replace(old, parent=old.letter, path=new.end, edge=edge, pages=pages)
    return [replace(end, ghost=True)]


_LETTERS: weakref.WeakKeyDictionary[RadixTree, Letters] = weakref.WeakKeyDictionary()


def letters_of(tree: RadixTree) -> Letters:
    """The letters that figures of this tree use; they last as long as the tree."""
    return _LETTERS.setdefault(tree, Letters())

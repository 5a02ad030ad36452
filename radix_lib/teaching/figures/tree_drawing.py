"""What a picture of a tree shows, and the same drawn with characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.labels import (
    Decoder,
    count,
    name_of,
    pages_named,
    token_text,
)
from radix_lib.teaching.figures.tree_layout import Name, TreeLayout
from radix_lib.teaching.figures.tree_snapshot import Marks, NodeSnapshot

COLUMNS = 100  # of the drawing with characters


@dataclass(frozen=True)
class TreeDrawing:
    """The nodes of a tree that are drawn, where they go, and what is told of them."""

    nodes: Sequence[NodeSnapshot]
    folds: dict[Name, str]  # what is folded away below a node, in words
    layout: TreeLayout
    marks: Marks
    decode: Decoder
    last_use: bool  # is the time of the last use told?

    @property
    def is_empty(self) -> bool:
        """Is there nothing but roots?"""
        return not self.nodes and not self.folds

    def state(self, node: NodeSnapshot) -> str:
        """The state that colours a node."""
        return self.marks.of_node(node)[0]

    def facts(self, node: NodeSnapshot) -> str:
        """What is told of a node in words."""
        pages = pages_named(node.pages, most=3)
        facts = [tokens_of(node), f"had {pages}" if node.ghost else pages]
        if is_locked(node):
            facts.append(f"locked {node.lock_ref}")
        look = theme.STATES[self.state(node)]
        if look.mark:
            facts.append(f"{look.mark} {look.word}")
        if self.last_use and not node.ghost:
            facts.append(f"used at {node.last_access}")
        return ", ".join(facts)

    def lines(self) -> list[str]:
        """The trees of all namespaces, one below the other, a line a node."""
        lines: list[str] = []
        for namespace in self.layout.roots:
            name = name_of(namespace)
            root = f"root of namespace {name}" if name else "root"
            lines.append(f"{root} (empty)" if self.is_empty else root)
            lines += self._below((namespace, ""), "")
        return lines

    def _below(self, name: Name, rule: str) -> list[str]:
        """The lines of what is below a node; `rule` stands left of all of them."""
        fold = self.folds.get(name)
        children = self._children(name)
        lines = []
        for node in children:
            is_last = fold is None and node is children[-1]
            lines.append(self._line(node, f"{rule}{'└─' if is_last else '├─'}"))
            if not self._is_end_of_living(node):
                below = rule + ("   " if is_last else "│  ")
                lines += self._below((node.namespace, node.letter), below)
        if fold is not None:
            lines.append(f"{rule}└─ {fold}")
        return lines

    def _children(self, name: Name) -> list[NodeSnapshot]:
        found = [node for node in self.nodes if (node.namespace, node.parent) == name]
        return sorted(found, key=lambda node: self.layout.boxes[node][2])

    def _is_end_of_living(self, node: NodeSnapshot) -> bool:
        """Is it the evicted end of a leaf that is still there, with the same letter?"""
        living = {other.letter for other in self.nodes if not other.ghost}
        return node.ghost and node.letter in living

    def _line(self, node: NodeSnapshot, rule: str) -> str:
        start = f"{rule} {node.letter}  "
        facts = self.facts(node)
        room = min(44, max(8, COLUMNS - 2 - len(start) - len(facts)))
        text = token_text(node.tokens, room, self.decode)
        return f"{start}{text}  {facts}"[:COLUMNS]


def tokens_of(node: NodeSnapshot) -> str:
    """How many tokens a node's edge has."""
    return count(len(node.tokens), "token")


def is_locked(node: NodeSnapshot) -> bool:
    """Is it locked, and still there?"""
    return node.lock_ref > 0 and not node.ghost

"""Where the nodes of a drawn tree go, and which of them are folded away.

A box spans every place at which its edge is cut in any of the nodes laid out, and a
parent stands in the row of its first child: so a split cuts a box in two where it
stands, a new leaf opens a new row, and nothing else moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from radix_lib.radix_tree import NO_PAGES, RadixTree, TreeNode
from radix_lib.teaching.figures.tree_snapshot import Marks, NodeSnapshot, TreeSnapshot

#: A node by its namespace and letter; a root has the letter "".
Name = tuple[Hashable, str]


def choose(
    view: TreeSnapshot, ghosts: Sequence[NodeSnapshot], marks: Marks, limit: int
) -> tuple[list[NodeSnapshot], dict[Name, Counter[str]]]:
    """At most `limit` nodes to draw, and the nodes and pages folded below each.

    Nodes with a mark come first, with what leads to them, then those nearest to the
    root.
    """
    lines: dict[str, list[str]] = {"": []}  # from each node up to its root
    for node in view.nodes:
        lines[node.letter] = [node.letter, *lines[node.parent]]
    kept = {letter for ghost in ghosts for letter in lines.get(ghost.parent, [])}
    marked = [node for node in view.nodes if marks.of_node(node)[0] != "idle"]
    for node in marked + sorted(view.nodes, key=lambda node: len(lines[node.letter])):
        if len(kept.union(lines[node.letter])) <= limit:
            kept.update(lines[node.letter])
    folds: dict[Name, Counter[str]] = {}
    for node in view.nodes:
        if node.letter not in kept:
            above = next(
                (letter for letter in lines[node.letter] if letter in kept), ""
            )
            fold = folds.setdefault((node.namespace, above), Counter())
            fold.update(nodes=1, pages=len(node.pages))
    return [node for node in view.nodes if node.letter in kept], folds


class TreeLayout:
    """Columns and rows, counted from 0, of everything that is drawn.

    `boxes` has a node's first and last column and its row; `folds` a column and a row;
    `roots` a row. Nodes in `others` take up their places too, though they are not
    drawn: frames laid out with one another's nodes keep everything in place.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSnapshot],
        folds: Iterable[Name],
        page_size: int,
        others: Sequence[NodeSnapshot] = (),
    ):
        self.boxes: dict[NodeSnapshot, tuple[int, int, int]] = {}
        self.folds: dict[Name, tuple[int, int]] = {}
        self.roots: dict[Hashable, int] = {}
        self.n_rows = self.n_columns = 0
        cuts = RadixTree(page_size)
        names: dict[Hashable, None] = {name: None for name, _ in folds}
        for node in [*others, *nodes]:
            names[node.namespace] = None
            for key in (node.path, node.end):
                cuts.insert(key, np.arange(len(key) // cuts.page_bytes), node.namespace)
        lines = {
            node: [at for at, _ in cuts.walk(node.end, node.namespace)]
            for node in nodes
        }
        ends = {
            (n.namespace, n.letter): line[-1]
            for n, line in lines.items()
            if not n.ghost
        }
        for name in names or {None: None}:
            ends[name, ""] = cuts.roots.get(name) or TreeNode(b"", NO_PAGES, None, name)
        folded = {ends[name]: name for name in folds}
        rows: dict[TreeNode, int] = {}
        for name in names or {None: None}:
            self.roots[name] = self.n_rows
            self._descend(ends[name, ""], 0, rows, folded)
        for node, line in lines.items():
            first = sum(1 for _ in cuts.walk(node.path, node.namespace))
            self.boxes[node] = (first, len(line) - 1, rows[line[-1]])

    def _descend(
        self,
        at: TreeNode,
        column: int,
        rows: dict[TreeNode, int],
        folded: dict[TreeNode, Name],
    ) -> None:
        row = rows[at] = self.n_rows
        self.n_columns = max(self.n_columns, column + (at in folded))
        for child in at.children.values():
            self._descend(child, column + 1, rows, folded)
        if at in folded:
            self.folds[folded[at]] = (column, self.n_rows)
            self.n_rows += 1
        self.n_rows = max(self.n_rows, row + 1)

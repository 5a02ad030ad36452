"""A tree on a canvas, left to right: boxes in columns and rows, and their edges."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import Canvas
from radix_lib.teaching.figures.labels import count, name_of, pages_named, token_text
from radix_lib.teaching.figures.tree_drawing import TreeDrawing, is_locked, tokens_of
from radix_lib.teaching.figures.tree_layout import Name
from radix_lib.teaching.figures.tree_snapshot import NodeSnapshot

ROOT = 46  # width of a root's box
GAP = 24  # between columns, where the edges run
LETTER = 24  # width of the part of a box with letter and mark
NARROWEST, WIDEST = 122, 190  # a box of one column
SMALL = 5.2  # width of a letter of size 10


class TreePainter:
    """Paints a drawing in about `room` px; `width` and `height` are what it takes."""

    def __init__(self, drawing: TreeDrawing, room: float):
        self.drawing = drawing
        layout = drawing.layout
        n_columns = max(1, layout.n_columns)
        fair = (room - ROOT) / n_columns - GAP
        self.box_width = min(max(fair, NARROWEST), WIDEST)
        self.is_tall = any(map(self._is_narrow, drawing.nodes))
        self.box_height = 52 if self.is_tall else 38
        self.pitch = self.box_height + (22 if drawing.last_use else 14)
        has_names = any(name_of(namespace) for namespace in layout.roots)
        self.head = 20 if has_names else 0  # px above each root, for its name
        self.width = ROOT + n_columns * (GAP + self.box_width)
        rows = [row for *_, row in (*layout.boxes.values(), *layout.folds.values())]
        # without places kept free at the end
        n_rows = max([*rows, *layout.roots.values()]) + 1
        self.height = self.head * len(layout.roots) + n_rows * self.pitch + 2

    def _is_narrow(self, node: NodeSnapshot) -> bool:
        """Does a node need two lines to say how large it is?"""
        words = " · ".join(_size(node, math.inf))
        return SMALL * len(words) > self._inside(node)

    def _span(self, node: NodeSnapshot) -> float:
        first, last, _ = self.drawing.layout.boxes[node]
        return self.box_width + (last - first) * (self.box_width + GAP)

    def _inside(self, node: NodeSnapshot) -> float:
        """Px for the words in a box."""
        return self._span(node) - LETTER - 8

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        """Paint the tree with its top left corner at `x`, `y`."""
        drawing = self.drawing
        middle = self.box_height / 2
        ends: dict[Name, tuple[float, float]] = {}  # where edges to children begin
        tops: dict[Hashable, float] = {}  # of the first row

        def place(
            above: Name, column: int, row: int, state: str
        ) -> tuple[float, float]:
            """The left top corner of a box; an edge leads to it."""
            left = x + ROOT + GAP + column * (self.box_width + GAP)
            top = tops[above[0]] + row * self.pitch
            _paint_edge(canvas, ends[above], (left, top + middle), state)
            return left, top

        for i, (namespace, row) in enumerate(drawing.layout.roots.items()):
            tops[namespace] = y + 10 + self.head * (i + 1)
            level = tops[namespace] + row * self.pitch + middle
            ends[namespace, ""] = (x + ROOT, level)
            self._paint_root(canvas, x, level, namespace)
        for node in drawing.nodes:
            first, _, row = drawing.layout.boxes[node]
            above = (node.namespace, node.parent)
            left, top = place(above, first, row, drawing.state(node))
            name = (node.namespace, node.letter)
            ends.setdefault(name, (left + self._span(node), top + middle))
            self._paint_node(canvas, left, top, node)
        for name, (column, row) in drawing.layout.folds.items():
            left, top = place(name, column, row, "idle")
            self._paint_fold(canvas, left, top, drawing.folds[name])

    def _paint_root(
        self, canvas: Canvas, x: float, level: float, namespace: Hashable
    ) -> None:
        if self.head:
            words = f"namespace {name_of(namespace) or 'without a name'}"
            above = level - self.box_height / 2 - 22
            canvas.write(x, above, 300, words, size=10, color=theme.MUTED)
        canvas.box(x, level - 13, ROOT, 26)
        canvas.write(x, level - 6.6, ROOT, "root", align="center")
        empty = "empty" if self.drawing.is_empty else ""
        canvas.write(x + ROOT + 10, level - 6.6, 120, empty, color=theme.MUTED)

    def _paint_fold(self, canvas: Canvas, x: float, y: float, words: str) -> None:
        width, height = self.box_width - 4, self.box_height - 4
        for inset in (4, 0):  # two sheets of a pile
            canvas.box(x + inset, y + inset, width, height, border="faint")
        text = words.replace(", ", "\n")
        middle = y + self.box_height / 2
        canvas.write(x, middle - 14, width, text, size=10, align="center")

    def _paint_node(
        self, canvas: Canvas, x: float, y: float, node: NodeSnapshot
    ) -> None:
        width = self._span(node)
        state, level = self.drawing.marks.of_node(node)
        look = theme.STATES[state]
        border = "double" if is_locked(node) else look.border
        canvas.box(x, y, width, self.box_height, look.fill, border=border, level=level)
        size = (13, 11, 9)[min(len(node.letter), 3) - 1]
        sign: dict[str, Any] = {"bold": True, "align": "center"}
        canvas.write(x + 2, y + 5, LETTER, node.letter, size=size, **sign)
        canvas.write(x + 2, y + 19, LETTER, look.mark, size=13, **sign)
        inside = self._inside(node)
        text = token_text(node.tokens, int(inside / 6.6), self.drawing.decode)
        canvas.write(x + LETTER + 2, y + 5, inside, text, mono=True)
        facts = ("\n" if self.is_tall else " · ").join(_size(node, inside))
        canvas.write(x + LETTER + 2, y + 20, inside, facts, size=10)
        right = x + width - 6
        if is_locked(node):
            fill = theme.STATES["locked"].fill
            _paint_badge(canvas, right, y - 11, f"locked {node.lock_ref}", fill)
        if self.drawing.last_use and not node.ghost:
            words = f"used at {node.last_access}"
            _paint_badge(canvas, right, y + self.box_height - 5, words, theme.PAPER)


def _size(node: NodeSnapshot, inside: float) -> tuple[str, str]:
    """How large a node is: its tokens, and its pages in at most `inside` px."""
    names = (pages_named(node.pages, most) for most in (3, 2))
    fitting = (words for words in names if SMALL * len(words) <= inside)
    return tokens_of(node), next(fitting, count(len(node.pages), "page"))


def _paint_edge(
    canvas: Canvas, start: tuple[float, float], end: tuple[float, float], state: str
) -> None:
    turn = end[0] - GAP / 2
    bend = [(turn, start[1]), (turn, end[1])] if start[1] != end[1] else []
    width = 2.6 if state == "hit" else 1.2
    style = "dashed" if state == "evicted" else "solid"
    canvas.line(start, *bend, end, width=width, style=style)


def _paint_badge(canvas: Canvas, right: float, y: float, text: str, fill: str) -> None:
    width = 5.2 * len(text) + 8
    canvas.box(right - width, y, width, 14, fill)
    canvas.write(right - width, y + 1.6, width, text, size=9, align="center")

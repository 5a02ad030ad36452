"""The radix tree as a picture, left to right: a box a node, with its letter, tokens and
pages.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from radix_lib.radix_tree import RadixTree
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import (
    Decoder,
    count,
    name_of,
    pages_named,
    token_text,
)
from radix_lib.teaching.figures.tree_layout import Name, TreeLayout, choose
from radix_lib.teaching.figures.tree_snapshot import (
    Marks,
    NodeSnapshot,
    TreeSnapshot,
    letters_of,
)

ROOT = 46  # width of a root's box
GAP = 24  # between columns, where the edges run
ROOM = theme.WIDTH - 2 * MARGIN  # what there is unless a caller has less
LETTER = 24  # width of the part of a box with letter and mark


def tree_part(
    view: TreeSnapshot,
    marks: Marks,
    *,
    ghosts: Sequence[NodeSnapshot] = (),
    decode: Decoder = None,
    last_use: bool = False,
    limit: int = 24,
    others: Sequence[NodeSnapshot] = (),
    room: float = ROOM,
) -> Part:
    """A tree, ready to be composed. `others` are nodes of other frames: their places
    stay free.

    Its boxes are as wide as `room` px allow, within limits.
    """
    kept, folds = choose(view, ghosts, marks, limit)
    nodes = [*kept, *ghosts]
    if folds:
        shown = {node.letter for node in nodes}
        others = [node for node in others if node.letter in shown]
    folded = {
        name: f"+ {count(n['nodes'], 'node')}, {count(n['pages'] * view.page_size, 'token')}"
        for name, n in folds.items()
    }
    layout = TreeLayout(nodes, folds, view.page_size, others)
    drawing = _Drawing(nodes, folded, layout, marks, decode, last_use, room)
    n_pages = sum(len(node.pages) for node in view.nodes)
    words = [
        f"Radix tree of {count(len(view.nodes), 'node')}: {count(n_pages, 'page')}, "
        f"{count(n_pages * view.page_size, 'token')}."
        if view.nodes
        else "An empty radix tree."
    ]
    for node in nodes[:12]:
        words.append(
            f"{node.letter} under {node.parent or 'the root'}: {drawing.facts(node)}."
        )
    hidden = len(view.nodes) + len(ghosts) - len(nodes[:12])
    words += [f"And {count(hidden, 'more node')}."] * bool(hidden)
    states = {marks.of_node(node)[0] for node in nodes}
    states |= {"locked" for node in kept if node.lock_ref}
    return Part(
        "tree",
        drawing.width,
        drawing.height,
        drawing.paint,
        states,
        drawing.lines(),
        " ".join(words),
    )


class _Drawing:
    def __init__(
        self,
        nodes: list[NodeSnapshot],
        folds: dict[Name, str],
        layout: TreeLayout,
        marks: Marks,
        decode: Decoder,
        last_use: bool,
        room: float,
    ):
        self.nodes, self.folds, self.layout, self.marks = nodes, folds, layout, marks
        self.decode, self.last_use = decode, last_use
        n_columns = max(1, layout.n_columns)
        self.box_width = min(max((room - ROOT) / n_columns - GAP, 122), 190)
        self.tall = any(5.2 * len(_size(n)) > self.span(n) - LETTER - 8 for n in nodes)
        self.box_height = 52 if self.tall else 38
        self.pitch = self.box_height + (22 if last_use else 14)
        self.head = 20 * any(name_of(namespace) for namespace in layout.roots)
        self.width = ROOT + n_columns * (GAP + self.box_width)
        rows = [row for *_, row in (*layout.boxes.values(), *layout.folds.values())]
        # without places kept free at the end
        n_rows = max([*rows, *layout.roots.values()]) + 1
        self.height = self.head * len(layout.roots) + n_rows * self.pitch + 2

    def span(self, node: NodeSnapshot) -> float:
        first, last, _ = self.layout.boxes[node]
        return self.box_width + (last - first) * (self.box_width + GAP)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        ends: dict[Name, tuple[float, float]] = {}  # where edges to children begin
        tops: dict[Hashable, float] = {}  # of the first row
        middle = self.box_height / 2

        def place(
            above: Name, column: int, row: int, state: str
        ) -> tuple[float, float]:
            """The left top corner of a box; an edge leads to it."""
            left = x + ROOT + GAP + column * (self.box_width + GAP)
            top = tops[above[0]] + row * self.pitch
            start, turn, level = ends[above], left - GAP / 2, top + middle
            bend = [(turn, start[1]), (turn, level)] if start[1] != level else []
            canvas.line(
                start,
                *bend,
                (left, level),
                width=2.6 if state == "hit" else 1.2,
                style="dashed" if state == "evicted" else "solid",
            )
            return left, top

        for i, (namespace, row) in enumerate(self.layout.roots.items()):
            tops[namespace] = y + 10 + self.head * (i + 1)
            level = tops[namespace] + row * self.pitch + middle
            ends[namespace, ""] = (x + ROOT, level)
            if self.head:
                words = f"namespace {name_of(namespace) or 'without a name'}"
                canvas.write(
                    x, level - middle - 22, 300, words, size=10, color=theme.MUTED
                )
            canvas.box(x, level - 13, ROOT, 26)
            canvas.write(x, level - 6.6, ROOT, "root", align="center")
            empty = "" if self.nodes or self.folds else "empty"
            canvas.write(x + ROOT + 10, level - 6.6, 120, empty, color=theme.MUTED)
        for node in self.nodes:
            first, _, row = self.layout.boxes[node]
            above = (node.namespace, node.parent)
            left, top = place(above, first, row, self.marks.of_node(node)[0])
            ends.setdefault(
                (node.namespace, node.letter), (left + self.span(node), top + middle)
            )
            self.paint_node(canvas, left, top, node)
        for name, (column, row) in self.layout.folds.items():
            left, top = place(name, column, row, "idle")
            for inset in (4, 0):  # two sheets of a pile
                w, h = self.box_width - 4, self.box_height - 4
                canvas.box(left + inset, top + inset, w, h, border="faint")
            text = self.folds[name].replace(", ", "\n")
            canvas.write(left, top + middle - 14, w, text, size=10, align="center")

    def paint_node(
        self, canvas: Canvas, x: float, y: float, node: NodeSnapshot
    ) -> None:
        w, h = self.span(node), self.box_height
        state, level = self.marks.of_node(node)
        look, locked = theme.STATES[state], node.lock_ref > 0 and not node.ghost
        canvas.box(
            x,
            y,
            w,
            h,
            look.fill,
            border="double" if locked else look.border,
            level=level,
        )
        size = (13, 11, 9)[min(len(node.letter), 3) - 1]
        canvas.write(
            x + 2, y + 5, LETTER, node.letter, size=size, bold=True, align="center"
        )
        canvas.write(
            x + 2, y + 19, LETTER, look.mark, size=13, bold=True, align="center"
        )
        inside = w - LETTER - 8
        text = token_text(node.tokens, int(inside / 6.6), self.decode)
        canvas.write(x + LETTER + 2, y + 5, inside, text, mono=True)
        facts = _size(node).replace(" · ", "\n" if self.tall else " · ")
        canvas.write(x + LETTER + 2, y + 20, inside, facts, size=10)
        badges = [
            (f"locked {node.lock_ref}", y - 11, theme.STATES["locked"].fill)
        ] * locked
        if self.last_use and not node.ghost:
            badges.append((f"used at {node.last_access}", y + h - 5, theme.PAPER))
        for text, top, fill in badges:
            wide = 5.2 * len(text) + 8
            canvas.box(x + w - 6 - wide, top, wide, 14, fill)
            canvas.write(
                x + w - 6 - wide, top + 1.6, wide, text, size=9, align="center"
            )

    def lines(self) -> list[str]:
        by_row = sorted(self.nodes, key=lambda node: self.layout.boxes[node][2])
        living = {node.letter for node in self.nodes if not node.ghost}
        lines: list[str] = []

        def descend(name: Name, rule: str) -> None:
            fold = self.folds.get(name)
            children = [
                node for node in by_row if (node.namespace, node.parent) == name
            ]
            for node in children:
                last = fold is None and node is children[-1]
                start, facts = (
                    f"{rule}{'└─' if last else '├─'} {node.letter}  ",
                    self.facts(node),
                )
                room = min(44, max(8, 98 - len(start) - len(facts)))
                lines.append(
                    f"{start}{token_text(node.tokens, room, self.decode)}  {facts}"[
                        :100
                    ]
                )
                if not (node.ghost and node.letter in living):
                    descend(
                        (node.namespace, node.letter), rule + ("   " if last else "│  ")
                    )
            lines.extend([f"{rule}└─ {fold}"] * (fold is not None))

        for namespace in self.layout.roots:
            name = name_of(namespace)
            empty = " (empty)" * (not self.nodes and not self.folds)
            lines.append("root" + f" of namespace {name}" * bool(name) + empty)
            descend((namespace, ""), "")
        return lines

    def facts(self, node: NodeSnapshot) -> str:
        look = theme.STATES[self.marks.of_node(node)[0]]
        tokens, pages = _size(node).split(" · ")
        facts = [tokens, f"had {pages}" if node.ghost else pages]
        facts += [f"locked {node.lock_ref}"] * (node.lock_ref > 0 and not node.ghost)
        facts += [f"{look.mark} {look.word}"] * bool(look.mark)
        facts += [f"used at {node.last_access}"] * (self.last_use and not node.ghost)
        return ", ".join(facts)


def _size(node: NodeSnapshot) -> str:
    return f"{count(len(node.tokens), 'token')} · {pages_named(node.pages, most=3)}"


def draw_tree(
    tree: RadixTree,
    *,
    decode: Decoder = None,
    hit: Iterable[object] = (),
    new: Iterable[object] = (),
    evicted: Iterable[object] = (),
    last_use: bool = False,
    caption: str = "",
    limit: int = 24,
) -> Figure:
    """Draw a `RadixTree` or a `RadixCache`.

    `hit`, `new` and `evicted` are page ids, as `match` and `evict` hand them out, or
    nodes. `decode` is a tokenizer or a function from token ids to text. Beyond `limit`
    nodes, subtrees are folded. What was evicted is drawn where it stood, if the tree
    was drawn before.
    """
    letters, marks = letters_of(tree), Marks.of(hit, new, evicted)
    view = letters.view(tree)
    ghosts = letters.ghosts(marks.evicted, view)
    part = tree_part(
        view,
        marks,
        ghosts=ghosts,
        decode=decode,
        last_use=last_use,
        limit=limit,
        others=letters.before if ghosts else (),
    )
    return compose([part], caption)

"""The radix tree as a picture, left to right: a box a node, with its letter, tokens and pages."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from radix_lib.radix_tree import RadixTree
from radix_lib.teaching import theme
from radix_lib.teaching.canvas import MARGIN, Canvas, compose
from radix_lib.teaching.figure import Figure
from radix_lib.teaching.labels import Decoder, count, id_ranges, name_of, token_text
from radix_lib.teaching.tree_layout import Name, TreeLayout, choose
from radix_lib.teaching.views import Marks, NodeView, TreeView, letters_of

ROOT = 46  # width of a root's box
GAP = 24  # between columns, where the edges run
LETTER = 24  # width of the part of a box with letter and mark


class TreePart:
    """One tree at one moment. `others` are nodes of other frames, whose places are kept free."""

    title = "tree"

    def __init__(
        self, view: TreeView, marks: Marks, *, ghosts: Sequence[NodeView] = (),
        decode: Decoder = None, last_use: bool = False, limit: int = 24,
        others: Sequence[NodeView] = (),
    ):  # fmt: skip
        self.view, self.marks, self.decode, self.last_use = view, marks, decode, last_use
        self.renamed: dict[str, str] = {}
        kept, self.folds = choose(view, ghosts, marks, limit)
        self.nodes = [*kept, *ghosts]
        self.living = {node.letter for node in kept}
        shown = self.living | {ghost.letter for ghost in ghosts}
        others = [node for node in others if node.letter in shown]
        self.layout = TreeLayout(self.nodes, self.folds, view.page_size, others)
        n_columns = max(1, self.layout.n_columns)
        room = (theme.WIDTH - 2 * MARGIN - ROOT) / n_columns - GAP
        self.box_width = min(max(room, 122), 190)
        self.tall = any(5.2 * len(_size(n)) > self._span(n) - LETTER - 8 for n in self.nodes)
        self.box_height = 52 if self.tall else 38
        self.pitch = self.box_height + (20 if last_use else 14)
        self.named = any(name_of(namespace) for namespace in self.layout.roots)
        self.width: float = ROOT + n_columns * (GAP + self.box_width)
        n_names = len(self.layout.roots) * self.named
        self.height: float = 20 * n_names + self.layout.n_rows * self.pitch + 2

    def _span(self, node: NodeView) -> float:
        first, last, _ = self.layout.boxes[node]
        return self.box_width + (last - first) * (self.box_width + GAP)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        """Draw it, with its top left corner at `x`, `y`."""
        ends: dict[Name, tuple[float, float]] = {}  # where edges to children begin
        heads: dict[Hashable, float] = {}
        middle = self.box_height / 2

        def place(name: Name, column: int, row: int, state: str) -> tuple[float, float]:
            """The left top corner of a box below `name`, with an edge that leads to it."""
            left = x + ROOT + GAP + column * (self.box_width + GAP)
            top = heads[name[0]] + row * self.pitch
            start, turn, level = ends[name], left - GAP / 2, top + middle
            bend = [(turn, start[1]), (turn, level)] if start[1] != level else []
            style = "dashed" if state == "evicted" else "solid"
            width = 2.6 if state == "hit" else 1.2
            canvas.line(start, *bend, (left, level), width=width, style=style)
            return left, top

        for i, (namespace, row) in enumerate(self.layout.roots.items()):
            heads[namespace] = y + 10 + 20 * (i + 1) * self.named
            top = heads[namespace] + row * self.pitch
            ends[namespace, ""] = (x + ROOT, top + middle)
            self._paint_root(canvas, x, top, namespace)
        for node in self.nodes:
            first, _, row = self.layout.boxes[node]
            state, _ = self.marks.of_node(node)
            left, top = place((node.namespace, node.parent), first, row, state)
            ends.setdefault((node.namespace, node.letter), (left + self._span(node), top + middle))
            self._paint_node(canvas, left, top, node)
        for name, (column, row) in self.layout.folds.items():
            left, top = place(name, column, row, "idle")
            w, h = self.box_width - 4, self.box_height - 4
            for inset in (4, 0):  # two sheets of a pile
                canvas.box(left + inset, top + inset, w, h, border="faint")
            text = str(self.folds[name]).replace(", ", "\n")
            canvas.write(left, top + middle - 14, w, text, size=10, align="center")

    def _paint_root(self, canvas: Canvas, x: float, top: float, namespace: Hashable) -> None:
        middle = top + self.box_height / 2
        if self.named:
            name = name_of(namespace) or "without a name"
            canvas.write(x, top - 22, 300, f"namespace {name}", size=10, color=theme.MUTED)
        canvas.box(x, middle - 13, ROOT, 26)
        canvas.write(x, middle - 6.6, ROOT, "root", align="center")
        if not self.nodes and not self.folds:
            canvas.write(x + ROOT + 10, middle - 6.6, 120, "empty", color=theme.MUTED)

    def _paint_node(self, canvas: Canvas, x: float, y: float, node: NodeView) -> None:
        w, h = self._span(node), self.box_height
        state, level = self.marks.of_node(node)
        look, locked = theme.STATES[state], node.lock_ref > 0 and not node.ghost
        canvas.box(x, y, w, h, look.fill, border="double" if locked else look.border, level=level)
        size = (13, 11, 9)[min(len(node.letter), 3) - 1]
        canvas.write(x + 2, y + 5, LETTER, node.letter, size=size, bold=True, align="center")
        canvas.write(x + 2, y + 19, LETTER, look.mark, size=13, bold=True, align="center")
        inside = w - LETTER - 8
        text = token_text(node.tokens, int(inside / 6.6), self.decode)
        canvas.write(x + LETTER + 2, y + 5, inside, text, mono=True)
        facts = _size(node).replace(" · ", "\n" if self.tall else " · ")
        canvas.write(x + LETTER + 2, y + 20, inside, facts, size=10)
        if locked:
            fill = theme.STATES["locked"].fill
            _badge(canvas, x + w - 6, y - 9, f"locked {node.lock_ref}", fill)
        if self.last_use and not node.ghost:
            _badge(canvas, x + w - 6, y + h - 5, f"used at {node.last_access}", theme.PAPER)

    def states(self) -> set[str]:
        """The states that it shows, for the legend."""
        locked = {"locked" for node in self.nodes if node.lock_ref and not node.ghost}
        return locked | {self.marks.of_node(node)[0] for node in self.nodes}

    def lines(self) -> list[str]:
        """It drawn with characters, at most 100 columns wide."""
        by_row = sorted(self.nodes, key=lambda node: self.layout.boxes[node][2])
        lines: list[str] = []

        def descend(namespace: Hashable, parent: str, rule: str) -> None:
            fold = self.folds.get((namespace, parent))
            children = [n for n in by_row if (n.namespace, n.parent) == (namespace, parent)]
            for node in children:
                last = node is children[-1] and fold is None
                start, facts = f"{rule}{'└─' if last else '├─'} {node.letter}  ", self._facts(node)
                room = min(44, max(8, 98 - len(start) - len(facts)))
                lines.append(f"{start}{token_text(node.tokens, room, self.decode)}  {facts}"[:100])
                if not (node.ghost and node.letter in self.living):
                    descend(namespace, node.letter, rule + ("   " if last else "│  "))
            if fold is not None:
                lines.append(f"{rule}└─ {fold}")

        for namespace in self.layout.roots:
            name = name_of(namespace)
            lines.append("root" + f" of namespace {name}" * bool(name) + " (empty)" * (not by_row))
            descend(namespace, "", "")
        return lines

    def _facts(self, node: NodeView) -> str:
        facts = _size(node).split(" · ")
        if node.ghost:
            facts[-1] = f"had {facts[-1]}"
        elif node.lock_ref:
            facts.append(f"locked {node.lock_ref}")
        look = theme.STATES[self.marks.of_node(node)[0]]
        if look.mark:
            facts.append(f"{look.mark} {look.word}")
        if self.last_use and not node.ghost:
            facts.append(f"used at {node.last_access}")
        return ", ".join(facts)

    def words(self) -> str:
        """What is to be seen, for who does not see it."""
        if not self.view.nodes and not self.nodes:
            return "An empty radix tree."
        n_pages = sum(len(node.pages) for node in self.view.nodes)
        words = [
            f"Radix tree of {count(len(self.view.nodes), 'node')}: {count(n_pages, 'page')}, "
            f"{count(n_pages * self.view.page_size, 'token')}."
        ]
        for node in self.nodes[:12]:
            words.append(f"{node.letter} under {node.parent or 'the root'}: {self._facts(node)}.")
        hidden = len(self.nodes[12:]) + sum(fold.nodes for fold in self.folds.values())
        return " ".join(words) + f" And {count(hidden, 'more node')}." * bool(hidden)


def _size(node: NodeView) -> str:
    pages = f"page{'s' * (len(node.pages) > 1)} {id_ranges(node.pages, most=3)}"
    return f"{count(len(node.tokens), 'token')} · {pages}"


def _badge(canvas: Canvas, right: float, y: float, text: str, fill: str) -> None:
    width = 5.2 * len(text) + 8
    canvas.box(right - width, y, width, 14, fill)
    canvas.write(right - width, y + 1.6, width, text, size=9, align="center")


def draw_tree(
    tree: RadixTree, *, decode: Decoder = None, hit: Iterable[object] = (),
    new: Iterable[object] = (), evicted: Iterable[object] = (), last_use: bool = False,
    caption: str = "", limit: int = 24,
) -> Figure:  # fmt: skip
    """Draw a `RadixTree` or a `RadixCache`.

    `hit`, `new` and `evicted` are page ids, as `match` and `evict` hand them out, or nodes.
    `decode` is a tokenizer or a function from token ids to text. Beyond `limit` nodes, subtrees
    are folded. What was evicted is drawn where it stood, if the tree was drawn before.
    """
    letters, marks = letters_of(tree), Marks.of(hit, new, evicted)
    view = letters.view(tree)
    ghosts = letters.ghosts(marks.evicted, view)
    part = TreePart(
        view, marks, ghosts=ghosts, decode=decode, last_use=last_use, limit=limit,
        others=letters.before if ghosts else (),
    )  # fmt: skip
    return compose([part], caption)

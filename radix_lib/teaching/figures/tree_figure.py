"""The radix tree as a picture: a box a node, with its letter, tokens and pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from radix_lib.radix_tree import RadixTree
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import Decoder, count
from radix_lib.teaching.figures.tree_drawing import TreeDrawing
from radix_lib.teaching.figures.tree_layout import TreeLayout, choose
from radix_lib.teaching.figures.tree_painter import TreePainter
from radix_lib.teaching.figures.tree_snapshot import (
    Marks,
    NodeSnapshot,
    TreeSnapshot,
    letters_of,
)

ROOM = theme.WIDTH - 2 * MARGIN  # px there are unless a caller has less
MOST_TOLD = 12  # nodes in the alt text


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
    """A tree, ready to be composed; its boxes are as wide as `room` px allow.

    `others` are nodes of other frames: their places stay free.
    """
    kept, hidden = choose(view, ghosts, marks, limit)
    nodes = [*kept, *ghosts]
    if hidden:
        shown = {node.letter for node in nodes}
        others = [node for node in others if node.letter in shown]
    folds = {name: _fold_told(n, view.page_size) for name, n in hidden.items()}
    layout = TreeLayout(nodes, hidden, view.page_size, others)
    drawing = TreeDrawing(nodes, folds, layout, marks, decode, last_use)
    painter = TreePainter(drawing, room)
    states = {drawing.state(node) for node in nodes}
    if any(node.lock_ref for node in kept):
        states.add("locked")
    n_nodes = len(view.nodes) + len(ghosts)
    words = [_size_told(view), *_nodes_told(drawing, n_nodes)]
    return Part(
        "tree",
        painter.width,
        painter.height,
        painter.paint,
        states,
        drawing.lines(),
        " ".join(words),
    )


def _fold_told(amounts: Counter[str], page_size: int) -> str:
    n_tokens = amounts["pages"] * page_size
    return f"+ {count(amounts['nodes'], 'node')}, {count(n_tokens, 'token')}"


def _size_told(view: TreeSnapshot) -> str:
    if not view.nodes:
        return "An empty radix tree."
    n_pages = sum(len(node.pages) for node in view.nodes)
    n_tokens = n_pages * view.page_size
    sizes = f"{count(n_pages, 'page')}, {count(n_tokens, 'token')}"
    return f"Radix tree of {count(len(view.nodes), 'node')}: {sizes}."


def _nodes_told(drawing: TreeDrawing, n_nodes: int) -> list[str]:
    """A sentence for each of the first nodes, and one for the rest of `n_nodes`."""
    told = [
        f"{node.letter} under {node.parent or 'the root'}: {drawing.facts(node)}."
        for node in drawing.nodes[:MOST_TOLD]
    ]
    n_hidden = n_nodes - len(told)
    if n_hidden:
        told.append(f"And {count(n_hidden, 'more node')}.")
    return told


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
    letters = letters_of(tree)
    marks = Marks.of(hit, new, evicted)
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

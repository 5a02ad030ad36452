"""A split in slow motion: every pointer and every lock that it sets, one by one."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

from radix_lib.radix_tree import TreeNode, unpack_tokens
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import Decoder, pages_named, shorten, token_text

GAP = 24  # between the two columns
COLUMN = (theme.WIDTH - 2 * MARGIN - GAP) / 2
HEIGHT = 128  # of a moment, without its words
ABOVE = "root"  # what the node hangs on
HOLDER = "R1"  # a request that holds it

# The two nodes, px from the corner of a moment: left, top, width.
PLACES = {"A": (122, 84, 164), "B": (122, 0, 164)}
BOX = 40  # their height
# Each pointer that may be drawn, as the way from its owner to what it points to.
WAYS = {
    ("root.child", "A"): [(30, 32), (30, 98), (122, 98)],
    ("root.child", "B"): [(44, 13), (122, 13)],
    ("B.child", "A"): [(170, 40), (170, 84)],
    ("A.parent", "root"): [(122, 112), (14, 112), (14, 32)],
    ("A.parent", "B"): [(206, 84), (206, 40)],
    ("B.parent", "root"): [(122, 27), (44, 27)],
}
FILED = {"root.child": (52, 0), "B.child": (176, 56)}  # under which page
FILED_LOW = (40, 84)  # the same of the root, as long as it leads down to A


class Edge(NamedTuple):
    """What a node holds."""

    text: str
    pages: str


class Moment(NamedTuple):
    """What is so after a step; `changed` are the names of what it set."""

    words: str
    state: dict[str, Any]
    changed: set[str]


def split_moments(node: TreeNode, n_pages: int, decode: Decoder = None) -> list[Moment]:
    """What `node.split(n_pages, …)` does, step by step. The node is not changed.

    A is the node, B the new upper part. `X.parent` and `X.child` name where a pointer
    leads, `X` is the node's edge, `X.lock` its count.
    """
    page = len(node.key) // len(node.pages)
    cut = n_pages * page

    def edge(start: int, end: int) -> Edge:
        text = token_text(unpack_tokens(node.key[start:end]), 22, decode)
        pages = node.pages[start // page : end // page].tolist()
        return Edge(text, pages_named(pages, most=3))

    def filed(start: int) -> str:
        return token_text(unpack_tokens(node.key[start : start + page]), 10, decode)

    state: dict[str, Any] = {
        "A": edge(0, len(node.key)),
        "A.lock": getattr(node, "lock_ref", 1),
        "A.parent": ABOVE,
        "root.child": "A",
        "root.filed": filed(0),
        "B.filed": filed(cut),
    }
    first, second = state["root.filed"], state["B.filed"]
    steps: list[tuple[str, dict[str, Any]]] = [
        (f"before: {HOLDER} runs; it holds A and has locked its path", {}),
        (
            "B is made, with the first pages. Nothing leads to it yet",
            {"B": edge(0, cut), "B.lock": 0, "B.parent": ABOVE},
        ),
        (f"B.children[{second}] = A", {"B.child": "A"}),
        (f"root.children[{first}] = B", {"root.child": "B"}),
        ("A.key and A.pages keep what is left", {"A": edge(cut, len(node.key))}),
        ("A.parent = B: up from A, the path is whole", {"A.parent": "B"}),
        (
            "chapter 04 adds: B.lock_ref = A.lock_ref",
            {"B.lock": state["A.lock"]},
        ),
    ]
    moments = []
    for words, changes in steps:
        state = {**state, **changes}
        moments.append(Moment(words, state, set(changes)))
    return moments


def draw_split(
    node: TreeNode, n_pages: int, *, decode: Decoder = None, caption: str = ""
) -> Figure:
    """Draw how `node` will be split after `n_pages`, one pointer or lock a picture.

    A solid arrow leads to a child and names the page under which it is filed. What a
    step has set is thick, or yellow. Raises ValueError where there is nothing to cut.
    """
    if not 0 < n_pages < len(node.pages):
        raise ValueError(
            f"an edge of {len(node.pages)} pages cannot be cut after {n_pages}"
        )
    moments = split_moments(node, n_pages, decode)
    canvas = Canvas()
    top = MARGIN
    if caption:
        canvas.write(MARGIN, MARGIN, 2 * COLUMN, caption, size=12, bold=True)
        top += 22
    for i, moment in enumerate(moments):
        x = MARGIN + i % 2 * (COLUMN + GAP)
        y = top + i // 2 * (HEIGHT + 48)
        canvas.line((x, y), (x + COLUMN, y), width=0.6)
        canvas.write(x, y + 6, COLUMN, f"{i + 1}  {moment.words}")
        _paint(canvas, x, y + 36, moment)
    y = top + (len(moments) + 1) // 2 * (HEIGHT + 48)
    x = canvas.legend(MARGIN, y, {"new", "locked"}, {"new": "just made or cut"})
    for word, style in (("to a child", "solid"), ("to the parent", "dashed")):
        canvas.line((x, y + 7), (x + 36, y + 7), style=style, arrow=True)
        canvas.write(x + 42, y + 1, 120, word, size=10)
        x += 130
    told = [f"{i + 1}. {moment.words}." for i, moment in enumerate(moments)]
    alt = " ".join([f"{caption}.", "A split, step by step:", *told, _said(moments[-1])])
    lines = [caption] if caption else []
    for i, moment in enumerate(moments):
        lines += textwrap.wrap(f"{i + 1}  {moment.words}", 100)
        lines += [f"     {line}" for line in _drawn(moment.state)]
    return canvas.figure(
        2 * COLUMN + GAP + 2 * MARGIN, y + 24, "\n".join(lines), shorten(alt, 2000)
    )


def _paint(canvas: Canvas, x: float, y: float, moment: Moment) -> None:
    state = moment.state
    canvas.box(x, y + 7, 44, 26)
    canvas.write(x, y + 13.4, 44, ABOVE, align="center")
    for name in ("A", "B"):
        if name in state:
            _paint_node(canvas, x, y, name, moment)
    for (name, end), way in WAYS.items():
        if state.get(name) == end:
            canvas.line(
                *[(x + a, y + b) for a, b in way],
                width=2.6 if name in moment.changed else 1.0,
                style="dashed" if name.endswith("parent") else "solid",
                arrow=True,
            )
    for name, (left, top) in FILED.items():
        if name in state:
            low = state[name] == "A" and name == "root.child"
            left, top = FILED_LOW if low else (left, top)
            filed = state[name.replace("child", "filed")]
            canvas.write(x + left, y + top, 80, filed, size=10, mono=True)
    canvas.write(x + COLUMN - 18, y + 98, 18, HOLDER, bold=True, size=12)
    canvas.line((x + COLUMN - 22, y + 104), (x + 287, y + 104), width=1.0, arrow=True)


def _paint_node(canvas: Canvas, x: float, y: float, name: str, moment: Moment) -> None:
    left, top, wide = PLACES[name]
    edge = moment.state[name]
    lock = moment.state[f"{name}.lock"]
    look = theme.STATES["new" if name in moment.changed else "idle"]
    border = "double" if lock else "solid"
    canvas.box(x + left, y + top, wide, BOX, look.fill, border=border)
    canvas.write(x + left + 7, y + top + 6, 14, name, size=13, bold=True)
    canvas.write(x + left + 7, y + top + 21, 14, look.mark, size=13, bold=True)
    canvas.write(x + left + 24, y + top + 7, wide - 28, edge.text, size=10, mono=True)
    canvas.write(x + left + 24, y + top + 22, wide - 28, edge.pages, size=10)
    badge = f"locked {lock}"
    at = x + left + wide - 56
    fill = theme.STATES["locked"].fill if lock else theme.PAPER
    canvas.box(at, y + top - 8, 50, 14, fill)
    canvas.write(at, y + top - 6.4, 50, badge, size=9, align="center")


def _drawn(state: dict[str, Any]) -> list[str]:
    lines = [f"root: {state['root.filed']} → {state['root.child']}"]
    for name in ("B", "A"):
        if name in state:
            edge = state[name]
            facts = [edge.text, edge.pages, f"locked {state[f'{name}.lock']}"]
            facts.append(f"parent {state[f'{name}.parent']}")
            if f"{name}.child" in state:
                facts.append(f"{state[f'{name}.filed']} → {state[f'{name}.child']}")
            lines.append(f"{name}: {', '.join(facts)}")
    return lines


def _said(moment: Moment) -> str:
    return f"At last: {'; '.join(_drawn(moment.state))}."

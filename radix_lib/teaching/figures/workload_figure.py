"""Workloads as trees seen from afar: who shares what with how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from radix_lib.radix_tree import TOKEN_BYTES, RadixTree, TreeNode, pack_tokens
from radix_lib.teaching.figures.chart import Chart, beside, look_of

Prompts = Sequence[Sequence[int]]


class Part(NamedTuple):
    """A piece of text in a workload, and how many of its requests begin with it."""

    left: float  # where it begins, in requests
    n_requests: int
    depth: int  # tokens above it
    n_tokens: int
    last: int  # its last token


def parts_of(prompts: Prompts) -> list[Part]:
    """The tree of all prompts, each node with its place, widest children first."""
    tree = RadixTree()
    keys = [pack_tokens(prompt) for prompt in prompts]
    for key in keys:
        tree.insert(key, np.zeros(len(key) // TOKEN_BYTES, np.int64))
    crossing: Counter[TreeNode] = Counter()
    for key in keys:
        crossing.update(node for node, _ in tree.walk(key))
    parts: list[Part] = []
    waiting = [(root, 0.0, 0) for root in tree.roots.values()]
    while waiting:
        node, left, depth = waiting.pop()
        if node.key:
            n_tokens = len(node.pages)
            (last,) = np.frombuffer(node.key[-TOKEN_BYTES:], np.uint32)
            parts.append(Part(left, crossing[node], depth, n_tokens, int(last)))
            depth += n_tokens
        for child in sorted(node.children.values(), key=lambda each: -crossing[each]):
            waiting.append((child, left, depth))
            left += crossing[child]
    return parts


def draw_workload_trees(
    workloads: Mapping[str, Prompts], caption: str = "Workloads as trees"
) -> Chart:
    """Each workload's tree from above: as wide as its requests, as deep as its tokens.

    What several requests begin with is coloured. The table has the share of tokens that
    stand in such parts and are not the first of their kind.
    """
    columns = 4
    n_rows = -(-len(workloads) // columns)
    deepest = max(len(prompt) for prompts in workloads.values() for prompt in prompts)
    rows: list[list[Any]] = [["", "requests", "tokens", "deepest", "repeated"]]

    def paint(axes: Axes) -> None:
        for number, (name, prompts) in enumerate(workloads.items()):
            row, column = divmod(number, columns)
            top = -1.35 * row
            for part in parts_of(prompts):
                place = (
                    column + 0.9 * part.left / len(prompts),
                    top - part.depth / deepest,
                )
                size = 0.9 * part.n_requests / len(prompts), -part.n_tokens / deepest
                look = look_of("hit" if part.n_requests > 1 else "idle")
                axes.add_patch(Rectangle(place, *size, **look | {"linewidth": 0.3}))
            axes.text(column, top + 0.04, name, fontsize=9)
        axes.set_xlim(-0.05, columns)
        axes.set_ylim(-1.35 * n_rows + 0.3, 0.25)
        axes.axis("off")
        legend = [
            Patch(label="several requests begin with it", **look_of("hit")),
            Patch(label="one request has it", **look_of("idle")),
        ]
        axes.legend(handles=legend, loc="lower right", fontsize=8)

    for name, prompts in workloads.items():
        n_tokens = sum(map(len, prompts))
        n_distinct = sum(part.n_tokens for part in parts_of(prompts))
        longest = max(map(len, prompts))
        repeated = f"{1 - n_distinct / n_tokens:.0%}"
        rows.append([name, len(prompts), n_tokens, longest, repeated])
    return Chart(paint, caption, rows, height=1.9 * n_rows + 0.4)


def draw_cached_tree(
    prompts: Prompts, cached: Container[int], caption: str, unit: str = "blocks"
) -> Chart:
    """A workload's tree, and what of it a cache holds now: the last of `cached` tokens.

    Each token of `prompts` stands for a block of its own.
    """
    parts = [piece for part in _with_tokens(prompts) for piece in _cut(*part, cached)]
    n_here = sum(part.n_tokens for part in parts if part.last in cached)
    n_gone = sum(part.n_tokens for part in parts) - n_here

    def paint(axes: Axes) -> None:
        for part in parts:
            state = "hit" if part.last in cached else "evicted"
            place = (part.left, part.depth)
            look = look_of(state) | {"linewidth": 0.3}
            axes.add_patch(Rectangle(place, part.n_requests, part.n_tokens, **look))
        axes.set_xlim(0, len(prompts))
        axes.set_ylim(max(map(len, prompts)), 0)
        axes.set(xlabel="requests that begin with it", ylabel=f"depth in {unit}")
        axes.grid(False)
        legend = [
            Patch(label="in the tree", **look_of("hit")),
            Patch(label="gone", **look_of("evicted")),
        ]
        beside(axes, handles=legend)

    rows = [["in the tree", n_here], ["gone", n_gone]]
    return Chart(paint, caption, [["", unit], *rows])


def _with_tokens(prompts: Prompts) -> list[tuple[Part, list[int]]]:
    """Each part of the tree of some prompts, with its tokens."""
    parent_of: dict[int, int] = {}
    for prompt in prompts:
        parent_of.update(zip(prompt[1:], prompt, strict=False))
    found = []
    for part in parts_of(prompts):
        tokens = [part.last]
        while len(tokens) < part.n_tokens:
            tokens.append(parent_of[tokens[-1]])
        found.append((part, tokens[::-1]))
    return found


def _cut(part: Part, tokens: list[int], cached: Container[int]) -> list[Part]:
    """A part in two where the cache has no more of it: what is cached comes first."""
    n_cached = sum(token in cached for token in tokens)
    cuts = {0, n_cached, len(tokens)}
    return [
        part._replace(
            depth=part.depth + start, n_tokens=end - start, last=tokens[end - 1]
        )
        for start, end in pairwise(sorted(cuts))
    ]

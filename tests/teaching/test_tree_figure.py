"""The drawing of a tree: what it tells, in all forms, and what stays in place."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree
from radix_lib.router import Namespace, Router
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import Canvas
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import columns
from radix_lib.teaching.figures.tree_figure import draw_tree, tree_part
from radix_lib.teaching.figures.tree_layout import TreeLayout
from radix_lib.teaching.figures.tree_snapshot import Letters, Marks, letters_of
from tests.support.scenes import SYSTEM, decode, new_router, run, two_requests

SVG = "{http://www.w3.org/2000/svg}"


def boxes(figure: Figure) -> dict[str, tuple[str, str, float, float]]:
    """Each box by its letter: its fill, whether it is dashed, its left and top edge."""
    found = {}
    shapes = []
    for element in ET.fromstring(figure.svg).iter():
        if element.tag == f"{SVG}polygon":
            corners = [
                tuple(map(float, p.split(",")))
                for p in element.get("points", "").split()
            ]
            left, top = (min(axis) for axis in zip(*corners, strict=True))
            shapes.append(
                (
                    element.get("fill", ""),
                    element.get("stroke-dasharray", ""),
                    left,
                    top,
                )
            )
        is_letter = element.tag == f"{SVG}text" and re.fullmatch(
            "[A-Z]{1,3}", element.text or ""
        )
        if is_letter and element.get("font-weight") == "bold":
            double = shapes[-1][0] == "none"  # the second border lies on the first box
            found[element.text or ""] = shapes[-1 - double]
    return found


def test_one_picture_tells_tokens_pages_locks_and_what_was_reused():
    router, lease = two_requests()
    figure = draw_tree(
        router.cache, decode=decode, hit=lease.page_table[:9], caption="Step 2"
    )
    assert figure.text == (
        "Step 2\n"
        "root\n"
        "└─ A  You·are·a·helpful·assistant.¶What·is  36 tokens, pages 0–8, locked 1, = reused\n"
        "   └─ B  ·2+2  4 tokens, page 9"
    )
    assert figure.alt == (
        "Step 2. Radix tree of 2 nodes: 10 pages, 40 tokens. "
        "A under the root: 36 tokens, pages 0–8, locked 1, = reused. B under A: 4 tokens, page 9."
    )
    words = [e.text for e in ET.fromstring(figure.svg).iter(f"{SVG}text")]
    for word in (
        "A",
        "=",
        "36 tokens · pages 0–8",
        "locked 1",
        "B",
        "·2+2",
        "root",
        "reused",
    ):
        assert word in words
    found = boxes(figure)
    assert (found["A"][0], found["B"][0]) == ("#99ddff", "#ffffff")


def test_letters_stay_through_splits_and_the_lower_part_keeps_its_own():
    router = new_router()
    run(router, SYSTEM + "What is 2+2?")
    first = boxes(draw_tree(router.cache))
    run(router, SYSTEM + "What is Paris?")
    then = boxes(draw_tree(router.cache))
    assert list(first) == ["A"]
    assert list(then) == ["B", "A", "C"]  # B is the upper part, C the new leaf
    assert then["B"][2:] == first["A"][2:]  # the box was cut in two where it stood
    assert then["A"][3] == first["A"][3]  # in its row
    run(router, "Something else.")
    last = boxes(draw_tree(router.cache))
    assert list(last) == ["B", "A", "C", "D"]
    assert {last[mark] == then[mark] for mark in "ABC"} == {True}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), max_size=9), st.booleans()), max_size=12
    )
)
def test_a_letter_means_the_same_node_for_good(steps: list[tuple[list[int], bool]]):
    cache = RadixCache(PageManager(200, 1))
    letters = Letters()
    known = {}
    for tokens, is_insert in steps:
        if is_insert:
            pages = cache.page_manager.allocate(len(tokens))
            cache.insert(tokens, pages)
            cache.page_manager.release(pages)
        elif cache.n_evictable:
            cache.evict(1 + sum(tokens) % cache.n_evictable)
        view = letters.view(cache)
        nodes = list(cache.nodes())
        assert (
            len({node.letter for node in view.nodes}) == len(nodes) == len(view.nodes)
        )
        for node, drawn in zip(nodes, view.nodes, strict=True):
            assert known.setdefault(drawn.letter, node) is node
            assert drawn.tokens == np.frombuffer(node.key, np.uint32).tolist()
            assert drawn.pages == tuple(node.pages)
        layout = TreeLayout(view.nodes, {}, 1)
        places = set()
        # no two boxes lie on one another
        for (
            first,
            last,
            row,
        ) in layout.boxes.values():
            cells = {(column, row) for column in range(first, last + 1)}
            assert cells
            assert not cells & places
            places |= cells


def test_frames_laid_out_with_one_another_keep_every_node_in_its_place():
    router = new_router()
    letters = Letters()
    frames = []
    for text in (
        "Hello, you.",
        "Hello, two of you.",
        "Hallo.......",
        "Hello, two of them.",
    ):
        run(router, text)
        frames.append(letters.view(router.cache))
    everything = [node for frame in frames for node in frame.nodes]
    layouts = [TreeLayout(frame.nodes, {}, 4, others=everything) for frame in frames]
    rows: dict[str, set[int]] = {}
    starts: dict[tuple[str, bytes], set[int]] = {}
    for layout in layouts:
        assert layout.n_rows == layouts[-1].n_rows
        for node, (first, _, row) in layout.boxes.items():
            rows.setdefault(node.letter, set()).add(row)
            starts.setdefault((node.letter, node.path), set()).add(first)
    assert all(len(places) == 1 for places in [*rows.values(), *starts.values()])


def test_what_was_evicted_is_drawn_where_it_stood():
    router = new_router()
    run(router, SYSTEM + "What is 2+2?")
    run(router, SYSTEM + "Who wrote Faust?")
    before = boxes(draw_tree(router.cache))
    evicted = router.cache.evict(3)
    figure = draw_tree(router.cache, decode=decode, evicted=evicted)
    after = boxes(figure)
    assert after["B"] == ("#d55e00", "5,2", *before["B"][2:])
    assert {after[mark] == before[mark] for mark in "AC"} == {True}
    assert "├─ B  ¶What·is·2+2  12 tokens, had pages 7–9, × evicted" in figure.text
    assert "B under A: 12 tokens, had pages 7–9, × evicted." in figure.alt
    again = draw_tree(router.cache, decode=decode, evicted=evicted)
    assert (again.svg, again.text) == (figure.svg, figure.text)
    assert "evicted" not in draw_tree(router.cache).text


def test_a_whole_branch_that_went_is_drawn():
    router = new_router()
    for text in ("Hello, you.", "Hello, two of you.", "Goodbye."):
        run(router, text)
    draw_tree(router.cache)
    evicted = router.cache.evict(5)
    assert draw_tree(router.cache, decode=decode, evicted=evicted).text == (
        "root\n"
        "├─ A  Hell  4 tokens, had page 0, × evicted\n"
        "│  ├─ B  o,·y  4 tokens, had page 1, × evicted\n"
        "│  └─ C  o,·two·of·yo  12 tokens, had pages 2–4, × evicted\n"
        "└─ D  Goodbye.  8 tokens, pages 5–6"
    )


def test_a_leaf_that_lost_its_end_is_drawn_with_it():
    router = new_router()
    run(router, SYSTEM)
    draw_tree(router.cache)
    figure = draw_tree(router.cache, decode=decode, evicted=router.cache.evict(2))
    assert figure.text.splitlines()[1:] == [
        "└─ A  You·are·a·helpful·as  20 tokens, pages 0–4",
        "   └─ A  sistant.  8 tokens, had pages 5–6, × evicted",
    ]


def test_nothing_is_drawn_as_evicted_where_something_new_stands():
    router = new_router()
    run(router, SYSTEM)
    draw_tree(router.cache)
    evicted = router.cache.evict(7)
    run(router, SYSTEM)
    figure = draw_tree(router.cache, evicted=evicted)
    assert "evicted" not in figure.text
    assert list(boxes(figure)) == ["B"]


def test_a_large_tree_is_folded_and_the_count_says_how_much():
    cache = RadixCache(PageManager(2000, 4))
    router = Router(cache)
    for i in range(60):
        lease = router.admit([1, 1, 1, 1, i % 6, 0, 0, 0, i, i, i, i])
        lease.advance(len(lease.pending))
        router.finish(lease)
    n_nodes = len(list(cache.nodes()))
    figure = draw_tree(cache, limit=10)
    drawn = re.findall(r"[├└]─ [A-Z]+ ", figure.text)
    folds = re.findall(r"\+ (\d+) nodes?, ([\d,]+) tokens?", figure.text)
    assert len(drawn) == 10
    assert len(drawn) + sum(int(n) for n, _ in folds) == n_nodes == 67
    tokens = sum(int(n) for n in re.findall(r" (\d+) tokens, ", figure.text))
    assert tokens + sum(int(n.replace(",", "")) for _, n in folds) == 4 * 67
    assert figure.alt.endswith("And 57 more nodes.")
    marked = list(cache.nodes())[-1]
    # a mark is never folded
    assert "= reused" in draw_tree(cache, limit=10, hit=[marked]).text


def test_folds_hang_below_a_root_too():
    router = new_router(100)
    for i in range(8):
        run(router, f"{i} is a number.")
    figure = draw_tree(router.cache, limit=3)
    assert figure.text.endswith("└─ + 5 nodes, 60 tokens")
    assert "+ 5 nodes" in figure.svg


def test_an_empty_tree():
    figure = draw_tree(RadixTree(4))
    assert figure.text == "root (empty)"
    assert figure.alt == "An empty radix tree."
    assert "empty" in figure.svg


def test_every_namespace_has_its_root():
    router = new_router()
    for namespace in (None, Namespace("alice"), Namespace("", "<lora> & co")):
        run(router, "The same prompt.", namespace)
    figure = draw_tree(router.cache, decode=decode)
    assert [line for line in figure.text.splitlines() if line.startswith("root")] == [
        "root",
        "root of namespace alice",
        "root of namespace <lora>·&·co",
    ]
    words = [e.text for e in ET.fromstring(figure.svg).iter(f"{SVG}text")]
    assert words.count("root") == 3
    assert "namespace <lora>·&·co" in words
    tops = [top for *_, top in boxes(figure).values()]
    assert tops == sorted(tops)
    assert len(set(tops)) == 3


def test_a_plain_tree_of_chapter_02_is_drawn_too():
    tree = RadixTree()
    tree.insert([5, 6, 7], np.array([10, 11, 12]))
    figure = draw_tree(tree, new=[12], last_use=False)
    assert figure.text.splitlines()[1] == "└─ A  5 6 7  3 tokens, pages 10–12, + new"
    assert list(boxes(figure)) == ["A"]


def test_last_use_and_locks_are_shown_when_there_are_any():
    router, _ = two_requests()
    plain = draw_tree(router.cache)
    told = draw_tree(router.cache, last_use=True)
    assert "used at" not in plain.svg + plain.text
    assert "used at 3" in told.svg
    assert "locked 1, used at 3" in told.text
    assert "locked" in plain.svg


def test_hostile_tokens_are_shown_as_they_are():
    hostile = '<b>"\\N\\l{|}&amp;\x00\u200b😀</b>'
    tree = RadixTree()
    tree.insert([1, 2, 3], np.arange(3))
    figure = draw_tree(tree, decode=lambda _: hostile)
    words = [e.text or "" for e in ET.fromstring(figure.svg).iter(f"{SVG}text")]
    (token,) = [word for word in words if "b>" in word]
    assert token.startswith('<b>"\\N\\l{')
    assert token.endswith("0b😀</b>")
    assert "\x00" not in figure.text + figure.alt
    assert figure.png


@pytest.mark.parametrize("n", [1, 3, 6])
def test_every_line_of_the_drawing_fits_100_columns(n: int):
    router = new_router(400)
    for i in range(2**n):
        run(router, "".join(f"a long prefix {i >> k & 1} " * 3 for k in range(n)))
    figure = draw_tree(router.cache, decode=decode, last_use=True, limit=99)
    assert max(map(len, figure.text.splitlines())) <= 100


@pytest.mark.parametrize("text", ["i" * 200, "W" * 200, "中" * 80, "a·b" * 60])
def test_token_text_ends_inside_its_box(text: str):
    tree = RadixTree()
    tree.insert(range(1, 90), np.arange(89))
    figure = draw_tree(tree, decode=lambda _: text)
    left = next(iter(boxes(figure).values()))[2]
    words = [
        e
        for e in ET.fromstring(figure.svg).iter(f"{SVG}text")
        if "Cousine" in str(e.attrib)
    ]
    assert len(words) == 1
    end = float(words[0].get("x", "")) + 6.6 * columns(words[0].text or "")
    assert left + 150 < end < left + 190


def test_the_figure_is_as_wide_as_a_notebook_shows():
    router, _ = two_requests()
    run(router, SYSTEM + "Who wrote Faust?")
    widths = []
    for caption in ("", "A caption that is much longer than the figure is wide. " * 4):
        data: dict[str, Any] = draw_tree(
            router.cache, caption=caption
        )._repr_mimebundle_()[1]
        widths.append(data["image/png"]["width"])
    assert widths == [theme.WIDTH, theme.WIDTH]


def test_letters_last_as_long_as_the_tree_and_no_longer():
    tree = RadixTree()
    assert letters_of(tree) is letters_of(tree)
    assert letters_of(tree) is not letters_of(RadixTree())


def test_a_part_can_be_painted_anywhere():
    router, _ = two_requests()
    view = Letters().view(router.cache)
    canvas = Canvas()
    tree_part(view, Marks()).paint(canvas, 200, 100)
    found = boxes(canvas.figure(900, 300, "", ""))
    assert all(left >= 200 and top >= 100 for _, _, left, top in found.values())


def test_pages_that_are_too_many_to_name_in_a_box_are_counted() -> None:
    tree = RadixTree(page_size=1)
    pages = np.arange(1000, 1000 + 37 * 6, 37)
    for depth in range(6):
        tree.insert([*range(6), *[1] * depth, 2], np.append(pages, [7] * (depth + 1)))
    drawn = draw_tree(tree)
    assert "6 tokens, pages 1000, 1037, …, 1185" in drawn.text
    assert ">6 pages<" in drawn.svg

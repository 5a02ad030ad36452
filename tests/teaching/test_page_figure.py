"""The strip, the rows and the scene: the same ids and states in all."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from radix_lib.page_manager import PageManager
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import columns
from radix_lib.teaching.figures.page_figure import draw_pages, rows_part
from radix_lib.teaching.figures.page_strip import CELL, HEIGHT, strip_part
from radix_lib.teaching.figures.pool_snapshot import names_of, pool_snapshot
from radix_lib.teaching.figures.scene import draw_scene
from radix_lib.teaching.figures.tree_snapshot import Marks
from tests.support.scenes import SYSTEM, admit, decode, new_router, run, two_requests

SVG = "{http://www.w3.org/2000/svg}"


def cells(figure: Figure) -> list[tuple[str, str]]:
    """The pages drawn, strip and rows alike: what colour, which id."""
    found = []
    fill = ""
    for element in ET.fromstring(figure.svg).iter():
        if element.tag == f"{SVG}polygon":
            corners = [
                tuple(map(float, p.split(",")))
                for p in element.get("points", "").split()
            ]
            sizes = [
                round(max(axis) - min(axis)) for axis in zip(*corners, strict=True)
            ]
            if sizes == [CELL, HEIGHT] and element.get("stroke") != "none":
                fill = element.get("fill", "")
        text = element.text or ""
        if fill and element.get("font-weight") == "bold" and text.isdigit():
            found.append((fill, text))
            fill = ""
    return found


def shared_pages() -> tuple[PageManager, dict[str, tuple[np.ndarray, int]]]:
    manager = PageManager(n_pages=8, page_size=16)
    a, b = manager.allocate(3), manager.allocate(2)
    manager.retain(a[:2])
    return manager, {"A": (a, 37), "B": (np.concatenate((a[:2], b)), 50)}


def test_the_ascii_drawing_of_two_rows_is_closed_on_all_sides():
    top, *_, between, _, _, bottom = draw_pages(PageManager(14, 4)).text.splitlines()
    assert top == "┌" + "┬".join(["─" * 7] * 12) + "┐"
    assert (
        between == "├" + "┼".join(["─" * 7] * 2) + "┼" + "┴".join(["─" * 7] * 10) + "┘"
    )
    assert bottom == "└" + "┴".join(["─" * 7] * 2) + "┘"


def test_a_full_page_table_has_nothing_more_to_tell():
    manager = PageManager(n_pages=2, page_size=16)
    figure = draw_pages(manager, {"A": (manager.allocate(2), 32)})
    assert figure.text.splitlines()[-1] == "A: pages 0 1"
    assert figure.alt.endswith("A has pages 0–1.")


def test_the_pages_of_chapter_03_with_two_page_tables():
    manager, tables = shared_pages()
    figure = draw_pages(manager, tables, caption="Two requests share two pages")
    assert figure.text == (
        "Two requests share two pages\n"
        "┌───────┬───────┬───────┬───────┬───────┬───────┬───────┬───────┐\n"
        "│ =0 ×2 │ =1 ×2 │ 2 ×1  │ 3 ×1  │ 4 ×1  │   5   │   6   │   7   │\n"
        "│  A B  │  A B  │ A 31% │   B   │ B 12% │ free  │ free  │ free  │\n"
        "└───────┴───────┴───────┴───────┴───────┴───────┴───────┴───────┘\n"
        "A: pages =0 =1 2\n"
        "    11 of 48 places empty\n"
        "B: pages =0 =1 3 4\n"
        "    14 of 64 places empty"
    )
    for fact in ("8 pages of 16 tokens, 3 free", "Shared: 0–1"):
        assert fact in figure.alt
    assert "B has pages 0–1, 3–4; 14 of 64 places empty." in figure.alt
    ids = [name for _, name in cells(figure)]
    assert ids == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "0",
        "1",
        "2",
        "0",
        "1",
        "3",
        "4",
    ]


def test_the_tail_is_filled_as_far_as_it_is_used():
    manager, tables = shared_pages()
    svg = draw_pages(manager, tables).svg
    grey = theme.STATES["free"].fill.lower()
    widths = set()
    for points in re.findall(r'fill="#ffffff" stroke="none" points="([^"]*)"', svg):
        xs = [float(point.split(",")[0]) for point in points.split()]
        widths.add(round(max(xs) - min(xs), 1))
    widths.remove(max(widths))  # the paper
    assert widths == {round(CELL * 5 / 16, 1), round(CELL * 2 / 16, 1)}
    assert f'fill="{grey}" stroke="none"' in svg  # what is empty


def test_the_scene_says_the_same_of_a_page_in_all_three_places():
    router, lease = two_requests()
    run(router, SYSTEM + "Who wrote Faust?")
    other = admit(router, SYSTEM + "Who wrote Emma?")
    figure = draw_scene(
        router, decode=decode, counters={"requests": 4}, caption="Four requests"
    )
    by_id: dict[str, set[str]] = {}
    for fill, name in cells(figure):
        by_id.setdefault(name, set()).add(fill)
    assert len(by_id) > 15
    assert all(len(fills) == 1 for fills in by_id.values())
    hit, new = theme.STATES["hit"].fill.lower(), theme.STATES["new"].fill.lower()
    assert by_id["0"] == {hit}
    assert by_id[str(other.page_table[-1])] <= {new, "none"}
    lines = figure.text.splitlines()
    assert lines[:2] == [
        "Four requests",
        "tokens reused 72 · pages free 20 of 40 · requests 4",
    ]
    assert lease.n_cached + other.n_cached == 36 + 36
    assert router.page_manager.n_free == 40 - 10 - 4 - 4 - 2
    assert any(
        line.startswith("└─ A  You·are") and "= reused" in line for line in lines
    )
    assert any(line.startswith("R1: pages =0 =1") for line in lines)
    assert any(
        "36 reused · 8 computed" in line and "Who·wrote·Emma?" in line for line in lines
    )
    for word in ("TREE", "PAGES", "REQUESTS AND THEIR PAGE TABLES", "R1", "R2"):
        assert word in figure.svg
    assert "Radix tree of" in figure.alt
    assert "A pool of 40 pages" in figure.alt


def test_every_state_is_told_by_a_mark_in_the_drawing():
    router, lease = two_requests()
    router.commit(lease)
    run(router, "Bonjour!")
    draw_scene(router)
    evicted = router.cache.evict(2)
    figure = draw_scene(router, evicted=evicted)
    assert re.findall(r"×(\d+) ", figure.text.split("┌")[1]) != []
    for page in evicted:
        assert re.search(rf"│ *×{page} *│", figure.text)
    assert "Evicted: " in figure.alt
    for word in ("evicted", "new", "reused", "locked", "in the tree", "free"):
        assert f">{word}<" in figure.svg


def test_leases_keep_their_names_when_others_end():
    router, first = two_requests()
    second = admit(router, "Another one.")
    assert names_of(router) == {"R1": first, "R2": second}
    router.finish(first)
    third = admit(router, "And another.")
    assert names_of(router) == {"R2": second, "R3": third}
    assert "Anna: pages" in draw_pages(router, {"Anna": second}).text


def test_a_large_pool_is_told_in_short():
    router = new_router(5000)
    lease = router.admit(list(range(1, 1000)))
    lease.advance(999)
    router.commit(lease)
    figure = draw_pages(router)
    assert "│  …  │" in figure.text.replace("   …   ", "  …  ")
    assert "│ + 247 │" in figure.text
    assert "│ 4,750 │" in figure.text
    assert len(cells(figure)) < 30
    assert figure.text.splitlines()[4] == (
        "R1: pages 0 1 2 3 4 5 6 7 8 9 10 11 … 247 248 +249"
    )
    assert "Locked: 0–248. " in figure.alt  # told in words, though most are not drawn
    assert len(draw_pages(router).svg) < 20_000


def test_a_pool_in_a_hundred_pieces_is_cut_and_the_rest_counted():
    manager = PageManager(400, 4)
    pages = manager.allocate(400)
    manager.release(pages[::2])
    part = strip_part(pool_snapshot(manager), limit=65)
    assert part.lines[-3].endswith("│ + 336 │")
    assert part.lines[-2].endswith("│ pages │")
    assert len(part.lines) == 1 + 3 * 6


def test_what_is_cut_off_counts_the_pages_inside_runs():
    manager = PageManager(400, 4)
    pages = manager.allocate(400)
    # runs of 8 free and 12 held, told by 1 and 3
    manager.release(pages[np.arange(400) % 20 < 8])
    lines = strip_part(pool_snapshot(manager), limit=21).lines
    shown = 5 * 20  # five times both runs, in 20 cells
    assert f"+ {400 - shown}" in lines[-3]


@pytest.mark.parametrize(
    ("names", "shown"),
    [(["request 1"], ">re…"), (["assistant", "user"], "a…t +1"), (["A", "B"], "A B")],
)
def test_owners_fit_into_their_cell(names: list[str], shown: str):
    manager = PageManager(2, 4)
    pages = manager.allocate(2)
    for _ in names[1:]:
        manager.retain(pages)
    assert shown in draw_pages(manager, dict.fromkeys(names, pages)).svg


def test_wide_ids_and_wide_letters_stay_in_their_columns():
    manager = PageManager(12_000, 4)
    manager.rebuild(np.ones(12_000, np.int32))
    part = strip_part(pool_snapshot(manager, {"日本語": [11_999]}))
    assert len({columns(line) for line in part.lines[:3]}) == 1


@pytest.mark.parametrize("n_pages", [1, 12, 13, 65])
def test_the_drawing_is_a_whole_table(n_pages: int):
    lines = strip_part(pool_snapshot(PageManager(n_pages, 4))).lines
    assert lines[0][0] + lines[0][-1] + lines[-1][0] + lines[-1][-1] == "┌┐└┘"
    assert len(lines) == 1 + 3 * -(-n_pages // 12)
    assert max(map(len, lines)) <= 100


def test_marks_are_given_by_page_or_by_node():
    router, _ = two_requests()
    node = next(router.cache.nodes())
    assert Marks.of([node], [], []) == Marks.of(node.pages, (), ())
    view = pool_snapshot(router, {}, Marks.of([], [], [30]))
    assert (view.state(0), view.state(30), view.state(31)) == (
        "locked",
        "evicted",
        "free",
    )


def test_a_part_without_requests_has_no_rows():
    assert rows_part(pool_snapshot(PageManager(4, 4))).lines == []
    assert "REQUESTS" not in draw_scene(new_router()).svg

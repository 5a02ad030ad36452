"""One of each figure, from fixed states, for a maintainer to look at.

python tests/tools/gallery.py            writes build/gallery/index.html, light and dark
python tests/tools/gallery.py --renew    and the SVGs that test_gallery.py compares with
"""

from __future__ import annotations

import base64
import html
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.support.scenes

from radix_lib.admission import NewTokenRatio
from radix_lib.router import Namespace
from radix_lib.scheduler import Scheduler
from radix_lib.teaching import (
    EvictionLab,
    FleetLab,
    PageExplorer,
    Recorder,
    RouterWalk,
    SchedulerLab,
    SideBySide,
    Timeline,
    TreeExplorer,
    WorkloadLab,
    arena_moment,
    chapter_map,
    compose,
    course_map,
    draw_attention,
    draw_books,
    draw_cached_tree,
    draw_cut,
    draw_damage,
    draw_heap,
    draw_hit_rate,
    draw_mask,
    draw_page_sizes,
    draw_pages,
    draw_pool_map,
    draw_prediction,
    draw_same,
    draw_scene,
    draw_schedule,
    draw_sharing,
    draw_split,
    draw_tiles,
    draw_time_to_first_token,
    draw_tokens,
    draw_tree,
    draw_turned_key,
    draw_workload_trees,
    film_strip,
)
from radix_lib.teaching.figures.figure import Figure, Picture
from radix_lib.token_time import TokenTime
from tests.support.scenes import SYSTEM, admit, decode, new_router, run, two_requests

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "tests" / "teaching" / "gallery"
BUILT = ROOT / "build" / "gallery"


def pictures() -> dict[str, Picture]:
    """Every kind of figure and chart by name, always the same."""
    return figures() | of_chapters() | films() | widgets() | charts()


def figures() -> dict[str, Picture]:
    """The maps, and trees, pages and requests in several states."""
    made: dict[str, Picture] = {
        "map-of-the-library": course_map(4),
        "map-of-the-chapters": chapter_map(),
        "tree-empty": draw_tree(new_router().cache),
    }
    router, lease = two_requests()
    caption = "Two requests, one runs"
    made["tree-locked"] = draw_tree(router.cache, decode=decode, caption=caption)
    caption = "Two requests that begin alike"
    made["scene"] = draw_scene(router, decode=decode, caption=caption)
    made["pages"] = draw_pages(router, decode=decode)
    router.finish(lease)
    made["tree-evicted"] = draw_tree(
        router.cache,
        decode=decode,
        evicted=router.cache.evict(4),
        last_use=True,
        caption="Four pages were evicted",
    )
    for namespace in ("bob", Namespace("salt", "adapter")):
        run(router, "Hello, hello", namespace)
    made["tree-namespaces"] = draw_tree(router.cache, decode=decode)
    many = new_router(n_pages=200)
    for i in range(40):
        run(many, f"{SYSTEM}{i * i}{'+' * (i % 7)}{i}, what is it?")
    made["tree-folded"] = draw_tree(many.cache, decode=decode, limit=9)
    made["pages-many"] = draw_pages(many)
    return made


def of_chapters() -> dict[str, Picture]:
    """Figures that one chapter shows."""
    router, _ = two_requests()
    (node, *_) = router.cache.nodes()
    mask = np.arange(12) <= 8 + np.arange(4)[:, None]
    before, after = new_router(n_pages=14), new_router(n_pages=14)
    run(before, SYSTEM)
    admit(after, SYSTEM)
    before.cache.match(list(SYSTEM.encode()))  # its first entry is stale now
    small = new_router(n_pages=6)
    story = SideBySide(decode)
    story.note("before", small.cache, {})
    run(small, "I am a cook.")
    story.note("a prompt came, and another has its pages", small.cache, {"R2": [0, 3]})
    scheduler = Scheduler(
        TokenTime(12, 4), token_budget=16, max_running=4, ratio=NewTokenRatio(0, 0)
    )
    timeline = Timeline(scheduler)
    prompts = [range(9), range(20, 34), [*range(9), 98], range(40, 48)]
    asked = [scheduler.submit(prompts[i], 6 + 2 * i) for i in range(4)]
    for _ in range(3):
        timeline(scheduler.step())
    asked[1].cancel()
    scheduler.submit(range(30), 4)
    scheduler.run(timeline)
    return {
        "schedule": draw_schedule(timeline, "Five requests, one of them cancelled"),
        "books": draw_books({"before": before, "now": after}, "Books of two moments"),
        "heap": draw_heap(before.cache, decode=decode, caption="A heap"),
        "side-by-side": story.draw("A story, and a page that nobody holds"),
        "cut": draw_cut(f"{SYSTEM}Paris?", f"{SYSTEM}2+2?", (1, 4, 16)),
        "mask": draw_mask(mask, [8] * 4, "12 tokens, 8 of them cached"),
        "split": draw_split(node, 1, decode=decode, caption="A split"),
    }


def films() -> dict[str, Picture]:
    """Strips of moments, and one of their frames."""
    router = new_router(n_pages=18)
    film = Recorder(router, decode=decode)
    run(router, SYSTEM + "What is 2+2?")
    lease = admit(router, SYSTEM + "What is Paris?", room=8)
    router.cancel(router.fork(lease, 4))
    router.finish(lease)
    run(router, "Something quite different.")
    moments = [
        arena_moment("A, B and C", [*"AAAABBCCC"]),
        arena_moment("B ends", [*"AAAA", None, None, *"CCC"]),
    ]
    return {
        "film-strip": film_strip(film.frames, caption="The life of three requests"),
        "frame": film.frames[2].figure(film.frames),
        "moments": compose(moments, "One piece a request"),
    }


def widgets() -> dict[str, Picture]:
    """What stands above each widget."""
    shown = (
        TreeExplorer(),
        PageExplorer(),
        EvictionLab(),
        FleetLab(),
        RouterWalk(),
        SchedulerLab(),
        WorkloadLab(),
    )
    return {f"static-{type(widget).__name__}": widget.static() for widget in shown}


def charts() -> dict[str, Picture]:
    """Every kind of chart."""
    router, _ = two_requests()
    points = [(0, 1.3), (256, 1.0), (512, 0.7), (960, 0.13)]
    predicted = [(n, s * 0.9) for n, s in points]
    rates = {"lru": [(100, 0.1), (400, 0.6)], "mru": [(100, 0.2), (400, 0.5)]}
    rows = {"R1": {"computed": 41}, "R2": {"reused": 36, "computed": 7, "evicted": 8}}
    costs = {"places empty": [(1, 0), (16, 8), (128, 66)], "ids": [(1, 240), (128, 2)]}
    faults = {"one bit": 3e-7, "no mask": 4.0, "rounded": 2e-4}
    words = ["The", "lion", "sat", "and", "the", "lion", "ate"]
    turns = {pair: [p * 57.3 / (1 + 20 * pair) for p in range(8)] for pair in (0, 1)}
    angles = np.radians(np.array(list(turns.values())).T)
    keys = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
    weights = np.tri(7) / np.arange(1, 8)[:, None]
    same = np.arange(7) < 3 - np.minimum(np.arange(30), 1)[:, None]
    forks = {"few-shot": [[1, 2, 3, i] for i in range(4)], "alone": [[7, 7], [8, 8]]}
    return {
        "chart-cached-tree": draw_cached_tree([[0, 1, 2], [0, 1, 3]], {0, 1}, "A tree"),
        "chart-workload-trees": draw_workload_trees(forks),
        "chart-attention": draw_attention(weights, words, "Who looks at whom"),
        "chart-damage": draw_damage(faults, 1e-3),
        "chart-first-token": draw_time_to_first_token(points, predicted),
        "chart-hit-rate": draw_hit_rate(rates),
        "chart-page-sizes": draw_page_sizes(costs),
        "chart-pool": draw_pool_map(router),
        "chart-prediction": draw_prediction({"prefill": [(1, 1.1), (2, 1.9)]}, "s"),
        "chart-same": draw_same(same, words, "Two prompts, K/V the same or not"),
        "chart-sharing": draw_sharing(router, 46_080),
        "chart-tiles": draw_tiles(96, 160, (32, 64)),
        "chart-tokens": draw_tokens(rows),
        "chart-turned-key": draw_turned_key(keys, turns, "A key at 8 positions"),
    }


def page(made: dict[str, Picture]) -> str:
    """All pictures as HTML, on a light and a dark page, with drawing and alt text."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Gallery</title><style>"
        "body{font-family:sans-serif;margin:0}.light{background:#fff}.dark{background:#111}"
        ".light,.dark{padding:16px;flex:1;min-width:0}img{max-width:100%}pre{overflow:auto}"
        "section{display:flex}h2,pre,p{margin:16px}</style>"
    ]
    for name, picture in made.items():
        image = picture.svg if isinstance(picture, Figure) else _png(picture)
        parts.append(
            f"<h2>{name}</h2><section><div class=light>{image}</div><div class=dark>{image}</div>"
            f"</section><p>{html.escape(picture.alt)}</p><pre>{html.escape(picture.text)}</pre>"
        )
    return "\n".join(parts)


def _png(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return f'<img alt="{html.escape(picture.alt)}" src="data:image/png;base64,{data}">'


def renew(made: dict[str, Picture]) -> None:
    """Write the SVGs that the test compares with, and remove those that are no more."""
    COMMITTED.mkdir(exist_ok=True)
    for old in COMMITTED.glob("*.svg"):
        old.unlink()
    for name, picture in made.items():
        if isinstance(picture, Figure):
            (COMMITTED / f"{name}.svg").write_bytes(picture.svg.encode())


if __name__ == "__main__":
    everything = pictures()
    BUILT.mkdir(parents=True, exist_ok=True)
    for name, picture in everything.items():
        (BUILT / f"{name}.png").write_bytes(picture.png)
    (BUILT / "index.html").write_text(page(everything), encoding="utf-8")
    if "--renew" in sys.argv:
        renew(everything)
    print(f"{len(everything)} pictures: {(BUILT / 'index.html').relative_to(ROOT)}")

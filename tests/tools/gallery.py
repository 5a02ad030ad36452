"""One of each figure, from fixed states, for a maintainer to look at.

python tests/tools/gallery.py            writes build/gallery/index.html, light and dark
python tests/tools/gallery.py --renew    and the SVGs that test_gallery.py compares with
"""

from __future__ import annotations

import base64
import html
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.support.scenes

from radix_lib.router import Namespace
from radix_lib.teaching import EvictionLab, PageExplorer, RouterWalk, TreeExplorer
from radix_lib.teaching.figures.charts import (
    draw_hit_rate,
    draw_pool_map,
    draw_prediction,
    draw_sharing,
    draw_time_to_first_token,
    draw_timeline,
    draw_tokens,
)
from radix_lib.teaching.figures.course_map import chapter_map, course_map
from radix_lib.teaching.figures.cut_figure import draw_cut
from radix_lib.teaching.figures.figure import Figure, Picture
from radix_lib.teaching.figures.page_figure import draw_pages
from radix_lib.teaching.figures.scene import draw_scene
from radix_lib.teaching.figures.split_figure import draw_split
from radix_lib.teaching.figures.tree_figure import draw_tree
from radix_lib.teaching.films.film import film_strip
from radix_lib.teaching.films.recorder import Recorder
from tests.support.scenes import SYSTEM, admit, decode, new_router, run, two_requests

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "tests" / "teaching" / "gallery"
BUILT = ROOT / "build" / "gallery"


def pictures() -> dict[str, Picture]:
    """Every kind of figure and chart by name, always the same."""
    made: dict[str, Picture] = {
        "map-of-the-library": course_map(4),
        "map-of-the-chapters": chapter_map(),
        "tree-empty": draw_tree(new_router().cache),
    }
    router, lease = two_requests()
    made["tree-locked"] = draw_tree(
        router.cache, decode=decode, caption="Two requests, one runs"
    )
    made["scene"] = draw_scene(
        router, decode=decode, caption="Two requests that begin alike"
    )
    made["pages"] = draw_pages(router, decode=decode)
    made["chart-sharing"] = draw_sharing(router, 46_080)
    made["chart-pool"] = draw_pool_map(router)
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
    made["cut"] = draw_cut(f"{SYSTEM}Paris?", f"{SYSTEM}2+2?", (1, 4, 16))
    (node, *_) = router.cache.nodes()
    made["split"] = draw_split(node, 1, decode=decode, caption="A split")
    many = new_router(n_pages=200)
    for i in range(40):
        run(many, f"{SYSTEM}{i * i}{'+' * (i % 7)}{i}, what is it?")
    made["tree-folded"] = draw_tree(many.cache, decode=decode, limit=9)
    made["pages-many"] = draw_pages(many)

    filmed = new_router(n_pages=18)
    film = Recorder(filmed, decode=decode)
    run(filmed, SYSTEM + "What is 2+2?")
    lease = admit(filmed, SYSTEM + "What is Paris?", room=8)
    filmed.cancel(filmed.fork(lease, 4))
    filmed.finish(lease)
    run(filmed, "Something quite different.")
    made["film-strip"] = film_strip(film.frames, caption="The life of three requests")
    made["frame"] = film.frames[2].figure(film.frames)
    for widget in (TreeExplorer(), PageExplorer(), EvictionLab(), RouterWalk()):
        made[f"static-{type(widget).__name__}"] = widget.static()

    points = [(0, 1.3), (256, 1.0), (512, 0.7), (960, 0.13)]
    made["chart-first-token"] = draw_time_to_first_token(
        points, [(n, s * 0.9) for n, s in points]
    )
    rates = {"lru": [(100, 0.1), (400, 0.6)], "mru": [(100, 0.2), (400, 0.5)]}
    made["chart-hit-rate"] = draw_hit_rate(rates)
    made["chart-prediction"] = draw_prediction({"prefill": [(1, 1.1), (2, 1.9)]}, "s")
    made["chart-tokens"] = draw_tokens(
        {"R1": {"computed": 41}, "R2": {"reused": 36, "computed": 7, "evicted": 8}}
    )
    made["chart-timeline"] = draw_timeline(
        [{"R1": ("prefill", 16)}, {"R1": ("decode", 1), "R2": ("reused", 12)}]
    )
    return made


def page(made: dict[str, Picture]) -> str:
    """All pictures as HTML, each on a light and on a dark page, with its drawing and
    alt text.
    """
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

"""What is written from `assets/` into notebooks and README: tables, bars, references.

A Markdown cell tagged `generated:KIND` is written anew by `make refresh`; so are the
README's table of the chapters and what it says of speeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from tests.tools.benchmarks import rows as bench

ROOT = Path(__file__).resolve().parents[2]


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


# ── Cells ─────────────────────────────────────────────────────────────────────────────


def fill(notebook: NotebookNode, path: Path) -> NotebookNode:
    """A copy whose generated Markdown cells say what `assets/` and the folder say now.

    `generated:nav` is the bar at the end, `generated:contents` the table of the
    chapters, `generated:glossary` all terms, and `generated:references` the sources
    named by the cell's other tags, `cite:…`. `generated:bench-exact` and
    `generated:bench-workloads` quote what `make bench` measured.
    """
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        kind = next((tag for tag in tags(cell) if tag.startswith("generated:")), None)
        if kind is not None:
            cell.source = GENERATED[kind.removeprefix("generated:")](cell, path)
    return notebook


def _asset(name: str) -> Any:
    return json.loads((ROOT / "assets" / name).read_text(encoding="utf-8"))


def _nav(cell: NotebookNode, path: Path) -> str:
    if path.parent.name == "solutions":
        return f"[← Back to the chapter](../{path.name}#Exercises)"
    there = [
        c
        for c in _asset("chapters.json")
        if path.with_name(f"{c['file']}.ipynb").exists()
    ]
    names = [c["file"] for c in there]
    at = names.index(path.stem)
    links = [f"[{c['file'][:2]} {c['title']}]({c['file']}.ipynb)" for c in there]
    bar = [f"← {links[at - 1]}"] if at else []
    first = "00_start_here.ipynb" if at else ""
    bar += [f"[Contents]({first}#The-course)", f"[Glossary]({first}#Glossary)"]
    if (path.parent / "solutions" / path.name).exists():
        bar.append(f"[Solutions](solutions/{path.name})")
    return " · ".join([*bar, *(f"{link} →" for link in links[at + 1 : at + 2])])


def _contents(cell: NotebookNode, path: Path) -> str:
    rows = ["| chapter | you build | you find out |", "|---|---|---|"]
    for chapter in _asset("chapters.json"):
        title = f"{chapter['file'][:2]} {chapter['title']}"
        name = _linked(title, chapter, path.parent, "")
        builds = ", ".join(f"`{module}`" for module in chapter["builds"])
        rows.append(f"| {name} | {builds or 'nothing yet'} | {chapter['question']} |")
    return "\n".join(rows)


def _linked(name: str, chapter: dict[str, Any], folder: Path, where: str) -> str:
    """A chapter's name with a link to it, if it is in `folder`, and what it is."""
    file = f"{chapter['file']}.ipynb"
    notes = []
    if (folder / file).exists():
        name = f"[{name}]({where}{file})"
    else:
        notes.append("in preparation")
    if chapter.get("optional"):
        notes.append("optional")
    return f"{name} *({', '.join(notes)})*" if notes else name


def _glossary(cell: NotebookNode, path: Path) -> str:
    terms = sorted(_asset("glossary.json").items(), key=lambda item: item[0].lower())
    return "\n".join(
        ["| term | meaning |", "|---|---|", *(f"| **{t}** | {m} |" for t, m in terms)]
    )


def _references(cell: NotebookNode, path: Path) -> str:
    sources = _asset("references.json")
    keys = [tag.removeprefix("cite:") for tag in tags(cell) if tag.startswith("cite:")]
    return "\n".join(["## References", "", *(f"- {sources[key]}" for key in keys)])


# ── Speeds ────────────────────────────────────────────────────────────────────────────


READ_ROWS = (
    "Both sides took turns in one run. Times are medians; a ratio above 1 says that ours "
    "was faster, and how much that varied stands behind it. *Due* is what it was meant "
    "to be."
)


def cost_of_exactness(found: bench.Found) -> str:
    """One sentence: times in exact arithmetic ÷ those of Hugging Face's forward."""
    times = {
        row.what: 1 / row.ratio
        for row in found.rows
        if row.part == bench.EXACT and row.peer == bench.HUGGING_FACE and row.ratio
    }
    (prefill,) = (times[what] for what in times if "prefill" in what)
    steps = [times[what] for what in times if "decode" in what]
    return (
        "What exactness costs: where not one bit depends on the cache or on the batch, "
        f"a cold prefill takes {prefill:.2f} times as long as Hugging Face's ordinary "
        f"forward, and a decode step {min(steps):.2f} to {max(steps):.2f} times as long."
    )


def _bench_exact(cell: NotebookNode, path: Path) -> str:
    found = bench.read(bench.STORED)
    return "\n\n".join(
        [
            "## What exactness costs",
            "Exact arithmetic beside Hugging Face's *ordinary* forward on the same "
            f"inputs, as `make bench` measured it on {found.machine}. {READ_ROWS}",
            bench.table(row for row in found.rows if row.part == bench.EXACT),
            cost_of_exactness(found),
        ]
    )


def _bench_workloads(cell: NotebookNode, path: Path) -> str:
    found = bench.read(bench.STORED)
    shown = (bench.WORKLOADS, bench.SCHEDULER, bench.OVERHEAD, bench.CONTROL_PLANE)
    return "\n\n".join(
        [
            "## Beside other ways to answer",
            "Whole workloads through the scheduler beside what transformers offers, and "
            "a request's life in the control plane beside SGLang's own caches, as "
            f"`make bench` measured them on {found.machine}. {READ_ROWS}",
            bench.table(
                row for part in shown for row in found.rows if row.part == part
            ),
        ]
    )


GENERATED: dict[str, Callable[[NotebookNode, Path], str]] = {
    "nav": _nav,
    "contents": _contents,
    "glossary": _glossary,
    "references": _references,
    "bench-exact": _bench_exact,
    "bench-workloads": _bench_workloads,
}


# ── The README ────────────────────────────────────────────────────────────────────────

# What stands between these in the README is written from `assets/bench.json`.
BENCH_BEGINS = "<!-- make bench ARGS=--store measures this, make refresh writes it -->"
BENCH_ENDS = "<!-- the end of what is measured -->"


def chapters_table() -> str:
    """The README's table of the chapters."""
    rows = ["| chapter | builds | you leave with |", "|---|---|---|"]
    for chapter in _asset("chapters.json"):
        file, title = chapter["file"], chapter["title"]
        name = f"{file[:2]} {title[0].lower()}{title[1:]}"
        name = _linked(name, chapter, ROOT / "notebooks", "notebooks/")
        builds = ", ".join(f"`{module}`" for module in chapter["builds"])
        rows.append(f"| {name} | {builds or '–'} | {chapter['outcome']} |")
    return "\n".join(rows)


def with_tables(readme: str) -> str:
    """The README with its tables as `chapters.json` and `bench.json` have them now."""
    start = readme.index("| chapter |")
    end = readme.index("\n\n", start)
    readme = readme[:start] + chapters_table() + readme[end:]
    start = readme.index(BENCH_BEGINS) + len(BENCH_BEGINS)
    end = readme.index(BENCH_ENDS)
    report = bench_report(bench.read(bench.STORED))
    return f"{readme[:start]}\n\n{report}\n\n{readme[end:]}"


def bench_report(found: bench.Found) -> str:
    """What the README says of a benchmark: where, what exactness costs, all rows."""
    return "\n\n".join(
        [
            f"Measured on {found.machine}.",
            cost_of_exactness(found),
            bench.table(found.rows),
        ]
    )

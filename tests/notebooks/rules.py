"""The form of every notebook: what a reader, nbval and git rely on.

A rule is a generator of complaints about one notebook. `test_structure.py` holds each
rule against every notebook, `test_rules.py` against one that is broken on purpose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import nbformat
from nbformat import NotebookNode

from tests.support.course import ROOT
from tests.tools import generated, refresh

MAX_BYTES = 700_000
MAX_NOT_COMPARED = 3
MAX_NOT_COMPARED_WORKLOADS = 6  # chapter 09 is about times


class Book(NamedTuple):
    """A notebook, where it lies, and the files of the course in their order."""

    path: Path
    nb: NotebookNode
    raw: bytes
    chapters: list[Path]

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.nb.cells if cell.cell_type == "code"]

    @property
    def is_chapter(self) -> bool:
        return self.path in self.chapters


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def at(cell: NotebookNode) -> str:
    first = (cell.source.strip().splitlines() or ["(empty)"])[0]
    return f"{cell.cell_type} cell {first[:60]!r}"


Rule = Callable[[Book], Iterator[str]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


# ── The file ──────────────────────────────────────────────────────────────────────────


@rule
def is_valid(book: Book) -> Iterator[str]:
    try:
        nbformat.validate(json.loads(book.raw))
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"


@rule
def is_in_normal_form(book: Book) -> Iterator[str]:
    """No times, versions, widget state or addresses: what refresh.py would write."""
    normal = refresh.to_bytes(refresh.normalise(refresh.parse(book.raw.decode())))
    if normal != book.raw:
        pairs = zip(normal.splitlines(), book.raw.splitlines(), strict=False)
        line, (want, have) = next(
            ((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]),
            (0, (b"(the end)", b"(another end)")),
        )
        yield f"not in normal form (make refresh): line {line} is {have!r}, not {want!r}"


@rule
def is_small(book: Book) -> Iterator[str]:
    if len(book.raw) >= MAX_BYTES:
        yield f"{len(book.raw):,} bytes; {MAX_BYTES:,} are too many"


@rule
def has_no_machine_path(book: Book) -> Iterator[str]:
    place = re.compile(
        r"(?<![\w.])(?:/(?:home|root|Users|work|tmp)/|[A-Z]:\\)[^\s\"'<]*"
    )
    for cell in book.nb.cells:
        texts = [cell.source] + [
            text for o in cell.get("outputs", []) for text in _texts(o)
        ]
        for text in texts:
            for found in place.findall(text):
                yield f"{at(cell)}: path of a machine: {found}"


def _texts(output: NotebookNode) -> Iterator[str]:
    yield output.get("text", "")
    yield output.get("evalue", "")
    yield from output.get("traceback", [])
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/") or kind == "image/svg+xml":
            yield value if isinstance(value, str) else json.dumps(value)


# ── The outputs ───────────────────────────────────────────────────────────────────────


@rule
def was_run_in_order(book: Book) -> Iterator[str]:
    """nbval compares nothing in a cell without a count."""
    run = [cell for cell in book.code if cell.source.strip()]
    for n, cell in enumerate(run, 1):
        if cell.execution_count != n:
            yield f"{at(cell)}: execution count {cell.execution_count}, not {n}"
    if not run:
        yield "no code cell"


@rule
def outputs_are_clean(book: Book) -> Iterator[str]:
    for cell in book.code:
        errors = [o for o in cell.outputs if o.output_type == "error"]
        if errors and "raises-exception" not in tags(cell):
            yield f"{at(cell)}: error {errors[0].ename} without the tag raises-exception"
        if not errors and "raises-exception" in tags(cell):
            yield f"{at(cell)}: tagged raises-exception, yet raises nothing"
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"{at(cell)}: stderr {output.text[:60]!r}"
            for kind in output.get("data", {}):
                if "widget" in kind:
                    yield f"{at(cell)}: a widget's view or state"


@rule
def nearly_every_cell_is_compared(book: Book) -> Iterator[str]:
    limit = (
        MAX_NOT_COMPARED_WORKLOADS
        if book.path.name.startswith("09")
        else MAX_NOT_COMPARED
    )
    loose = [
        c
        for c in book.code
        if "nbval-ignore-output" in tags(c) and "widget" not in tags(c)
    ]
    if len(loose) > limit:
        yield f"{len(loose)} cells are not compared; {limit} may be"
    for cell in book.code:
        if "nbval-skip" in tags(cell) or re.search(
            r"^\s*#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source, re.MULTILINE
        ):
            yield f"{at(cell)}: only the tag nbval-ignore-output may exempt a cell"


@rule
def figures_show_everywhere(book: Book) -> Iterator[str]:
    """A drawing as SVG, PNG and text; a chart as PNG and text. Both told in words."""
    for cell in book.code:
        for output in cell.outputs:
            data = output.get("data", {})
            if not {"image/png", "image/svg+xml"} & data.keys():
                continue
            if "image/png" not in data:
                yield f"{at(cell)}: figure without image/png, all that an untrusted notebook shows"
            text = data.get("text/plain", "").strip()
            if not text or re.fullmatch(r"<.*>", text, re.DOTALL):
                yield f"{at(cell)}: figure without a text/plain that says something"
            if not _alt(output.get("metadata", {})):
                yield f"{at(cell)}: figure without alt text in the output's metadata"


def _alt(metadata: dict[str, Any]) -> str:
    holders = [metadata, *(m for m in metadata.values() if isinstance(m, dict))]
    return next((str(m["alt"]).strip() for m in holders if m.get("alt")), "")


# ── The words ─────────────────────────────────────────────────────────────────────────


def unfenced(markdown: str) -> str:
    """The text without blocks of code, where `#` and `[x](y)` mean something else."""
    return re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.DOTALL | re.MULTILINE)


def headings(markdown: str) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    found = re.findall(
        r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", unfenced(markdown), re.MULTILINE
    )
    return [(len(marks), text) for marks, text in found]


def _markdown(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "markdown"]


@rule
def headings_are_in_order(book: Book) -> Iterator[str]:
    cells = _markdown(book.nb)
    if not cells or book.nb.cells[0] is not cells[0]:
        yield "the first cell is not the title"
    levels = [
        (level, text, n)
        for n, c in enumerate(cells)
        for level, text in headings(c.source)
    ]
    titles = [(text, n) for level, text, n in levels if level == 1]
    if [n for _, n in titles] != [0]:
        yield f"there should be one H1, in the first cell; found {titles}"
    before = 0
    for level, text, _ in levels:
        if level > before + 1:
            yield f"heading {text!r} jumps from level {before} to {level}"
        before = level


LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\s*<?([^\s)>]*)>?(?:\s+[\"'][^)]*)?\)"
)


def links(markdown: str) -> list[tuple[bool, str, str]]:
    """Is it an image, its text, its target; Markdown and HTML alike."""
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "code", unfenced(markdown))
    found = [(mark == "!", label, target) for mark, label, target in LINK.findall(text)]
    for label in [label for _, label, _ in found]:  # an image inside a link
        found += [
            (mark == "!", inner, target) for mark, inner, target in LINK.findall(label)
        ]
    for tag in re.findall(r"<(?:a|img)\b[^>]*>", text):
        of = dict(re.findall(r"(\w+)=[\"']([^\"']*)[\"']", tag))
        if target := of.get("href") or of.get("src"):
            found.append((tag.startswith("<img"), of.get("alt", ""), target))
    return found


def anchors(path: Path) -> set[str]:
    """What `#…` may name: ids, and headings as JupyterLab or GitHub spells them."""
    if path.suffix == ".ipynb":
        nb = nbformat.read(path, as_version=4)
        sources = [cell.source for cell in _markdown(nb)]
    else:
        sources = [path.read_text(encoding="utf-8")]
    found = set()
    for source in sources:
        found |= set(re.findall(r"<\w+[^>]*\b(?:id|name)=[\"']([^\"']+)[\"']", source))
        for _, text in headings(source):
            plain = re.sub(r"`|\*\*?|\[([^\]]*)\]\([^)]*\)", r"\1", text)
            if path.suffix == ".ipynb":
                found.add(plain.replace(" ", "-"))
            else:
                found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def is_remote(target: str) -> bool:
    return bool(re.match(r"[a-z][a-z0-9+.-]*:", target))


@rule
def links_resolve(book: Book) -> Iterator[str]:
    for cell in _markdown(book.nb):
        for complaint in broken_links(cell.source, book.path):
            yield f"{at(cell)}: {complaint}"


def broken_links(markdown: str, path: Path) -> Iterator[str]:
    for is_image, text, target in links(markdown):
        if is_image and not text.strip():
            yield f"image {target[:60]} without alt text"
        if is_remote(target):
            continue
        name, _, anchor = unquote(target).partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            yield f"link to {target}, which does not exist"
        elif path.is_relative_to(ROOT) and not there.is_relative_to(ROOT):
            yield f"link to {target} leads out of the repository"
        elif (
            there.suffix in (".ipynb", ".md")
            and anchor
            and anchor not in anchors(there)
        ):
            yield f"link to {target}: no such heading or id"


@rule
def ends_with_the_way_on(book: Book) -> Iterator[str]:
    """Previous / contents / next, in the last Markdown cell of a chapter."""
    if not book.is_chapter:
        return
    bar = _markdown(book.nb)[-1]
    n = book.chapters.index(book.path)
    found = [unquote(target).partition("#")[0] for _, _, target in links(bar.source)]
    targets = {name or book.path.name for name in found}
    for what, chapter in (("previous", n - 1), ("next", n + 1)):
        if (
            0 <= chapter < len(book.chapters)
            and book.chapters[chapter].name not in targets
        ):
            yield f"no link to the {what} chapter, {book.chapters[chapter].name}, in the last cell"
    if "contents" not in bar.source.lower():
        yield "no link to the contents in the last cell"


@rule
def generated_parts_are_current(book: Book) -> Iterator[str]:
    """The bars, contents, glossary and references: what refresh.py would write."""
    kinds = {
        tag
        for cell in book.nb.cells
        for tag in tags(cell)
        if tag.startswith("generated:")
    }
    if book.path.is_relative_to(ROOT):
        due = {"generated:nav"} | (
            {"generated:references"} if book.is_chapter else set()
        )
        yield from (f"no cell is tagged {kind}" for kind in sorted(due - kinds))
    for cell, now in zip(
        book.nb.cells, generated.fill(book.nb, book.path).cells, strict=True
    ):
        if cell.source != now.source:
            yield f"{at(cell)}: out of date, run make refresh"

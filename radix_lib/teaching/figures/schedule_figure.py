"""The timeline of a batch: a row a request, a column a step, in bands."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import count
from radix_lib.teaching.figures.schedule_timeline import (
    Mark,
    Moment,
    Timeline,
    folded,
)

CELL, HEIGHT = 36, 20  # px of what a step did with a request
PITCH, ROW = CELL + 2, HEIGHT + 3
NAMES = 66  # px: the names of the rows
IN_A_BAND = (theme.WIDTH - 2 * MARGIN - NAMES) // PITCH
MOST = 3 * IN_A_BAND  # columns

#: What may become of a request in a step, and the state whose look it has.
LOOKS = {
    "prefilled": "new",
    "decoded": "idle",
    "holds": "locked",
    "waits": "free",
    "retracted": "evicted",
    "cancelled": "evicted",
    "failed": "evicted",
}
WORDS = {
    "new": "prefilled",
    "hit": "reused",
    "idle": "decoded",
    "locked": "holds pages, computes nothing",
    "free": "waits",
}


def draw_schedule(
    timeline: Timeline,
    caption: str = "What each step did",
    *,
    first: int = 1,
    last: int | None = None,
) -> Figure:
    """The steps of a scheduler, from number `first` to `last`: what each request got.

    Below them: how many tokens each step computed, and how many pages had room when it
    was over. Steps that are alike are told as one; of very many, the first are shown.
    """
    shown = [
        moment
        for moment in timeline.moments
        if first <= moment.first and (last is None or moment.last <= last)
    ]
    columns = folded(shown)
    n_left = sum(moment.n_steps for moment in columns[MOST:])
    columns = columns[:MOST]
    counters = "A thick edge ends an answer."
    if n_left:
        counters += f" {count(n_left, 'step')} more."
    return compose([_part(columns)], caption, counters)


def _part(columns: Sequence[Moment]) -> Part:
    numbers = sorted({number for moment in columns for number in moment.marks})
    bands = [
        columns[start : start + IN_A_BAND]
        for start in range(0, len(columns), IN_A_BAND)
    ]
    heights = [_height(_rows(band, numbers)) for band in bands]
    marks = [mark for moment in columns for mark in moment.marks.values()]
    states = {LOOKS[mark.what] for mark in marks}
    if any(mark.n_reused for mark in marks):
        states.add("hit")
    gone = sorted({mark.what for mark in marks if LOOKS[mark.what] == "evicted"})

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for band, height in zip(bands, heights, strict=True):
            _paint_band(canvas, x, y, band, _rows(band, numbers))
            y += height

    return Part(
        "schedule",
        NAMES + max((len(band) for band in bands), default=0) * PITCH,
        sum(heights),
        paint,
        states,
        [line for band in bands for line in _drawn(band, _rows(band, numbers))],
        _words(columns, numbers),
        WORDS | {"evicted": " or ".join(gone)},
    )


def _rows(band: Sequence[Moment], numbers: Sequence[int]) -> list[int]:
    """The requests of which this band has something to tell."""
    return [n for n in numbers if any(n in moment.marks for moment in band)]


def _height(rows: Sequence[int]) -> float:
    return 16 + ROW * len(rows) + 44


def _name(number: int) -> str:
    return f"R{number + 1}"


def _steps(moment: Moment) -> str:
    if moment.n_steps == 1:
        return f"{moment.first}"
    return f"{moment.first}–{moment.last}"


def _text(mark: Mark) -> str:
    """A mark in a few letters."""
    reused = f"={mark.n_reused}" if mark.n_reused else ""
    if mark.what == "prefilled":
        return f"{reused}+{mark.n_tokens}"
    if mark.what == "decoded":
        return f"{mark.n_tokens}"
    return theme.STATES[LOOKS[mark.what]].mark


def _paint_band(
    canvas: Canvas, x: float, y: float, band: Sequence[Moment], rows: Sequence[int]
) -> None:
    grey = {"size": 9, "color": theme.MUTED}
    bottom = y + 16 + ROW * len(rows)
    canvas.write(x, y, NAMES, "step", **grey)  # type: ignore[arg-type]
    canvas.write(x, bottom + 3, NAMES, "tokens", **grey)  # type: ignore[arg-type]
    canvas.write(x, bottom + 17, NAMES, "room, pages", **grey)  # type: ignore[arg-type]
    for i, number in enumerate(rows):
        canvas.write(x, y + 19 + ROW * i, NAMES, _name(number), bold=True)
    for column, moment in enumerate(band):
        left = x + NAMES + column * PITCH
        told = {
            y: _steps(moment),
            bottom + 3: f"{moment.n_tokens}",
            bottom + 17: f"{moment.n_room}",
        }
        for place, text in told.items():
            canvas.write(left, place, CELL, text, size=9, align="center")
    for i, number in enumerate(rows):
        marks = [moment.marks.get(number) for moment in band]
        _paint_row(canvas, x + NAMES, y + 16 + ROW * i, marks)


def _paint_row(
    canvas: Canvas, x: float, y: float, marks: Sequence[Mark | None]
) -> None:
    """What became of one request; steps in which it only waits or holds are one box."""
    column = 0
    for what, run in groupby(marks, lambda mark: mark and mark.what):
        group = list(run)
        left = x + column * PITCH
        column += len(group)
        if what in ("waits", "holds"):
            look = theme.STATES[LOOKS[what]]
            width = len(group) * PITCH - 2
            canvas.box(left, y, width, HEIGHT, look.fill, border=look.border)
            continue
        for i, mark in enumerate(group):
            if mark is not None:
                _paint_mark(canvas, left + i * PITCH, y, mark)


def _paint_mark(canvas: Canvas, x: float, y: float, mark: Mark) -> None:
    look = theme.STATES[LOOKS[mark.what]]
    fill = look.fill
    level = 1.0
    if mark.n_reused:
        fill = theme.STATES["hit"].fill
        level = mark.n_reused / (mark.n_reused + mark.n_tokens)
    canvas.box(
        x, y, CELL, HEIGHT, fill, border=look.border, level=level, rest=look.fill
    )
    if mark.ends:
        canvas.line((x + CELL, y), (x + CELL, y + HEIGHT), width=3)
    text = _text(mark)
    size = 10 if len(text) < 6 else 7.5
    if text != "1":  # an answer's token, as most of them are
        canvas.write(x, y + 10 - size * 0.6, CELL, text, size=size, align="center")


def _drawn(band: Sequence[Moment], rows: Sequence[int]) -> list[str]:
    """A band drawn with characters; `]` ends an answer, `.` waits, `o` only holds."""
    letters = {"waits": ".", "holds": "o"}

    def cell(moment: Moment, number: int) -> str:
        mark = moment.marks.get(number)
        if mark is None:
            return ""
        return letters.get(mark.what, _text(mark)) + ("]" if mark.ends else "")

    table = [["step", *map(_steps, band)]]
    for number in rows:
        table.append([_name(number), *(cell(moment, number) for moment in band)])
    table.append(["tokens", *(f"{moment.n_tokens}" for moment in band)])
    table.append(["room", *(f"{moment.n_room}" for moment in band)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    return [*lines, ""]


def _words(columns: Sequence[Moment], numbers: Sequence[int]) -> str:
    """What became of each request, for who does not see it."""
    told = []
    for number in numbers:
        # What is the same in steps that follow one another, as one.
        runs: list[tuple[Moment, Mark]] = []
        for moment in columns:
            mark = moment.marks.get(number)
            if mark is None:
                continue
            mark = mark._replace(n_tokens=mark.n_tokens // moment.n_steps)
            if runs and runs[-1][1] == mark:
                moment = runs.pop()[0]._replace(last=moment.last)
            runs.append((moment, mark))
        parts = [f"step {_steps(run)}: {_said(mark, run)}" for run, mark in runs]
        told.append(f"{_name(number)}, {'; '.join(parts)}.")
    return " ".join(told)


def _said(mark: Mark, run: Moment) -> str:
    reused = f"reused {mark.n_reused}, " if mark.n_reused else ""
    n_tokens = f" {mark.n_tokens}" if mark.n_tokens else ""
    each = " each" if mark.n_tokens and run.n_steps > 1 else ""
    ends = ", which ends its answer" if mark.ends else ""
    return f"{reused}{mark.what}{n_tokens}{each}{ends}"
